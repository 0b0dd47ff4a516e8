"""Adapters beside the weights: each request with its own, as if it were alone, as if its own were baked in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lora_files import four, write_lora
from packed_requests import MIXES, build, request
from torch import Tensor, nn

from engine_build.bench.precision import relative_l2
from engine_build.config import ReferenceAttention
from engine_build.errors import CheckpointError, EngineError, RequestError
from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.adapters import Adapter, Mixture, PageLayout
from engine_build.model.lora import LoraSet, read_lora
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Sequence, pack
from kernels import fp8

MIX = MIXES["different"]
MODES: tuple[ReferenceAttention, ...] = ("joint", "shared", "isolated")


def frozen(mode: ReferenceAttention) -> MMDiT:
    return build(mode).requires_grad_(False)


def baked(mode: ReferenceAttention, *loras: tuple[Path, float]) -> MMDiT:
    model = frozen(mode)
    changes = LoraSet(model)
    for path, scale in loras:
        changes.add(path.name, read_lora(path), scale)
    changes.bake()
    return model


def room(model: MMDiT, places: int) -> AdapterBank:
    return AdapterBank(model, places * PageLayout.of(model).elements * model.dtype.itemsize)


def placed(bank: AdapterBank, sequences: list[Sequence], *mixtures: Mixture) -> list[Sequence]:
    held = bank.hold(mixtures, [Counter() for _ in mixtures])
    return [replace(sequence, adapters=pairs) for sequence, pairs in zip(sequences, held, strict=True)]


def velocities(model: MMDiT, sequences: list[Sequence]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return model(pack(sequences)).split([len(s.target) for s in sequences])


@pytest.mark.parametrize("mode", MODES)
def test_four_requests_with_four_adapters_share_a_forward(mode: ReferenceAttention, tmp_path: Path) -> None:
    model = frozen(mode)
    paths = four(tmp_path, model)
    plain = velocities(model, MIX)
    bank = room(model, 8)
    adapters = [bank.read(path) for path in paths]
    assert [len(a.pages) for a in adapters] == [1, 1, 3, 1]
    asked = placed(bank, MIX, *(((adapter, 0.7),) for adapter in adapters))
    together = velocities(model, asked)
    for own, path, mine, before in zip(asked, paths, together, plain, strict=True):
        (alone,) = velocities(model, [own])
        torch.testing.assert_close(mine, alone, atol=1e-5, rtol=1e-4)
        (truth,) = velocities(baked(mode, (path, 0.7)), [replace(own, adapters=())])
        torch.testing.assert_close(mine, truth, atol=1e-4, rtol=1e-4)
        assert relative_l2(mine, before) > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_a_mixture_is_the_sum_of_its_adapters_at_their_scales(mode: ReferenceAttention, tmp_path: Path) -> None:
    model = frozen(mode)
    first, second, third, _ = four(tmp_path, model)
    bank = room(model, 8)
    a, b, c = (bank.read(path) for path in (first, second, third))
    asked = placed(bank, MIX, ((a, 0.5), (c, -0.8)), (), ((b, 1.0), (a, 0.3)), ())
    together = velocities(model, asked)
    for i, loras in ((0, ((first, 0.5), (third, -0.8))), (1, ()), (2, ((second, 1.0), (first, 0.3))), (3, ())):
        (truth,) = velocities(baked(mode, *loras), [MIX[i]])
        torch.testing.assert_close(together[i], truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["shared", "isolated"])
def test_references_go_through_their_requests_adapters(mode: ReferenceAttention, tmp_path: Path) -> None:
    model = frozen(mode)
    path = four(tmp_path, model)[0]
    bank = room(model, 4)
    asked = placed(bank, MIX, ((bank.read(path), 1.0),), (), (), ())
    mine, plain = (model.encode_references(pack(each)) for each in (asked, MIX))
    truth = baked(mode, (path, 1.0)).encode_references(pack(MIX))
    own = sum(len(r.tokens) for r in MIX[0].references)
    for kind in ("keys", "values"):
        for actual, changed, same in zip(*(getattr(kv, kind) for kv in (mine, truth, plain)), strict=True):
            torch.testing.assert_close(actual[:own], changed[:own], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(actual[own:], same[own:], atol=1e-5, rtol=1e-5)
    assert relative_l2(mine.keys[-1][:own], plain.keys[-1][:own]) > 0.01


def test_draws_share_references_and_adapters(tmp_path: Path) -> None:
    model = frozen("isolated")
    path = four(tmp_path, model)[0]
    bank = room(model, 4)
    both = [request(0, 5, (3, 3), (2, 2)), replace(request(1, 5, (3, 3)), references=())]
    both[1] = replace(both[1], references=both[0].references)
    pairs, _ = bank.hold([((bank.read(path), 1.0),), ()], [Counter(), Counter()])
    asked = [replace(s, adapters=pairs) for s in both]
    with torch.inference_mode():
        drawn = model(pack(asked, draws=2)).chunk(2)
    for mine, each in zip(drawn, asked, strict=True):
        torch.testing.assert_close(mine, velocities(model, [each])[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="needs its adapters"):
        pack([asked[0], both[1]], draws=2)


def test_fp8_rows_feed_adapters_too(tmp_path: Path) -> None:
    model = frozen("isolated")
    path = four(tmp_path, model)[0]
    exact = [velocities(m, MIX) for m in (frozen("isolated"), baked("isolated", (path, 1.0)))]
    fp8.convert(model)
    bank = room(model, 4)
    adapter = bank.read(path)
    plain = velocities(model, MIX)
    together = velocities(model, placed(bank, MIX, ((adapter, 1.0),), (), ((adapter, 1.0),), ()))
    for i in (0, 2):
        rounding = relative_l2(plain[i], exact[0][i])
        assert relative_l2(together[i], exact[1][i]) < 2 * rounding < 0.2 * relative_l2(exact[1][i], exact[0][i])
        (alone,) = velocities(model, placed(bank, [MIX[i]], ((adapter, 1.0),)))
        assert relative_l2(together[i], alone) <= 2 * rounding
    for i in (1, 3):
        assert relative_l2(together[i], plain[i]) <= 2 * relative_l2(plain[i], exact[0][i])


def test_without_adapters_a_model_stays_as_it_was(tmp_path: Path) -> None:
    model = frozen("isolated")
    before, linears = velocities(model, MIX), [id(m) for m in model.modules() if isinstance(m, nn.Linear)]
    bank = room(model, 4)
    adapter = bank.read(four(tmp_path, model)[0])
    assert bank.hold([(), ()], [Counter(), Counter()]) == [(), ()]
    assert [id(m) for m in model.modules() if isinstance(m, nn.Linear)] == linears
    assert model.adapting is None
    placed(bank, MIX[:1], ((adapter, 1.0),))
    assert all(torch.equal(a, b) for a, b in zip(velocities(model, MIX), before, strict=True))
    assert {id(m) for m in model.modules() if isinstance(m, nn.Linear)} == set(linears), "weights were replaced"


def test_a_layer_that_no_adapter_changes_computes_nothing_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = frozen("isolated")
    bank = room(model, 4)
    text = bank.read(four(tmp_path, model)[1])
    asked = placed(bank, MIX, ((text, 1.0),), (), (), ())
    calls: list[int] = []
    real = model.kernels.add_low_rank
    counting = replace(model.kernels, add_low_rank=lambda *a: calls.append(1) or real(*a))
    monkeypatch.setattr(model.adapting, "kernels", counting)
    velocities(model, asked)
    assert len(calls) == len(text.layers) == 6 * model.config.num_layers


def test_the_least_recently_used_makes_room_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    model = frozen("isolated")
    sizes = PageLayout.of(model).sizes
    bank = room(model, 3)
    a, b, c, wide = (
        bank.read(write_lora(tmp_path / f"{i}.safetensors", sizes, i, rank)) for i, rank in enumerate((4, 4, 4, 33))
    )
    counted = [Counter() for _ in range(2)]
    first, _ = bank.hold([((a, 1.0),), ((b, 2.0),)], counted)
    assert counted == [{("adapter", "load"): 1, ("adapter", "loaded_bytes"): bank.page_bytes}] * 2
    assert bank.hold([((a, 0.5),)], [Counter()]) == [((first[0][0], 0.5),)]
    bank.hold([((c, 1.0),)], [Counter()])
    assert (bank.loads, bank.evictions, bank.bytes) == (3, 0, 3 * bank.page_bytes)
    events: Counter[tuple[str, str]] = Counter()
    bank.count_hits(((b, 1.0), (wide, 1.0)), events)
    assert events == {("adapter", "hit"): 1}
    bank.hold([((wide, 1.0),)], [events])
    assert (events["adapter", "eviction"], bank.bytes) == (3, 3 * bank.page_bytes)
    assert bank.loaded_bytes == 6 * bank.page_bytes
    with pytest.raises(EngineError, match="2 adapters do not fit 3 places together"):
        bank.hold([((wide, 1.0), (a, 1.0))], [Counter()])
    with pytest.raises(RequestError, match="need 4 places of rank 16, the engine has 3"):
        bank.check([wide, a])
    mixtures = [((a, 1.0),), ((b, 1.0),), (), ((a, 2.0), (c, 1.0)), ((wide, 1.0),), ((wide, 2.0),), ((a, 1.0),)]
    assert [len(group) for group in bank.groups(mixtures, lambda mixture: mixture)] == [5, 2]


@pytest.mark.parametrize(
    ("layer", "size", "said"),
    [
        ("double_stream_modulation_img.linear", (768, 128), "bake it in at start with loras"),
        ("x_embedder", (128, 16), "outside of the blocks"),
        ("transformer_blocks.9.attn.to_q", (128, 128), "layers the model does not have: transformer_blocks.9"),
        ("transformer_blocks.0.attn.to_q", (128, 64), r"as \(128, 64\), the model has \(128, 128\)"),
    ],
)
def test_what_no_adapter_can_change_is_refused(layer: str, size: tuple[int, int], said: str, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "odd.safetensors", {layer: size}, 0)
    with pytest.raises(CheckpointError, match=said):
        room(frozen("joint"), 2).read(path)


def test_a_version_is_the_files_content(tmp_path: Path) -> None:
    model = frozen("joint")
    bank, sizes = room(model, 2), PageLayout.of(model).sizes
    one, same, other = (
        bank.read(write_lora(tmp_path / f"{name}.safetensors", sizes, seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert isinstance(one, Adapter) and one.version == same.version != other.version


def test_a_model_without_a_bank_refuses_a_route() -> None:
    with pytest.raises(ValueError, match="of which the model has none"):
        velocities(frozen("joint"), [replace(MIX[0], adapters=((0, 1.0),))])
