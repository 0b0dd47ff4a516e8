"""What a denoising step does and does not do: no waiting for the device, nothing twice, nothing for nobody.

On a CPU the operations that would make a host wait for a GPU are counted as torch dispatches them; on a GPU
`tests/gpu/test_engine_gpu.py` lets the driver itself object.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from lora_files import four
from test_cuda_graphs import Recorder
from test_engine import KLEIN_LIKE, MIXED, NANO_LIKE, apart, request
from tiny import write_checkpoint
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine_build.errors import MemoryShortage
from engine_build.model.adapters import Mixture
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import ReferenceKV
from engine_build.request.plan import plan
from engine_build.runtime.cuda_graphs import Eager, GraphSteps, Step
from engine_build.runtime.torch_engine import TorchEngine, load

WAITING = {
    "aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal",
    "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::lift_fresh", "aten::scalar_tensor",
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts operations that read the device's memory on the host, or copy to a device from pageable memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.all = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition(".")[0]
        self.all += 1
        if name in WAITING or (name == "aten::_to_copy" and (kwargs or {}).get("device") is not None):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=["isolated", "shared", "joint"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    folder: Path = write_checkpoint(tmp_path_factory.mktemp(request.param))
    config = NANO_LIKE if request.param == "isolated" else KLEIN_LIKE
    dataclasses.replace(config, reference_attention=request.param).save(folder)
    return load(folder, device="cpu")


@pytest.fixture(params=[False, True], ids=["plain", "adapters"])
def mixtures(request: pytest.FixtureRequest, engine: TorchEngine, tmp_path: Path) -> tuple[Mixture, Mixture]:
    """Of two states: none, or one adapter and two."""
    if not request.param:
        return (), ()
    bank = engine.pipeline.bank
    first, second, *_ = map(bank.read, four(tmp_path, engine.pipeline.model, bank.layout.sizes))
    return ((first, 1.0),), ((second, 0.5), (first, -0.3))


def states(engine: TorchEngine, garments: tuple[int, ...] = (1, 3), mixtures: tuple[Mixture, ...] = ((), ())):
    pipeline, made = engine.pipeline, []
    for i, count in enumerate(garments):
        asked = request(str(i), count, seed=i)
        planned = plan(asked, engine.config, 8, "sheets")
        turn = planned.passes[0]
        pictures = (planned.person, *turn.garments)
        conditioning = pipeline.condition(turn.instruction, pictures, mixture=mixtures[i % 2])
        made.append(pipeline.begin(conditioning, planned.size, 3, seed=len(pictures)))
    return made


def test_the_step_loop_never_waits(engine: TorchEngine, mixtures: tuple[Mixture, ...]) -> None:
    made = states(engine, mixtures=mixtures)
    engine.pipeline.advance(made)
    with Waits() as waits, torch.inference_mode():
        engine.pipeline.advance(made)
        engine.pipeline.advance(made)
    engine.pipeline.release()
    assert waits.all > 100
    assert not waits.found


def test_a_step_by_graph_never_waits(
    engine: TorchEngine, mixtures: tuple[Mixture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a recorder in the place of CUDA's: all that is around the replay, and the step that is replayed."""
    recorder = Recorder()
    graphs = GraphSteps(engine.pipeline.model, recorder, max_bytes=1 << 30, prefix_tokens=1024)
    monkeypatch.setattr(engine.pipeline, "stepper", graphs)
    made = states(engine, mixtures=mixtures)
    engine.pipeline.advance(made)
    with Waits() as waits, torch.inference_mode():
        engine.pipeline.advance(made)
        engine.pipeline.advance(made)
    engine.pipeline.release()
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    assert waits.all > 100
    assert not waits.found


def test_the_counter_counts() -> None:
    with Waits() as waits:
        x = torch.ones(2)
        bool((x > 0).all())
        x.nonzero()
        torch.tensor([1.0])
    assert set(waits.found) >= {"aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh"}


def test_modulation_once_a_step_and_the_end_for_the_target_only(engine: TorchEngine) -> None:
    model = engine.pipeline.model
    made = states(engine)
    tokens = sum(len(state.x) for state in made)
    rows: dict[str, list[int]] = {}

    def watch(name: str):
        def note(_module: torch.nn.Module, args: tuple[Tensor, ...], _out: Tensor) -> None:
            rows.setdefault(name, []).append(args[0].shape[0])

        return note

    last = model.single_transformer_blocks[-1].attn
    watched = {
        "double_stream_modulation_img": model.double_stream_modulation_img,
        "double_stream_modulation_txt": model.double_stream_modulation_txt,
        "single_stream_modulation": model.single_stream_modulation,
        "norm_out": model.norm_out,
        "context_embedder": model.context_embedder,
        "last to_out": last.to_out,
        "proj_out": model.proj_out,
    }
    hooks = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
    for _ in range(3):
        engine.pipeline.advance(made)
    for hook in hooks:
        hook.remove()
    engine.pipeline.release()
    n = len(made)
    for name in list(watched)[:4]:
        assert rows[name] == [n] * 3, name
    assert rows["context_embedder"] == [sum(len(state.conditioning.text) for state in made)]
    assert rows["last to_out"] == rows["proj_out"] == [tokens] * 3


def test_references_are_encoded_once(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, model = engine.pipeline.model.config.reference_attention, engine.pipeline.model
    encoded: list[int] = []
    encode = model.encode_references

    def counted(batch: PackedBatch, **given: bool) -> ReferenceKV:
        encoded.append(len(batch.reference_segments))
        return encode(batch, **given)

    monkeypatch.setattr(model, "encode_references", counted)
    engine.pipeline.caches.clear()
    engine.run([request("a", 2, steps=3)])
    assert encoded == ([] if mode == "joint" else [3])
    engine.run([request("b", 2, steps=3, seed=9)])
    assert encoded == {"joint": [], "shared": [3, 3], "isolated": [3]}[mode]


def test_only_the_text_layers_that_are_used_exist(engine: TorchEngine) -> None:
    model = engine.pipeline.text_encoder.model
    assert len(model.layers) == max(engine.config.text_layers) == 3
    assert isinstance(model.norm, torch.nn.Identity)


class Hungry:
    """Steps whose allocation fails for one size of picture, `times` times."""

    def __init__(self, model: MMDiT, tokens: int, times: int) -> None:
        self.eager, self.tokens, self.times = Eager(model), tokens, times

    def prepare(self, batch: PackedBatch, kv: ReferenceKV | None) -> Step:
        step = self.eager.prepare(batch, kv)

        def stepped(target: Tensor, sigma: Tensor) -> Tensor:
            if self.tokens in batch.target_segments.lengths and self.times:
                self.times -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return step(target, sigma)

        return stepped


@pytest.mark.parametrize("engine", ["isolated"], indirect=True)
@pytest.mark.parametrize(("times", "status"), [(1, "succeeded"), (2, "succeeded"), (3, "failed")])
def test_a_lack_of_memory_is_one_requests_own(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, times: int, status: str
) -> None:
    """Together, alone beside the others, alone on the device: the third time it fails, with a stable error."""
    expected = {outcome.request_id: outcome for outcome in engine.run(MIXED)}
    monkeypatch.setattr(engine.pipeline, "stepper", Hungry(engine.pipeline.model, 96 * 40 // 64, times))
    outcomes = {outcome.request_id: outcome for outcome in engine.run(MIXED)}
    large = outcomes["long and wide"]
    assert large.status == status
    if status == "failed":
        assert isinstance(large.error, MemoryShortage)
        assert "\n" not in str(large.error)
        outcomes.pop("long and wide")
    for name, outcome in outcomes.items():
        assert outcome.status == "succeeded"
        assert apart(outcome.image, expected[name].image) <= 1
    assert engine.run([request("after")])[0].status == "succeeded"


@pytest.mark.parametrize("engine", ["isolated"], indirect=True)
def test_memory_that_is_missing_while_encoding_or_decoding(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, tries = engine.pipeline.decode, []

    def short(state):
        tries.append(state)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(state)

    monkeypatch.setattr(engine.pipeline, "decode", short)
    assert [o.status for o in engine.run([request("a"), request("b")])] == ["succeeded"] * 2
    assert len(tries) == 3

    def none(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    engine.pipeline.caches.clear()
    monkeypatch.setattr(engine.pipeline.autoencoder, "encode", none)
    (outcome,) = engine.run([request("a")])
    assert isinstance(outcome.error, MemoryShortage)
