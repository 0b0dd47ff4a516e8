"""One set of versions: what `make setup` installs lies within pyproject's ranges, and the images are locked to it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "constraints.txt").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
ONLY_CUDA = re.compile(r"nvidia-|cuda-")
NOT_HERE = {"changeroom", "tensorrt"}
"""Ourselves, and what no machine without NVIDIA's index can install: pip takes any version of it within the range."""


def pins() -> dict[str, Requirement]:
    """By canonical name."""
    lines = [Requirement(line) for line in TEXT.splitlines() if line and not line.startswith("#")]
    found = {canonicalize_name(line.name): line for line in lines}
    assert len(found) == len(lines)
    return found


def version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    return Version(specifier.version)


def test_every_line_is_one_version_for_every_platform() -> None:
    """No local version either: `==2.13.0` is met by torch's CPU build and by its CUDA builds."""
    for name, pin in pins().items():
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, name
        assert version(pin).local is None and not pin.extras and pin.url is None, name
        assert not ONLY_CUDA.match(name), name
    assert "://" not in TEXT and "--" not in TEXT


def test_constraints_satisfy_every_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for some in project["optional-dependencies"].values() for line in some)]
    wanted += (ROOT / "deploy" / "requirements" / "build.in").read_text().splitlines()
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name not in NOT_HERE:
            assert requirement.specifier.contains(version(pins()[name])), requirement


@pytest.mark.parametrize("lock", ["cpu.txt", "cuda.txt"])
def test_the_images_are_locked_to_the_constraints(lock: str) -> None:
    text = (ROOT / "deploy" / "requirements" / lock).read_text()
    locked = dict(re.findall(r"(?m)^([a-z0-9-]+)(?:\[[^\]]*\])?==(\S+)", text))
    assert len(locked) > 50
    for name, its in locked.items():
        if not ONLY_CUDA.match(name):
            assert Version(its) == version(pins()[name]), name


def test_whatever_make_installs_it_installs_with_the_constraints() -> None:
    installs = re.findall(r"\$\((?:PIP|INSTALL)\)[^\n|&]*", MAKEFILE)
    assert len(installs) > 4
    for command in installs:
        alone = "--no-deps" in command and '"$(TORCH)"' in command
        assert alone or command.startswith("$(INSTALL)") or "-c constraints.txt" in command, command
    assert "TORCH := $(shell sed -n '/^torch==/p' constraints.txt)" in MAKEFILE
    assert "$(VENV)/.stamp: pyproject.toml constraints.txt\n" in MAKEFILE
