"""Processor seconds by part of a running service: what a machine's other work cannot inflate as it does wall time.

Linux only: read from `/proc/<pid>/stat` (proc(5)) of every process below the one that was started.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

PARTS = (
    ("service.pictures.pool", "decoders"),
    ("service.cli gateway", "gateway"),
    ("service.cli worker", "worker"),
    ("valkey", "store"),
)
OTHER = "supervisor"
_TICKS = os.sysconf("SC_CLK_TCK")


def by_part(root: int) -> dict[str, float]:
    """Processor seconds, user and system, since each living process at or below `root` began, summed by part."""
    children: dict[int, list[int]] = defaultdict(list)
    spent: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[int(fields[1])].append(int(folder.name))
        spent[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    found: dict[str, float] = defaultdict(float)
    below = [root]
    while below:
        pid = below.pop()
        below += children[pid]
        found[_part(pid)] += spent.get(pid, 0.0)
    return dict(found)


def since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """What each part has spent between two readings of `by_part`; parts that spent nothing are left out."""
    spent = {part: seconds - before.get(part, 0.0) for part, seconds in now.items()}
    return {part: seconds for part, seconds in spent.items() if seconds > 0}


def _part(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return OTHER
    return next((part for mark, part in PARTS if mark in words), OTHER)
