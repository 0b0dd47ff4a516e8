"""Attention by itself, and pictures a second when requests share forwards."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine_build.bench import floors
from engine_build.bench.allowance import NO_TIME, over
from engine_build.bench.pictures import free, reason_of, request_of, tokens_of, wait
from engine_build.bench.plan import BenchPlan, attention_kernels
from engine_build.bench.rows import AttentionRow, PackedRow, percentiles
from engine_build.bench.subjects import Weights
from engine_build.engine import TryOnRequest
from engine_build.errors import BackendError
from engine_build.runtime.loading import pick_kernels
from kernels import Segments

_log = logging.getLogger(__name__)


def attention(plan: BenchPlan, weights: Weights, ends: float = math.inf) -> list[AttentionRow]:
    """Every kind of attention kernels on one sequence, against torch's own."""
    heads, size = weights.shape.num_attention_heads, weights.shape.attention_head_dim
    few, many = min(plan.garments), max(plan.garments)
    counts = sorted({tokens_of(plan, weights, s, g) for s in plan.sizes for g in (few, many)})
    rows = []
    for tokens, name in itertools.product(counts, attention_kernels(plan.fast)):
        if over(ends):
            break
        try:
            kernels = pick_kernels(name)
        except BackendError as error:
            _log.warning("attention of %s: %s", name, reason_of(error))
            continue
        shape = (tokens, heads, size)
        q, k, v = (torch.randn(shape, device=weights.device, dtype=weights.dtype) for _ in range(3))
        segments = Segments((tokens,))
        batched = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
        ours = _median(plan, weights, partial(kernels.attention, q, k, v, segments))
        name_of_sdpa, with_sdpa = _sdpa_of(batched)
        sdpa = _median(plan, weights, partial(with_sdpa, batched))
        work = 4.0 * tokens * tokens * heads * size
        floor = work / floors.H200.attention
        rows.append(
            AttentionRow(
                tokens, kernels.name, ours * 1e3, work / ours / 1e12, name_of_sdpa, sdpa * 1e3, work / sdpa / 1e12,
                floor * 1e3, ours / floor if weights.device.type == "cuda" else None,
            )
        )  # fmt: skip
    return rows


def _sdpa_of(batched: Sequence[Tensor]) -> tuple[str, Callable[[Sequence[Tensor]], Tensor]]:
    """torch's attention and its name: cuDNN's, where that is not to be had FlashAttention, on a CPU torch's choice."""
    if batched[0].device.type != "cuda":
        return "torch", _sdpa

    def by(backend: SDPBackend, given: Sequence[Tensor]) -> Tensor:
        with sdpa_kernel(backend):
            return _sdpa(given)

    with_cudnn = partial(by, SDPBackend.CUDNN_ATTENTION)
    try:
        with_cudnn(batched)
    except RuntimeError as error:
        _log.warning("attention of cuDNN: %s", reason_of(error))
        return "FlashAttention", partial(by, SDPBackend.FLASH_ATTENTION)
    return "cuDNN", with_cudnn


def _sdpa(given: Sequence[Tensor]) -> Tensor:
    q, k, v = given
    return F.scaled_dot_product_attention(q, k, v)


def packing(plan: BenchPlan, weights: Weights, ends: float = math.inf) -> list[PackedRow]:
    """Pictures a second of the fastest exact mode with garments that are known already."""
    name, rows = f"{plan.fast} + cached references", []
    try:
        engine = weights.engine("isolated", plan.fast, fp8=False, cached=True)
    except Exception as error:
        return [PackedRow(name, 0, 0, 0, f"skipped: {reason_of(error)}")]
    for size, n in itertools.product(plan.packed_sizes, plan.packed):
        row = PackedRow(name, *size, n)
        rows.append(row)
        if over(ends):
            row.status = NO_TIME
            continue
        requests = [request_of(plan, size, 1, fresh=False) for _ in range(n)]

        def together(requests: list[TryOnRequest] = requests) -> None:
            for outcome in engine.run(requests):
                if outcome.error is not None:
                    raise outcome.error

        try:
            row.images_per_second = n / _median(plan, weights, together)
        except Exception as error:
            row.status = f"failed: {reason_of(error)}"
            _log.warning("packing %d: %s", n, row.status)
            free(weights.device)
    return rows


def _median(plan: BenchPlan, weights: Weights, work: Callable[[], object]) -> float:
    taken = []
    with torch.inference_mode():
        for _ in range(plan.warmups + plan.repeats):
            wait(weights.device)
            started = time.perf_counter()
            work()
            wait(weights.device)
            taken.append(time.perf_counter() - started)
    return percentiles(taken[plan.warmups :])[1] / 1e3
