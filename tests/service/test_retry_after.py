"""When to come again is said in one place, in whole seconds, at least one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import service
from service.errors import QueueFull
from service.retry_after import SHORTLY, SOON, whole_seconds

ROOT = Path(service.__file__).parent
SAMPLES = "error_samples.py"  # examples for the documents, sent to nobody


@pytest.mark.parametrize(("seconds", "said"), [(0, 1), (0.2, 1), (1, 1), (1.01, 2), (59.5, 60)])
def test_seconds_are_whole_and_at_least_one(seconds: float, said: int) -> None:
    assert whole_seconds(seconds) == said
    assert QueueFull("full", retry_after=seconds).retry_after == said


def test_no_other_file_makes_up_a_time_to_come_again() -> None:
    made_up = [
        f"{path.relative_to(ROOT)}:{node.value.lineno}"
        for path in ROOT.rglob("*.py")
        if path.name != SAMPLES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "retry_after" and isinstance(node.value, ast.Constant)
        if node.value.value is not None
    ]
    assert made_up == []
    assert 1 == SOON < SHORTLY
