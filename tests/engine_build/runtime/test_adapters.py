"""Adapters by name: every request with its own in shared forwards, versions that never mix, errors that stay alone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from lora_files import four, write_lora
from test_cuda_graphs import Recorder
from test_engine import KLEIN_LIKE, NANO_LIKE, apart, request
from tiny import write_checkpoint

from engine_build.engine import AdapterUse, Outcome, TryOnRequest
from engine_build.errors import BackendError, CheckpointError, EngineError, RequestError
from engine_build.memory.plan import make_plan
from engine_build.model.shapes import parts_of
from engine_build.options import EngineOptions
from engine_build.runtime.cuda_graphs import GraphSteps
from engine_build.runtime.latent_state import LatentState
from engine_build.runtime.torch_engine import TorchEngine, load

NAMES = ("all", "text", "last", "some")
STRENGTH = 0.8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    isolated, joint, shared = (tmp_path_factory.mktemp(name) for name in ("isolated", "joint", "shared"))
    write_checkpoint(isolated)
    for copy in (joint, shared):
        shutil.copytree(isolated, copy, dirs_exist_ok=True)
    NANO_LIKE.save(isolated)
    KLEIN_LIKE.save(joint)
    dataclasses.replace(KLEIN_LIKE, reference_attention="shared").save(shared)
    return {"isolated": isolated, "joint": joint, "shared": shared}


@pytest.fixture(scope="module")
def files(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    model = load(folders["joint"], device="cpu").pipeline.model
    return dict(zip(NAMES, four(tmp_path_factory.mktemp("loras"), model), strict=True))


def dressed(folder: Path, files: dict[str, Path], places: int = 8) -> TorchEngine:
    """An engine with the four registered and so many places for them."""
    engine = load(folder, device="cpu", options=EngineOptions(previews=False))
    bank = engine.pipeline.bank
    assert bank is not None
    engine = load(folder, options=EngineOptions(previews=False, adapter_bytes=places * bank.page_bytes), device="cpu")
    for name, path in files.items():
        engine.register_adapter(name, path)
    return engine


def one(engine: TorchEngine, asked: TryOnRequest) -> Outcome:
    (outcome,) = engine.run([asked])
    assert outcome.error is None
    return outcome


def forwards(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each forward had."""
    sizes: list[int] = []
    real = engine.pipeline.advance

    def counted(states: list[LatentState]) -> list[torch.Tensor]:
        sizes.append(len(states))
        return real(states)

    monkeypatch.setattr(engine.pipeline, "advance", counted)
    return sizes


MIXED = [request(name, 1 + i, seed=i, adapters=((name, STRENGTH),)) for i, name in enumerate(NAMES)]


@pytest.mark.parametrize("mode", ["isolated", "shared", "joint"])
def test_four_adapters_in_one_forward_are_each_what_they_are_alone_and_baked(
    folders: dict[str, Path], files: dict[str, Path], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = dressed(folders[mode], files)
    sizes = forwards(engine, monkeypatch)
    together = engine.run([*MIXED, request("plain", 2, seed=9)])
    assert sizes == [5, 5, 5]
    plain = load(folders[mode], device="cpu")
    for asked, outcome in zip(MIXED, together, strict=False):
        assert (outcome.status, outcome.error) == ("succeeded", None)
        assert apart(outcome.image, one(engine, asked).image) <= 1
        baked = load(folders[mode], device="cpu", options=EngineOptions(loras=((files[asked.id], STRENGTH),)))
        bare = dataclasses.replace(asked, adapters=())
        assert apart(outcome.image, one(baked, bare).image) <= 1
        assert apart(outcome.image, one(plain, bare).image) > 3
    assert apart(together[4].image, one(plain, request("plain", 2, seed=9)).image) <= 1


def test_a_mixture_is_both_baked(folders: dict[str, Path], files: dict[str, Path]) -> None:
    engine = dressed(folders["isolated"], files)
    mixed = one(engine, request("m", adapters=(("some", 0.6), ("all", -0.4))))
    turned = one(engine, request("m", adapters=(("all", -0.4), ("some", 0.6))))
    loras = ((files["some"], 0.6), (files["all"], -0.4))
    baked = one(load(folders["isolated"], device="cpu", options=EngineOptions(loras=loras)), request("m"))
    assert apart(mixed.image, baked.image) <= 1
    assert apart(mixed.image, turned.image) == 0
    assert turned.cache["reference_kv", "hit"] == 2, "one mixture, whatever the order of its names"
    assert [use.name for use in turned.adapters] == ["all", "some"]


def test_fp8_linears_take_adapters(folders: dict[str, Path], files: dict[str, Path]) -> None:
    engine = load(folders["isolated"], device="cpu", dtype="fp8", options=EngineOptions(previews=False))
    for name, path in files.items():
        engine.register_adapter(name, path)
    assert all(outcome.error is None for outcome in engine.run(MIXED))
    with_it, without = one(engine, MIXED[0]), one(engine, dataclasses.replace(MIXED[0], adapters=()))
    exact = one(dressed(folders["isolated"], files), MIXED[0])
    assert apart(with_it.image, exact.image) < apart(without.image, exact.image)


def test_what_cannot_be_had_fails_alone(folders: dict[str, Path], files: dict[str, Path]) -> None:
    engine = dressed(folders["isolated"], files, places=3)
    asked = [
        request("good", adapters=(("all", 1.0),)),
        request("unknown", adapters=(("velvet", 1.0),)),
        request("twice", adapters=(("all", 1.0), ("all", 0.5))),
        request("endless", adapters=(("all", float("inf")),)),
        request("too many", adapters=(("last", 1.0), ("all", 1.0))),
        request("nothing of it", adapters=(("last", 0.0), ("all", 1.0))),
    ]
    outcomes = {outcome.request_id: outcome for outcome in engine.run(asked)}
    said = {
        "unknown": "no adapter named 'velvet'; there are: all, last, some, text",
        "twice": "named twice",
        "endless": "must be finite",
        "too many": "need 4 places of rank 16, the engine has 3",
    }
    for name, outcome in outcomes.items():
        if name in said:
            assert isinstance(outcome.error, RequestError) and said[name] in str(outcome.error)
        else:
            assert outcome.status == "succeeded"
    assert apart(outcomes["good"].image, outcomes["nothing of it"].image) <= 1


def test_an_outcome_names_base_adapters_and_versions(folders: dict[str, Path], files: dict[str, Path]) -> None:
    engine = dressed(folders["isolated"], files)
    versions = {info.name: info.version for info in engine.adapters()}
    assert sorted(versions) == sorted(NAMES) and all(len(v) == 64 for v in versions.values())
    outcome = one(engine, request("a", adapters=(("text", 0.5), ("some", 2.0))))
    assert outcome.base == engine.describe().model
    assert outcome.adapters == (AdapterUse("text", versions["text"], 0.5), AdapterUse("some", versions["some"], 2.0))
    assert one(engine, request("a")).adapters == ()


def test_reference_caches_tell_adapters_and_scales_apart(folders: dict[str, Path], files: dict[str, Path]) -> None:
    engine = dressed(folders["isolated"], files)

    def misses(*adapters: tuple[str, float]) -> int:
        outcome = one(engine, request("r", 2, adapters=adapters))
        return outcome.cache.get(("reference_kv", "miss"), 0)

    assert [misses(), misses(("all", 1.0)), misses(("all", 1.0)), misses(("all", 0.5)), misses()] == [3, 3, 0, 3, 0]
    assert misses(("text", 1.0)) == 3
    shutil.copy(files["text"], files["all"].with_name("again.safetensors"))
    engine.register_adapter("again", files["all"].with_name("again.safetensors"))
    assert misses(("again", 1.0)) == 0, "the same content under another name"


def test_one_place_serves_everybody_in_turn(
    folders: dict[str, Path], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [request(f"{i}", seed=i, adapters=((("all", "text", "some")[i % 3], STRENGTH),)) for i in range(4)]
    roomy, narrow = dressed(folders["isolated"], files), dressed(folders["isolated"], {}, places=1)
    for name in ("all", "text", "some"):
        narrow.register_adapter(name, files[name])
    sizes = forwards(narrow, monkeypatch)
    for mine, other in zip(narrow.run(asked), roomy.run(asked), strict=True):
        assert apart(mine.image, other.image) <= 1
        first, last = mine.request_id == "0", mine.request_id == "3"  # of one adapter, and the last one's references
        loads = 0 if last else 4
        assert mine.cache.get(("adapter", "load"), 0) == mine.cache.get(("adapter", "eviction"), 0) + first == loads
        assert mine.cache.get(("adapter", "loaded_bytes"), 0) == loads * narrow.pipeline.bank.page_bytes
        assert other.cache.get(("adapter", "load"), 0) == (not last)
        assert other.cache.get(("adapter", "hit"), 0) == last
    assert sizes == [2, 1, 1] * 3


def test_a_packed_step_is_packed_again_when_its_adapter_has_moved(
    folders: dict[str, Path], files: dict[str, Path]
) -> None:
    """Whoever begins in between may take its place: the next step must not run with another's weights."""
    engine = dressed(folders["isolated"], {name: path for name, path in files.items() if name != "last"}, places=2)
    pipeline = engine.pipeline

    def drawn(*disturbers: str) -> torch.Tensor:
        mine, _ = engine.names.resolve((("all", STRENGTH),))
        state = pipeline.begin(pipeline.condition("a shirt", (), mixture=mine), (48, 64), 3)
        while not state.done:
            pipeline.advance([state])
            for name in disturbers:
                other, _ = engine.names.resolve(((name, 1.0),))
                pipeline.bank.hold([other], [state.conditioning.events])
        return state.x

    undisturbed = drawn()
    for disturbers in (("text", "some"), ("some",), ("text", "some", "text")):
        assert torch.equal(drawn(*disturbers), undisturbed)


def test_graphs_draw_the_same_pictures_while_adapters_come_and_go(
    folders: dict[str, Path], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three places for six: adapters are thrown out and loaded elsewhere between the replays of the same graphs."""
    engine, eager = dressed(folders["isolated"], files, places=3), dressed(folders["isolated"], files)
    recorder = Recorder()
    graphs = GraphSteps(engine.pipeline.model, recorder, max_bytes=1 << 30, prefix_tokens=1024)
    monkeypatch.setattr(engine.pipeline, "stepper", graphs)
    asked = [*MIXED, request("plain", 2, seed=9)]
    for _ in range(2):
        for mine, other in zip(engine.run(asked), eager.run(asked), strict=True):
            assert (mine.status, mine.error) == ("succeeded", None)
            assert apart(mine.image, other.image) <= 1
    assert engine.pipeline.bank.evictions > 6
    assert recorder.recorded == len(graphs.buckets) == 2
    assert recorder.replayed == 2 * 2 * 3


def test_a_warm_up_records_graphs_with_adapters_where_there_are_any(
    folders: dict[str, Path], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, recorder = dressed(folders["isolated"], {}), Recorder()
    graphs = GraphSteps(engine.pipeline.model, recorder, max_bytes=1 << 30, prefix_tokens=1024)
    monkeypatch.setattr(engine.pipeline, "stepper", graphs)
    engine.warm_up()
    assert engine.pipeline.model.adapting is None
    before = recorder.recorded
    engine.register_adapter("all", files["all"])
    engine.warm_up()
    assert {bucket.adapters for bucket in graphs.buckets} == {0, 1}
    warmed = recorder.recorded
    assert warmed == 2 * before
    one(engine, request("first", adapters=(("all", 1.0),)))
    assert recorder.recorded == warmed


def test_another_file_under_a_name_is_its_next_version(folders: dict[str, Path], files: dict[str, Path]) -> None:
    """Registered in the middle of a batch, which neither waits for it nor changes."""
    engine = dressed(folders["isolated"], files)
    asked = request("a", adapters=(("all", STRENGTH),))
    old = one(engine, asked)

    def swap(_: object) -> bool:
        engine.register_adapter("all", files["some"])
        return True

    (during,) = engine.run([asked], swap)
    assert apart(during.image, old.image) == 0 and during.adapters == old.adapters
    after = one(engine, asked)
    assert after.adapters[0].version != old.adapters[0].version
    assert apart(after.image, one(engine, request("a", adapters=(("some", STRENGTH),))).image) == 0
    engine.remove_adapter("all")
    assert [info.name for info in engine.adapters()] == ["last", "some", "text"]
    assert isinstance(engine.run([asked])[0].error, RequestError)
    with pytest.raises(RequestError, match="no adapter named 'all'"):
        engine.remove_adapter("all")


def test_files_that_cannot_be_adapters(folders: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    engine = dressed(folders["isolated"], {}, places=2)
    with pytest.raises(RequestError, match="need 3 places of rank 16, the engine has 2"):
        engine.register_adapter("last", files["last"])
    with pytest.raises(CheckpointError, match="bake it in at start with loras"):
        engine.register_adapter("x", write_lora(tmp_path / "x.safetensors", {"x_embedder": (128, 16)}, 1))
    with pytest.raises(CheckpointError, match="is missing"):
        engine.register_adapter("x", tmp_path / "nowhere.safetensors")
    with pytest.raises(RequestError, match="needs a name"):
        engine.register_adapter("", files["all"])
    assert engine.adapters() == ()
    without = load(folders["isolated"], device="cpu", options=EngineOptions(adapter_bytes=0))
    with pytest.raises(BackendError, match="the torch backend takes no adapters: bake"):
        without.register_adapter("all", files["all"])
    adapter = engine.pipeline.bank.read(files["all"])
    with pytest.raises(EngineError, match="the torch backend has no bank"):
        state = without.pipeline.begin(without.pipeline.condition("a", (), mixture=((adapter, 1.0),)), (48, 64), 1)
        without.pipeline.advance([state])


def test_the_memory_plan_counts_the_bank() -> None:
    def row(adapter_bytes: int) -> tuple[int, str] | None:
        options = EngineOptions(adapter_bytes=adapter_bytes)
        plan = make_plan(parts_of("klein-4b"), dtype="fp8", backend="triton", options=options)
        return next(((row.bytes, row.why) for row in plan.rows if row.name == "adapters"), None)

    page = 490 * 3072 * 16 * 2  # numbers of in and out of all linears, rank 16, bfloat16
    assert row(1 << 30) == ((1 << 30) // page * page, f"{(1 << 30) // page} places of rank 16")
    assert row(page - 1) is None
