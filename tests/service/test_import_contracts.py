"""The import contracts that list modules by hand list all of them."""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path

import service

ROOT = Path(__file__).parents[2]


def test_every_part_of_the_service_but_worker_and_commands_is_held_off_the_engine() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = table["tool"]["importlinter"]["contracts"]
    (listed,) = (c["source_modules"] for c in contracts if c.get("forbidden_modules") == ["engine_build"])
    parts = {f"service.{module.name}" for module in pkgutil.iter_modules(service.__path__)}
    assert set(listed) == parts - {"service.worker", "service.commands"}
