"""A real engine whose device lacks memory for one try-on: that job fails with its own code, the worker goes on."""

from __future__ import annotations

import torch
from step_engine import ended, working

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import ReferenceKV
from engine_build.runtime.cuda_graphs import Eager, Step
from engine_build.runtime.torch_engine import EngineOptions, load


class Narrow:
    """Steps on a device that cannot hold a picture of so many tokens: its allocator raises what CUDA's does."""

    def __init__(self, model: MMDiT, tokens: int) -> None:
        self.eager, self.tokens, self.refused = Eager(model), tokens, 0

    def prepare(self, batch: PackedBatch, kv: ReferenceKV | None) -> Step:
        if self.tokens in batch.target_segments.lengths:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.eager.prepare(batch, kv)


async def test_a_try_on_that_does_not_fit_fails_alone_and_the_worker_goes_on(settings, queue, submit):
    engine = load("nano", device="cpu", options=EngineOptions(previews=False))
    engine.pipeline.stepper = narrow = Narrow(engine.pipeline.model, 80 * 64 // 64)
    async with working(settings, engine) as worker:
        jobs = [await submit(size=size) for size in ((48, 64), (64, 80), (48, 64))]
        first, large, last = [await ended(queue, job, 60) for job in jobs]
        assert (large.status, large.error.code, large.error.retryable, large.attempts) == (
            "failed", "out-of-memory", False, 1,
        )  # fmt: skip
        assert [first.status, last.status] == ["succeeded"] * 2
        assert narrow.refused >= 2  # beside the others or first, and once more with the device to itself
        after = await ended(queue, await submit(size=(48, 64)), 60)
        assert after.status == "succeeded"
        assert not worker.finished.done()
