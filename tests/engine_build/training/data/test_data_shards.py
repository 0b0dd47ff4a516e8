"""Shards: samples come back as they were, in an order that can be taken up anywhere, and webdataset reads them too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from real_pairs import garment, person
from recipe import COMMON, write_config

from engine_build.errors import RequestError
from engine_build.model.weights import locate
from engine_build.training.config import TrainConfig
from engine_build.training.data.build import BuildPlan, build
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.entry import Entry, EntryReference, ShardError
from engine_build.training.data.inspection import inspect
from engine_build.training.data.origins import World
from engine_build.training.data.pictures import encoded
from engine_build.training.data.reading import Shards
from engine_build.training.data.sample import encode
from engine_build.training.data.shards import ShardFile, index_path, read_entry, shard_name, spans_of
from engine_build.training.data.source import ShardSource
from engine_build.training.data.stream import TokenStream
from engine_build.training.data.world_edits import Edits
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop.start_from import autoencoder_in
from engine_build.training.train import run_stage


def entry(number: int, key: str = "") -> Entry:
    """A sample with every optional part, in two kinds of files."""
    mask = encoded(Image.new("L", (96, 128), number)).data
    return Entry(
        key=key or f"sample-{number:04d}",
        person=encoded(person(number), lossless=False),
        references=(
            EntryReference(encoded(garment(number)), "tops", "tucked in", "red, «quoted» 夏"),
            EntryReference(encoded(garment(number + 1), lossless=False), "hats"),
        ),
        target=encoded(person(number)),
        instruction=f"The person of image 1 … {number} 🙏",
        source="test",
        masked=bool(number % 2),
        maps={"edited": mask, "person_regions": mask, "target_regions": mask},
        labels={"tops": 5},
        facts={"name": f"née {number}", "deep": [1, {"a": None}]},
    )


def write(folder: Path, sizes: list[int]) -> list[str]:
    """Shards of so many samples each; returns their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    keys, number = [], 0
    for i, size in enumerate(sizes):
        shard = ShardFile(folder / shard_name(i))
        for _ in range(size):
            shard.add(entry(number))
            keys.append(f"sample-{number:04d}")
            number += 1
        shard.finish()
    return keys


@pytest.mark.parametrize("indexed", [True, False])
def test_samples_come_back_as_they_were_with_an_index_and_without(tmp_path: Path, indexed: bool) -> None:
    write(tmp_path, [3])
    shard = tmp_path / shard_name(0)
    if not indexed:
        index_path(shard).unlink()
    assert [read_entry(shard, span) for span in spans_of(shard)] == [entry(i) for i in range(3)]


def test_an_index_finds_what_reading_through_finds(tmp_path: Path) -> None:
    shard = ShardFile(tmp_path / "a.tar")
    for key in ("plain", "ü" * 60, "k" * 120):
        shard.add(entry(1, key))
    shard.finish()
    with_index = spans_of(tmp_path / "a.tar")
    index_path(tmp_path / "a.tar").unlink()
    assert spans_of(tmp_path / "a.tar") == with_index
    assert [read_entry(tmp_path / "a.tar", span).key for span in with_index] == ["plain", "ü" * 60, "k" * 120]


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", [2])
    write(tmp_path / "b", [2])
    assert (tmp_path / "a" / shard_name(0)).read_bytes() == (tmp_path / "b" / shard_name(0)).read_bytes()


def test_the_webdataset_library_reads_our_shards(tmp_path: Path) -> None:
    theirs = pytest.importorskip("webdataset.tariterators")
    write(tmp_path, [3])
    with (tmp_path / shard_name(0)).open("rb") as file:
        named = ({**one, "__url__": "ours"} for one in theirs.tar_file_iterator(file))
        samples = list(theirs.group_by_keys(named))
    assert [one["__key__"] for one in samples] == ["sample-0000", "sample-0001", "sample-0002"]
    assert json.loads(samples[1]["json"])["instruction"] == entry(1).instruction
    assert samples[2]["reference-2.jpg"] == entry(2).references[1].picture.data
    assert samples[2]["person.jpg"] == entry(2).person.data


def test_shards_of_the_webdataset_library_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for number in range(3):
            rows = {name.partition(".")[2]: data for name, data in entry(number).files()}
            writer.write({"__key__": f"deep.er/folder/sample-{number:04d}", **rows})
    shards = Shards(str(tmp_path), shuffled=False)
    assert [shards.entry(i) for i in range(3)] == [entry(i) for i in range(3)]


def test_every_epoch_holds_every_sample_once_in_another_order(tmp_path: Path) -> None:
    keys = write(tmp_path, [3, 1, 4, 2, 1, 1, 1, 1, 1, 3])
    shards = Shards(str(tmp_path / "*.tar"), seed=7)
    epochs = [[shards.place(e * len(keys) + i)[1].key for i in range(len(keys))] for e in range(3)]
    assert all(sorted(epoch) == keys for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = Shards(str(tmp_path / "*.tar"), seed=8)
    assert [other.place(i)[1].key for i in range(len(keys))] != epochs[0]


def test_damage_is_named_not_read_over(tmp_path: Path) -> None:
    write(tmp_path, [2])
    shard = tmp_path / shard_name(0)
    os.truncate(shard, shard.stat().st_size - 4000)
    with pytest.raises(ShardError, match=r"shard-000000\.tar has"):
        Shards(str(tmp_path))
    index_path(shard).unlink()
    with pytest.raises(ShardError, match="ends early"):
        Shards(str(tmp_path))
    shard.write_bytes(b"not a tar file" * 100)
    with pytest.raises(ShardError, match="not a readable shard"):
        Shards(str(tmp_path))
    with pytest.raises(ShardError, match="no shard at"):
        Shards(str(tmp_path / "nothing-*.tar"))


def test_inspection_finds_the_one_broken_picture(tmp_path: Path) -> None:
    bad = entry(1)
    target = dataclasses.replace(bad.target, data=bad.target.data[:200])
    shard = ShardFile(tmp_path / shard_name(0))
    for one in (entry(0), dataclasses.replace(bad, target=target), entry(2)):
        shard.add(one)
    shard.finish()
    found = inspect([str(tmp_path)], every=True, sheet=tmp_path / "sheet.png")
    assert len(found.broken) == 1 and "sample-0001" in found.broken[0]
    assert found.categories == {"tops": 2, "hats": 2}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 144, 2 * 192)


def test_the_procedural_world_comes_back_to_the_pixel(tmp_path: Path) -> None:
    """What training draws itself and what it reads back from shards agree, but for 8-bit rounding."""
    build(World("try-ons", 4, 40, 64, 32), tmp_path / "tryons", BuildPlan(shard_samples=3))
    build(World("edits", 7, 0, 64, 32), tmp_path / "edits", BuildPlan())
    drawn = [*WorldTryOns(64, 32).draw(range(40, 44)), *Edits(64, 32).draw(range(7))]
    read = [
        sample
        for name, count in (("tryons", 4), ("edits", 7))
        for sample in ShardSource(Shards(str(tmp_path / name), shuffled=False), 64, 32).draw(range(count))
    ]
    for one, other in zip(drawn, read, strict=True):
        assert (one.instruction, one.categories) == (other.instruction, other.categories)
        assert one.edited is not None and other.edited is not None
        for a, b in zip(
            (*one.references, one.target, one.edited), (*other.references, other.target, other.edited), strict=True
        ):
            assert a.shape == b.shape
            torch.testing.assert_close(a.clamp(0, 1), b, atol=0.5 / 255 + 1e-5, rtol=0)


def test_batches_of_shards_are_a_pure_function_of_the_step_for_any_number_of_processes(tmp_path: Path) -> None:
    build(World("try-ons", 8, 0, 64, 32), tmp_path, BuildPlan(shard_samples=3))
    encoder = Encoder(autoencoder_in(locate("nano")))

    def stream(rank: int = 0, world: int = 1, threads: int = 2) -> TokenStream:
        source = ShardSource(Shards(str(tmp_path / "*.tar"), 5), 64, 32, encoder.token_pixels, threads)
        return TokenStream(source, encoder, 2, passes=1, chunk=4, rank=rank, world=world)

    straight = stream()
    steps = [[_digest(one.target) for one in straight.batch(step)] for step in range(6)]
    assert len({name for names in steps[:4] for name in names}) == 8
    assert [[_digest(one.target) for one in stream(threads=1).batch(step)] for step in (5, 2)] == [steps[5], steps[2]]
    for step in (3, 4):
        halves = [stream(rank, 2) for rank in range(2)]
        assert [_digest(half.batch(step)[0].target) for half in halves] == steps[step]
    alone = encode(encoder, [ShardSource(Shards(str(tmp_path), 5), 64, 32).sample(0)])[0]
    assert alone.grid == (8, 6) and alone.target.shape == (48, 64)


def _digest(x: torch.Tensor) -> str:
    return hashlib.sha256((x * 1e3).round().numpy().tobytes()).hexdigest()


def test_a_stage_learns_from_shards_and_resumes_exactly(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    build(World("try-ons", 6, 0, 64, 32), shards, BuildPlan(shard_samples=4))
    table = f'data = "{shards}/*.tar"\nshow_every = 3\n'
    config = TrainConfig.load(write_config(tmp_path, common=COMMON.replace("show_every = 0\n", table)))
    whole = run_stage(config, "pretrain", resume=False)
    run_stage(config, "pretrain", resume=False, stop_after=1, name="parts")
    run_stage(config, "pretrain", resume=True, name="parts")
    states = [torch.load(config.out / f"{name}.pt", weights_only=True)["model"] for name in ("pretrain", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert (whole / "changeroom.json").exists() and (config.out / "grids" / "pretrain-3.png").exists()
    with pytest.raises(RequestError, match="cannot learn from shards"):
        run_stage(config, "nft", resume=False)
