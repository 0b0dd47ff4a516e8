"""Links, `make` targets, commands and files that the documents name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from service.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "BENCHMARKS.md")]
DOCUMENTS += sorted((ROOT / "deploy").rglob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
TOP = "service|kernels|engine_build|deploy|loadtests|tests|docs"

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(document: Path) -> set[str]:
    """The anchors GitHub gives to the headings of a document."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+?) *$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", name):
            assert name.startswith("https://"), target
            continue
        there = document.parent / name if name else document
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@every_document
def test_every_make_target_and_command_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)(?:[A-Z_]+=\S+ )*make ([a-z][\w-]*)", text, flags=re.MULTILINE)) <= targets
    commands = set(getattr(get_command(app), "commands", ()))
    assert set(re.findall(r"(?:`|^)changeroom ([a-z]+)", text, flags=re.MULTILINE)) <= commands


@every_document
def test_every_file_that_is_named_exists(document: Path) -> None:
    places = (ROOT, ROOT / "deploy" / "kubernetes")
    for name in re.findall(rf"`((?:{TOP}|overlays|components|base)/[\w./-]*\w)[`:]", document.read_text()):
        assert any((place / name).exists() for place in places), name


def test_the_documents_name_targets_files_and_links() -> None:
    """That the patterns above find what they are for."""
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"`make [a-z]", text)) >= 5 and len(re.findall(r"\]\(", text)) >= 5
    assert "run-it" in anchors(ROOT / "README.md")
