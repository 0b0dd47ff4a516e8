"""Buckets become sizes that hold every request they promise."""

from __future__ import annotations

import pytest
import torch
from graph_parity import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_build.config import CheckpointConfig
from engine_build.errors import RequestError
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from engine_build.model.reference_kv import ReferenceKV
from engine_build.model.weights import NANO
from engine_build.request.warm_sizes import WarmSize
from engine_build.tensorrt.feeds import Feeder
from engine_build.tensorrt.graphs import DitGraph
from engine_build.tensorrt.ports import Kind
from engine_build.tensorrt.profiles import fits, profile, spans

CONFIG = CheckpointConfig.load(NANO)
BUCKET = WarmSize(72, 96, garments=6, requests=3)
SIDE = 8
MODEL = tiny_model("isolated")


@pytest.mark.parametrize(
    ("text", "bucket"),
    [
        ("768x1024", WarmSize(768, 1024, 6, 1)),
        ("768x1024:2", WarmSize(768, 1024, 2, 1)),
        ("1024x1024:6*4", WarmSize(1024, 1024, 6, 4)),
        ("512x512*8", WarmSize(512, 512, 6, 8)),
    ],
)
def test_buckets_are_written_as_read(text: str, bucket: WarmSize) -> None:
    assert WarmSize.parse(text) == bucket
    assert WarmSize.parse(str(bucket)) == bucket
    assert WarmSize.parse_all(f"{text}, 64x64:2*2,") == (bucket, WarmSize(64, 64, 2, 2))


def test_what_a_bucket_promises() -> None:
    assert list(WarmSize(64, 64, garments=2, requests=2).loads()) == [(2, 2), (1, 2), (2, 1), (1, 1)]
    assert WarmSize.parse_all("") == ()


@pytest.mark.parametrize("text", ["", "768", "768x", "768x1024:0", "768x1024:7", "768x1024*0", "ax b"])
def test_other_words_are_not_buckets(text: str) -> None:
    with pytest.raises(RequestError):
        WarmSize.parse(text)


def test_sizes_in_part_tokens_are_refused() -> None:
    with pytest.raises(RequestError, match="multiples of 8"):
        spans(WarmSize(70, 96), CONFIG, SIDE, torch.bfloat16)


def test_every_axis_has_its_span() -> None:
    sizes = spans(BUCKET, CONFIG, SIDE, torch.bfloat16)
    kinds: tuple[Kind, ...] = ("references", "cached")
    for kind in kinds:
        shapes = profile(DitGraph(MODEL, kind, "plugin").inputs, sizes)
        for least, usual, most in shapes.values():
            assert all(0 < a <= b <= c for a, b, c in zip(least, usual, most, strict=True))


@given(
    texts=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    garments=st.lists(st.integers(0, 6), min_size=3, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_whatever_a_bucket_promises_fits_its_profile(texts: list[int], garments: list[int]) -> None:
    rows, columns = BUCKET.height // SIDE, BUCKET.width // SIDE
    sequences = []
    for text, worn in zip(texts, garments, strict=False):
        grids = [(rows, columns), *[(5, 5)] * worn]
        shown = tuple(Reference(torch.zeros(h * w, 64), grid_ids(h, w, 10)) for h, w in grids)
        sequences.append(
            Sequence(torch.zeros(text, 24), torch.zeros(rows * columns, 64), grid_ids(rows, columns), 1.0, shown)
        )
    batch = pack(sequences)
    sizes = spans(BUCKET, CONFIG, SIDE, torch.float32)
    feeder = Feeder(MODEL.config, torch.float32, packed=True)
    c = MODEL.config
    kept = (torch.zeros(batch.reference_segments.total, c.num_attention_heads, c.attention_head_dim),) * c.layers
    kv = ReferenceKV(kept, kept, batch.reference_segments, batch.reference_counts, torch.zeros(1))
    (step,) = feeder.pass_feeds(batch, kv).steps(batch.target, batch.sigma)
    for kind, given_to in (("references", feeder.references(batch, batch.reference_ids)), ("cached", step)):
        graph = DitGraph(MODEL, kind, "plugin")
        assert set(given_to) == {port.name for port in graph.inputs}
        shapes = {name: tuple(x.shape) for name, x in given_to.items()}
        assert fits(shapes, profile(graph.inputs, sizes))
        large = graph.inputs[0].name
        assert not fits(shapes | {large: (10_000, 64)}, profile(graph.inputs, sizes))
