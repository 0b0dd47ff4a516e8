"""Whether bfloat16 pays on this processor: measured once a run, in five seconds at most.

GPUs that train have it. Of CPUs those with avx512_bf16 or amx_bf16 are two to three times faster by it, others slower,
and flags do not tell which library uses them. What was found is written beside the run and read when it goes on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median

import torch

LONGEST_S = 5.0
FEWEST = 9
"""Pairs of timings before a clear difference ends the measurement."""
CLEAR = 1.3
ROWS, WIDTH, INNER = 736, 192, 1728
"""A linear layer of nano's: tokens of one scene, width, and what a single-stream block makes of it."""


def bf16_pays(device: torch.device, out: Path) -> bool:
    """Whether autocast to bfloat16 makes a step faster; `out` is the run's folder."""
    if device.type != "cpu":
        return True
    path = out / "precision.json"
    if path.exists():
        return bool(json.loads(path.read_text(encoding="utf-8"))["bf16"])
    whole, half = seconds_of_a_layer()
    out.mkdir(parents=True, exist_ok=True)
    figures = {"bf16": half < whole, "float32_ms": round(1e3 * whole, 3), "bfloat16_ms": round(1e3 * half, 3)}
    path.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return half < whole


def seconds_of_a_layer(longest: float = LONGEST_S) -> tuple[float, float]:
    """Median seconds of a linear layer forward and backward in float32 and in bfloat16, timed in turns."""
    layer = torch.nn.Linear(WIDTH, INNER, bias=False)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    taken: dict[bool, list[float]] = {False: [], True: []}
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        for bf16, times in taken.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                layer(x).sum().backward()
            times.append(time.perf_counter() - began)
        # The first of each pays for caches and packed weights.
        if len(taken[True]) > FEWEST:
            whole, half = (median(times[1:]) for times in taken.values())
            if max(whole, half) > CLEAR * min(whole, half):
                break
    whole, half = (median(times[1:] or times) for times in taken.values())
    return whole, half
