"""Freed blocks of a photo's size are used again without the system's help."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import resource, sys
from service.heap import keep_freed

MIB = 1 << 20
if sys.argv[1] == "kept":
    assert keep_freed(64 * MIB, 8 * MIB)

def photos():
    blocks = [bytes([1]) * (1 << 20) for _ in range(6)]
    del blocks

photos()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    photos()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    words = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone can be told")
def test_memory_of_one_request_serves_the_next() -> None:
    kept, given_back = page_faults("kept"), page_faults("default")
    assert kept < 200 < given_back
