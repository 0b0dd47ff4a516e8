"""The torch engine: batches, progress, cancelation, failures that stay alone, and what it says of itself."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TEXT_LAYERS, write_checkpoint

from engine_build.backends import load_engine
from engine_build.config import CheckpointConfig
from engine_build.engine import ImageInput, Outcome, StepEvent, TryOnRequest
from engine_build.errors import BackendError, CheckpointError, EngineError, RequestError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.request.plan import plan
from engine_build.request.warm_sizes import WarmSize
from engine_build.runtime.torch_engine import EngineOptions, TorchEngine, load

NANO_LIKE = CheckpointConfig(
    "isolated",
    max_references=7,
    default_size=(48, 64),
    default_steps=3,
    max_text_tokens=220,
    pad_text=False,
    text_layers=TEXT_LAYERS,
    garment_canvas=(32, 32),
    max_pixels=128 * 128,
    max_steps=9,
    note="tiny and random",
)
KLEIN_LIKE = dataclasses.replace(
    NANO_LIKE, reference_attention="joint", max_references=4, garment_canvas=None, garment_area=32 * 32
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    nano, klein, shared = (tmp_path_factory.mktemp(name) for name in ("nano", "klein", "shared"))
    write_checkpoint(nano)
    for copy in (klein, shared):
        shutil.copytree(nano, copy, dirs_exist_ok=True)
    NANO_LIKE.save(nano)
    KLEIN_LIKE.save(klein)
    dataclasses.replace(KLEIN_LIKE, reference_attention="shared").save(shared)
    return {"isolated": nano, "joint": klein, "shared": shared}


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> dict[str, TorchEngine]:
    return {mode: load(folder, device="cpu") for mode, folder in folders.items()}


@pytest.fixture
def engine(engines: dict[str, TorchEngine]) -> TorchEngine:
    return engines["isolated"]


def photo(seed: int, width: int = 60, height: int = 80) -> ImageInput:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return ImageInput(Image.fromarray(pixels).resize((width, height)), f"{seed}-{width}x{height}", "tops")


def request(name: str, garments: int = 1, **changes) -> TryOnRequest:
    told = compose([GarmentPhrase("tops")] * garments)
    worn = tuple(photo(10 + i, 40 + 8 * i, 64) for i in range(garments))
    return TryOnRequest(**{"id": name, "person": photo(1), "garments": worn, "instruction": told, **changes})


def apart(a: Image.Image | None, b: Image.Image | None) -> int:
    assert a is not None and b is not None
    assert a.size == b.size
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


MIXED = (
    request("plain", seed=1),
    request("six garments", 6, seed=2),
    request("short", 2, seed=3, steps=1),
    request("long and wide", 1, seed=4, steps=5, size=(96, 40)),
    request("another person", 3, seed=5, person=photo(7, 90, 60)),
)


@pytest.mark.parametrize("mode", ["isolated", "shared", "joint"])
def test_a_batch_equals_each_request_alone(engines: dict[str, TorchEngine], mode: str) -> None:
    engine = engines[mode]
    together = engine.run(MIXED)
    assert [o.request_id for o in together] == [r.id for r in MIXED]
    assert [o.nfe for o in together] == [3, 3, 1, 5, 3]
    for asked, outcome in zip(MIXED, together, strict=True):
        assert (outcome.status, outcome.error) == ("succeeded", None)
        (alone,) = engine.run([asked])
        assert apart(outcome.image, alone.image) <= 1
    assert together[3].image.size == (96, 40)
    assert together[0].image.size == (48, 64)
    assert together[4].image.width > together[4].image.height


def test_a_small_token_budget_changes_no_picture(folders: dict[str, Path], engine: TorchEngine) -> None:
    narrow = load(folders["isolated"], options=EngineOptions(token_budget=1))
    assert narrow.describe().token_budget == 1
    for one, other in zip(narrow.run(MIXED), engine.run(MIXED), strict=True):
        assert apart(one.image, other.image) <= 1


def test_a_seed_is_a_picture(engine: TorchEngine) -> None:
    first, again, other = engine.run([request("a", seed=5), request("b", seed=5), request("c", seed=6)])
    assert apart(first.image, again.image) == 0
    assert apart(first.image, other.image) > 20
    (later,) = engine.run([request("a", seed=5)])
    assert apart(first.image, later.image) <= 1


def test_an_empty_batch_is_empty(engine: TorchEngine) -> None:
    assert engine.run([]) == []


def test_every_step_of_every_request_is_reported_once_with_a_preview(engine: TorchEngine) -> None:
    events: list[StepEvent] = []
    engine.run(MIXED, lambda event: events.append(event) or True)
    for asked, steps in zip(MIXED, (3, 3, 1, 5, 3), strict=True):
        mine = [e for e in events if e.request_id == asked.id]
        assert [e.step for e in mine] == list(range(1, steps + 1))
        assert {e.steps for e in mine} == {steps}
        assert all(isinstance(e.preview, Image.Image) for e in mine[:-1])
        assert mine[-1].preview is None


def test_the_preview_approaches_the_picture(engine: TorchEngine) -> None:
    previews: list[Image.Image] = []
    asked = request("watched", steps=8)
    (outcome,) = engine.run([asked], lambda e: previews.append(e.preview) or True)
    final = np.asarray(outcome.image, dtype=float)
    far, near = (np.abs(np.asarray(p, dtype=float) - final).mean() for p in (previews[0], previews[-2]))
    assert near < far


def test_a_preview_of_a_large_picture_is_small(engine: TorchEngine) -> None:
    autoencoder = engine.pipeline.autoencoder
    picture = photo(3, 160, 320).image
    (tokens,) = autoencoder.encode([picture])
    preview = autoencoder.preview(tokens, longest=64)
    assert preview.size == (32, 64)
    assert autoencoder.preview(tokens, longest=320).size == (160, 320)


def test_canceling_one_at_a_step_stops_it_there_and_nobody_else(engine: TorchEngine) -> None:
    seen: dict[str, int] = {}

    def on_step(event: StepEvent) -> bool:
        seen[event.request_id] = event.step
        return not (event.request_id == "six garments" and event.step == 2)

    outcomes = {o.request_id: o for o in engine.run(MIXED, on_step)}
    canceled = outcomes.pop("six garments")
    assert (canceled.status, canceled.image, canceled.error, canceled.nfe) == ("canceled", None, None, 2)
    assert seen["six garments"] == 2
    for asked in MIXED:
        if asked.id in outcomes:
            (alone,) = engine.run([asked])
            assert apart(outcomes[asked.id].image, alone.image) <= 1


def test_canceling_everything_at_once_ends_the_run(engine: TorchEngine) -> None:
    outcomes = engine.run(MIXED, lambda event: False)
    assert {o.status for o in outcomes} == {"canceled"}
    assert {o.nfe for o in outcomes} == {1}


def test_an_error_of_the_caller_is_not_swallowed(engine: TorchEngine) -> None:
    def on_step(event: StepEvent) -> bool:
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="own"):
        engine.run([request("a")], on_step)
    assert engine.run([request("a")])[0].status == "succeeded"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": (49, 64)}, "multiples of 8"),
        ({"size": (256, 256)}, "pixels"),
        ({"steps": 10}, "between 1 and 9"),
        ({"garments": ()}, "1 to 6"),
        ({"person": photo(1, 40, 400)}, "narrow"),
    ],
)
def test_a_bad_request_fails_alone(engine: TorchEngine, changes: dict, said: str) -> None:
    wrong = dataclasses.replace(request("bad"), **changes)
    good, bad, also_good = engine.run([request("a"), wrong, request("c", 2)])
    assert (good.status, also_good.status) == ("succeeded", "succeeded")
    assert (bad.status, bad.image, bad.nfe) == ("failed", None, 0)
    assert isinstance(bad.error, RequestError)
    assert said in str(bad.error)


def test_a_failing_forward_is_retried_alone(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request that no forward survives: its neighbours finish, unchanged."""
    advance = engine.pipeline.advance

    def fragile(states):
        if any(len(state.x) == 96 * 40 // 64 for state in states):
            raise RuntimeError("no forward with this size")
        return advance(states)

    expected = {o.request_id: o for o in engine.run(MIXED)}
    monkeypatch.setattr(engine.pipeline, "advance", fragile)
    outcomes = {o.request_id: o for o in engine.run(MIXED)}
    broken = outcomes.pop("long and wide")
    assert (broken.status, str(broken.error)) == ("failed", "no forward with this size")
    for name, outcome in outcomes.items():
        assert apart(outcome.image, expected[name].image) <= 1


def test_a_lack_of_memory_is_not_the_end_of_the_engine(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = engine.pipeline.advance

    def crowded(states):
        if len(states) > 1:
            raise torch.OutOfMemoryError("too many at once")
        return advance(states)

    monkeypatch.setattr(engine.pipeline, "advance", crowded)
    assert {o.status for o in engine.run(MIXED)} == {"succeeded"}


def test_a_lost_device_is_the_end_of_the_engine(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(states):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine.pipeline, "advance", lost)
    with pytest.raises(EngineError, match="loaded again"):
        engine.run([request("a")])


def test_threads_take_turns(engine: TorchEngine) -> None:
    expected = [engine.run([asked])[0].image for asked in MIXED]
    engine.pipeline.caches.clear()
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda asked: engine.run([asked])[0], MIXED))
    for outcome, picture in zip(outcomes, expected, strict=True):
        assert apart(outcome.image, picture) <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["isolated", "shared", "joint"])
def test_a_gpu_draws_the_same_picture(engines: dict[str, TorchEngine], folders: dict[str, Path], mode: str) -> None:
    precise = load(folders[mode], device="cuda", dtype="float32")
    usual = load(folders[mode], device="cuda")
    for asked, exact, quick in zip(MIXED, precise.run(MIXED), usual.run(MIXED), strict=True):
        (here,) = engines[mode].run([asked])
        assert apart(exact.image, here.image) <= 3
        assert quick.status == "succeeded"


def test_numbers_that_are_not_finite_are_an_error_and_no_picture(folders: dict[str, Path]) -> None:
    engine = load(folders["isolated"])
    engine.pipeline.model.proj_out.weight[0, 0] = torch.inf
    (outcome,) = engine.run([request("a")])
    assert outcome.status == "failed"
    assert isinstance(outcome.error, EngineError)
    assert "finite" in str(outcome.error)


def test_stages_are_timed(engine: TorchEngine) -> None:
    engine.pipeline.caches.clear()
    (outcome,) = engine.run([request("a", 3)])
    assert set(outcome.stages) == {"text", "vae_encode", "denoise", "vae_decode"}
    assert all(seconds > 0 for seconds in outcome.stages.values())


@pytest.mark.parametrize("mode", ["isolated", "joint"])
def test_cost_bounds_what_a_request_brings(engines: dict[str, TorchEngine], mode: str) -> None:
    engine = engines[mode]
    for garments in range(1, 7):
        asked = request("a", garments)
        planned = plan(asked, engine.config, 8, "sheets")
        pictures = (planned.person, *planned.passes[0].garments)
        made = engine.pipeline.condition(planned.passes[0].instruction, pictures)
        state = engine.pipeline.begin(made, planned.size, 1)
        bound = engine.cost(48, 64, garments)
        assert 0.6 * bound <= state.tokens <= 1.1 * bound


def test_describe_tells_what_is_accepted(engines: dict[str, TorchEngine]) -> None:
    info = engines["isolated"].describe()
    assert (info.backend, info.device, info.reference_attention) == ("torch", "cpu", "isolated")
    assert (info.max_references, info.default_size, info.size_multiple) == (7, (48, 64), 8)
    assert (info.default_steps, info.max_steps, info.max_pixels) == (3, 9, 128 * 128)
    assert info.note == "tiny and random"
    assert "/" not in info.model


def test_another_mode_is_marked_as_an_approximation(folders: dict[str, Path]) -> None:
    engine = load(folders["joint"], options=EngineOptions(reference_attention="isolated"))
    assert "trained as joint" in engine.describe().note
    (outcome,) = engine.run([request("a")])
    assert outcome.approximation == "references attend as isolated, trained as joint"
    (own,) = load(folders["joint"]).run([request("a")])
    assert own.approximation is None


def test_loras_change_the_picture_by_their_strength(folders: dict[str, Path], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = "transformer.transformer_blocks.0.ff.linear_out"
    down, up = (torch.randn(shape, generator=generator) for shape in ((4, 384), (128, 4)))
    path = tmp_path / "style.safetensors"
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, path)
    plain, none, twice, opposite = (
        load(folders["isolated"], options=EngineOptions(loras=loras))
        for loras in ((), ((path, 0.0),), ((path, 0.5), (path, 0.5)), ((path, 1.0), (path, -1.0)))
    )
    once = load(folders["isolated"], options=EngineOptions(loras=((path, 1.0),)))
    pictures = [e.run([request("a")])[0].image for e in (plain, none, twice, opposite, once)]
    assert apart(pictures[0], pictures[1]) == 0
    assert apart(pictures[0], pictures[3]) <= 1
    assert apart(pictures[2], pictures[4]) <= 1
    assert apart(pictures[0], pictures[4]) > 2
    assert len({e.pipeline.checkpoint_id for e in (plain, none, twice, opposite, once)}) == 5


@pytest.mark.parametrize("garments", [4, 6])
def test_garments_beyond_the_checkpoints_places(folders: dict[str, Path], garments: int) -> None:
    asked = request("many", garments)
    (sheets,) = load(folders["joint"]).run([asked])
    assert (sheets.status, sheets.nfe) == ("succeeded", 3)
    events: list[StepEvent] = []
    engine = load(folders["joint"], options=EngineOptions(overflow="sequential"))
    (sequential,) = engine.run([asked], lambda e: events.append(e) or True)
    assert (sequential.status, sequential.nfe) == ("succeeded", 6)
    assert [(e.step, e.steps) for e in events] == [(i, 6) for i in range(1, 7)]


def test_warm_up_leaves_nothing_behind(engine: TorchEngine) -> None:
    engine.warm_up()
    caches = engine.pipeline.caches
    assert (len(caches.text), len(caches.latents), len(caches.reference_kv)) == (0, 0, 0)


def test_warm_up_makes_the_declared_buckets_ready(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    warm = WarmSize.parse_all("64x48:2*2,96x40:1")
    engine = load(folders["isolated"], options=EngineOptions(warm=warm, previews=False))
    seen: list[list[tuple[int, int, int]]] = []
    run = engine.run

    def watched(asked: list[TryOnRequest]) -> list[Outcome]:
        outcomes = run(asked)
        seen.append([(*outcome.image.size, len(r.garments)) for r, outcome in zip(asked, outcomes, strict=True)])
        return outcomes

    monkeypatch.setattr(engine, "run", watched)
    engine.warm_up()
    assert seen == [[(64, 48, 2)] * 2, [(64, 48, 1)] * 2, [(64, 48, 2)], [(64, 48, 1)], [(96, 40, 1)]]
    wrong = load(folders["isolated"], options=EngineOptions(warm=WarmSize.parse_all("50x64")))
    with pytest.raises(EngineError, match="multiples of 8"):
        wrong.warm_up()


def test_warm_up_says_when_the_engine_cannot_run(folders: dict[str, Path]) -> None:
    engine = load(folders["isolated"])
    engine.pipeline.model.proj_out.weight[0, 0] = torch.nan
    with pytest.raises(EngineError, match="cannot run"):
        engine.warm_up()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtypes(folders: dict[str, Path], dtype: str) -> None:
    engine = load_engine(str(folders["isolated"]), device="cpu", dtype=dtype)
    (outcome,) = engine.run([request("a", 2)])
    assert outcome.status == "succeeded"


def test_what_is_not_here_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="magic"):
        load(folders["isolated"], backend="magic")
    with pytest.raises(BackendError, match="abacus"):
        load(folders["isolated"], device="abacus")
    with pytest.raises(BackendError, match="cuda:99"):
        load(folders["isolated"], device="cuda:99")
    with pytest.raises(RequestError, match="int3"):
        load(folders["isolated"], dtype="int3")
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "vae"),
        (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no tensors"), "vae"),
        (lambda f: (f / "text_encoder" / "model.safetensors").unlink(), "text_encoder"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").write_text("{"), "scheduler_config.json"),
        (
            lambda f: dataclasses.replace(NANO_LIKE, text_layers=(1, 2, 9)).save(f),
            "layer 9",
        ),
        (lambda f: dataclasses.replace(NANO_LIKE, text_layers=(1, 2)).save(f), "width 48"),
        (lambda f: dataclasses.replace(NANO_LIKE, default_size=(50, 64)).save(f), "multiples of 8"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(folders: dict[str, Path], tmp_path: Path, damage, said: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders["isolated"], folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_or_misshapen_text_tensor_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders["isolated"], folder)
    path = folder / "text_encoder" / "model.safetensors"
    whole = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in whole.items() if k != name}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        load(folder)
    save_file({**whole, name: torch.zeros(3, 5)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        load(folder)
    save_file({**whole, "model.layers.0.surprise": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.0\.surprise"):
        load(folder)
