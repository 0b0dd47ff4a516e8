"""Processor seconds are found for every process below the one that was started, under the name of its part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench.processor_time import OTHER, by_part

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\ninput()"
PARENT = """
import subprocess, sys
words = [sys.executable, "-c", sys.argv[1]]
parts = [subprocess.Popen(words + mark.split(), stdin=0, stdout=1) for mark in sys.argv[2:]]
[part.wait() for part in parts]
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time is read from /proc")
def test_processes_below_are_counted_by_what_they_run() -> None:
    marks = ("service.pictures.pool", "service.pictures.pool", "service.cli worker")
    words = [sys.executable, "-c", PARENT, BURN, *marks]
    parent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        for _ in marks:
            assert parent.stdout.readline() == b"burnt\n"
        spent = by_part(parent.pid)
    finally:
        parent.communicate(b"\n" * len(marks), timeout=60)
    assert set(spent) <= {"decoders", "worker", OTHER}
    assert spent["decoders"] >= 0.55 and spent["worker"] >= 0.25
