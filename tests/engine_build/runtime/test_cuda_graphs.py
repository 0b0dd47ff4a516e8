"""Steps by bucket: filled up, replayed over other lengths, kept within a bound, and eager where there is no graph.

Only the recording is stood in for: `Recorder` replays a step by running it again, on the tensors it was
recorded with, and insists that they have not moved, which is what a CUDA graph would silently get wrong.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lora_files import four
from packed_requests import MIXES, build, request
from torch import Tensor

from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.adapters import Mixture, PageLayout
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch, Sequence, pack
from engine_build.model.reference_kv import ReferenceKV
from engine_build.runtime.cuda_graphs import Bucket, Captured, Eager, GraphSteps, filled

MIX = MIXES["different"]
OTHER = [
    request(7, 3, (2, 9), (5, 2)),
    request(8, 11, (1, 1), (2, 2), (1, 3)),
    request(9, 4, (6, 6)),
    request(6, 1, (2, 2)),
]


class Recorder:
    """In the place of `capture_cuda`."""

    def __init__(self, size: int = 1 << 20, fails: int = 0) -> None:
        self.size, self.fails = size, fails
        self.recorded = 0
        self.replayed = 0

    def __call__(self, step: Callable[[], Tensor]) -> Captured:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        output = step().clone()

        def replay() -> None:
            self.replayed += 1
            output.copy_(step())

        return Captured(replay, output, self.size)


def encoded(model: MMDiT, sequences: list[Sequence]) -> tuple[PackedBatch, ReferenceKV | None]:
    """A batch as the pipeline packs it: references as tokens in a joint checkpoint, else as keys and values."""
    batch = pack(sequences)
    if model.config.reference_attention == "joint":
        return batch, None
    return pack([replace(s, references=()) for s in sequences]), model.encode_references(batch)


def steps(model: MMDiT, capture: Recorder, max_bytes: int = 1 << 30, prefix_tokens: int = 512) -> GraphSteps:
    return GraphSteps(model, capture, max_bytes=max_bytes, prefix_tokens=prefix_tokens)


def addresses(made: GraphSteps) -> list[int]:
    graph = next(iter(made._graphs.values()))
    constants = graph.constants
    held = [constants.text, constants.references, *constants.text_rope, *constants.image_rope, *constants.joint_rope]
    tables = [
        table
        for segments in (constants.joint.first, constants.joint.second, constants.joint.segments, constants.image.first)
        for table in segments._on_device.values()
    ]
    return [x.data_ptr() for x in (graph.target, graph.sigma, *held, *tables)]


@pytest.mark.parametrize("mode", ["joint", "shared", "isolated"])
def test_one_graph_serves_every_batch_of_its_bucket(mode: str) -> None:
    model, capture = build(mode).requires_grad_(False), Recorder()
    graphs, eager = steps(model, capture), Eager(model)
    seen = []
    for sequences in (MIX, OTHER, MIX):
        batch, kv = encoded(model, sequences)
        step, plain = graphs.prepare(batch, kv), eager.prepare(batch, kv)
        for _ in range(2):
            torch.testing.assert_close(
                step(batch.target, batch.sigma), plain(batch.target, batch.sigma), atol=1e-5, rtol=1e-5
            )
            batch = batch.at(batch.target.flip(0), batch.sigma * 0.5)
        seen.append(addresses(graphs))
    assert (capture.recorded, capture.replayed, len(graphs.buckets)) == (1, 6, 1)
    assert seen[0] == seen[1] == seen[2]


def test_two_batches_may_take_turns() -> None:
    model = build("isolated").requires_grad_(False)
    graphs, eager = steps(model, Recorder()), Eager(model)
    packed = [encoded(model, sequences) for sequences in (MIX, OTHER)]
    ready = [(graphs.prepare(*p), eager.prepare(*p), p[0]) for p in packed]
    for step, plain, batch in ready * 2:
        torch.testing.assert_close(
            step(batch.target, batch.sigma), plain(batch.target, batch.sigma), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("mode", ["joint", "shared", "isolated"])
def test_one_graph_serves_other_adapters_and_a_graph_of_its_own_those_without(mode: str, tmp_path: Path) -> None:
    """Adapters are loaded, thrown out and loaded elsewhere between replays of one graph, whose tables stay in place."""
    model, capture = build(mode).requires_grad_(False), Recorder()
    graphs, eager = steps(model, capture), Eager(model)
    page = PageLayout.of(model).elements * 4
    bank = AdapterBank(model, 4 * page)
    everything, text, wide, some = (bank.read(path) for path in four(tmp_path, model))
    wanted: list[tuple[Mixture, ...]] = [
        (((everything, 1.0),), (), ((text, 0.5),), ()),
        (((wide, 1.0),), (), (), ((some, 2.0),)),
        ((), (), (), ()),
        ((), ((everything, -0.5), (text, 1.0), (some, 0.3)), (), ()),
    ]
    seen = {}
    for mixtures in wanted:
        placed = bank.hold(mixtures, [Counter() for _ in mixtures])
        sequences = [replace(s, adapters=pairs) for s, pairs in zip(MIX, placed, strict=True)]
        batch, kv = encoded(model, sequences)
        step, plain = graphs.prepare(batch, kv), eager.prepare(batch, kv)
        for _ in range(2):
            torch.testing.assert_close(
                step(batch.target, batch.sigma), plain(batch.target, batch.sigma), atol=1e-5, rtol=1e-5
            )
        newest = graphs._graphs[graphs.buckets[-1]]
        tables = [] if newest.constants.route is None else newest.constants.route.tables(model.device)
        seen.setdefault(graphs.buckets[-1], []).append([table.data_ptr() for table in tables])
    assert [bucket.adapters for bucket in seen] == [1, 4, 0]
    assert all(len(set(map(tuple, tables))) == 1 for tables in seen.values())
    assert (capture.recorded, len(graphs.buckets), bank.evictions) == (3, 3, 3)


def test_graphs_stay_within_their_bound_and_the_oldest_goes(caplog: pytest.LogCaptureFixture) -> None:
    model, capture = build("joint").requires_grad_(False), Recorder(size=10 << 20)
    graphs = steps(model, capture, max_bytes=25 << 20)
    sizes = [(3, 3), (17, 17), (24, 24)]
    with caplog.at_level(logging.INFO):
        for grid in sizes:
            graphs.prepare(pack([request(0, 5, grid)]), None)
            assert graphs.bytes <= graphs.max_bytes
    assert [bucket.target for bucket in graphs.buckets] == [512, 768]
    assert "makes room" in caplog.text
    graphs.prepare(pack([request(0, 5, (17, 17))]), None)
    assert [bucket.target for bucket in graphs.buckets] == [768, 512]
    assert capture.recorded == 3
    graphs.clear()
    assert (graphs.buckets, graphs.bytes) == ((), 0)


@pytest.mark.parametrize(
    ("capture", "prefix_tokens", "bound", "said"),
    [
        (Recorder(fails=9), 512, 1 << 30, "the capture failed: operation not permitted"),
        (Recorder(size=1 << 30), 512, 1 << 20, "its graph takes"),
        (Recorder(), 10, 1 << 30, "room for 10"),
    ],
)
def test_without_a_graph_a_step_runs_eagerly_and_says_so_once(
    capture: Recorder, prefix_tokens: int, bound: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = build("isolated").requires_grad_(False)
    graphs = steps(model, capture, bound, prefix_tokens)
    batch, kv = encoded(model, MIX)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            velocity = graphs.prepare(batch, kv)(batch.target, batch.sigma)
    assert torch.equal(velocity, Eager(model).prepare(batch, kv)(batch.target, batch.sigma))
    assert caplog.text.count("no CUDA graph") == 1
    assert said in caplog.text
    assert graphs.buckets == ()


def test_a_bucket_is_filled_with_requests_that_mean_nothing() -> None:
    batch = pack(MIX)
    bucket = Bucket.of(batch, None)
    assert bucket == Bucket(sequences=8, text=64, target=256, references=256, prefix=0)
    whole = filled(batch, bucket)
    assert len(whole) == 8
    assert (whole.text_segments.total, whole.target_segments.total) == (64, 256)
    assert whole.group_segments.lengths[:4] == batch.group_segments.lengths
    assert torch.equal(whole.target[: len(batch.target)], batch.target)
    assert all(Bucket.of(pack(MIX[:n]), None).sequences > n for n in range(1, 5))
