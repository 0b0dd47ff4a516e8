"""A packed batch equals each request alone; shared references equal repeated ones, gradients included."""

from dataclasses import replace

import pytest
import torch
from packed_requests import MIXES, build, request
from torch import Tensor

from engine_build.config import ReferenceAttention
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, pack
from engine_build.model.reference_kv import ReferenceKV

MODES = ("joint", "shared", "isolated")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mix", MIXES)
def test_packed_equals_alone(mode: ReferenceAttention, mix: str) -> None:
    model = build(mode)
    sequences = MIXES[mix]
    with torch.no_grad():
        together = model(pack(sequences))
        alone = torch.cat([model(pack([s])) for s in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_packed_gradients_equal_the_sum_of_each_alone(mode: ReferenceAttention) -> None:
    model = build(mode)
    sequences = MIXES["different"]
    together = gradients(model, model(pack(sequences)).square().sum())
    losses = torch.stack([model(pack([s])).square().sum() for s in sequences])
    alone = gradients(model, losses.sum())
    assert_gradients_close(together, alone)


@pytest.mark.parametrize("mode", ["shared", "isolated"])
@pytest.mark.parametrize("mix", ["different", "equal"])
def test_cached_references_give_the_same_velocity(mode: ReferenceAttention, mix: str) -> None:
    model = build(mode)
    batch = pack(MIXES[mix])
    with torch.no_grad():
        cache = model.encode_references(batch)
        bare = pack([replace(s, references=()) for s in MIXES[mix]])
        torch.testing.assert_close(model(bare, cache), model(batch), atol=1e-6, rtol=1e-6)


def test_isolated_references_serve_any_slot_of_any_request() -> None:
    model = build("isolated")
    wanted = pack(MIXES["different"])
    with torch.no_grad():
        kept = [
            [
                model.encode_references(pack([replace(s, references=(moved(r, 0),))]), place=False)
                for r in s.references
            ]
            for s in MIXES["different"]
        ]
        assert all(not part.slots.any() for request_parts in kept for part in request_parts)
        slots = torch.tensor([10 * (i + 1) for s in MIXES["different"] for i in range(len(s.references))])
        joined = model.place(ReferenceKV.join(kept), slots)
        fresh = model.encode_references(wanted)
        for a, b in zip((*joined.keys, *joined.values), (*fresh.keys, *fresh.values), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(wanted, joined), model(wanted), atol=1e-5, rtol=1e-5)


def test_moving_a_reference_equals_encoding_it_there() -> None:
    model = build("isolated")
    here = request(2, 5, (3, 3), (4, 4), (2, 3))
    there = replace(here, references=(moved(here.references[0], 50), moved(here.references[1], 30)))
    with torch.no_grad():
        turned = model.place(model.encode_references(pack([here])), torch.tensor([50, 30]))
        fresh = model.encode_references(pack([there]))
        assert not torch.allclose(turned.keys[0], model.encode_references(pack([here])).keys[0], atol=1e-2)
    for a, b in zip(turned.keys, fresh.keys, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_single_and_join_are_inverse() -> None:
    model = build("isolated")
    with torch.no_grad():
        whole = model.encode_references(pack(MIXES["different"]))
    parts = iter(whole.single())
    again = ReferenceKV.join([[next(parts) for _ in range(count)] for count in whole.counts])
    assert again.counts == whole.counts
    assert again.segments == whole.segments
    assert all(torch.equal(a, b) for a, b in zip(again.keys, whole.keys, strict=True))
    assert sum(part.bytes for part in whole.single()) == whole.bytes


@pytest.mark.parametrize("mode", ["shared", "isolated"])
@pytest.mark.parametrize("equal", [True, False])
def test_draws_share_references_with_exact_gradients(mode: ReferenceAttention, equal: bool) -> None:
    model = build(mode)
    owners = [request(0, 6, (3, 4), (2, 2), (3, 3)), request(1, 6, (3, 4), (2, 2), (3, 3))]
    if not equal:
        owners[1] = request(1, 4, (2, 3), (5, 1))
    draws = [redraw(owner, seed) for owner in owners for seed in range(3)]
    repeated = model(pack(draws))
    expected = gradients(model, repeated.square().sum())
    shared = model(pack(draws, draws=3))
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=1e-5)
    assert_gradients_close(gradients(model, shared.square().sum()), expected)
    targets = pack([replace(s, references=()) for s in draws])
    by_hand = model(targets, reference_kv=model.encode_references(pack(owners)))
    torch.testing.assert_close(by_hand, repeated, atol=1e-5, rtol=1e-5)
    assert_gradients_close(gradients(model, by_hand.square().sum()), expected)


def test_misfits_are_refused() -> None:
    joint, shared, isolated = build("joint"), build("shared"), build("isolated")
    batch = pack(MIXES["equal"])
    with torch.no_grad():
        cache = isolated.encode_references(pack(MIXES["equal"][:2]))
    with pytest.raises(ValueError, match="joint checkpoint has no reference K/V"):
        joint(batch, cache)
    with pytest.raises(ValueError, match="draws cannot share references in a joint"):
        joint(pack([MIXES["equal"][0]] * 2, draws=2))
    with pytest.raises(ValueError, match="cannot encode references by themselves"):
        joint.encode_references(batch)
    with pytest.raises(ValueError, match="depend on their slots"):
        shared.encode_references(batch, place=False)
    with pytest.raises(ValueError, match="no references"):
        isolated.encode_references(pack(MIXES["none has references"]))
    with pytest.raises(ValueError, match="3 sequences do not divide into the 2 groups"):
        isolated(batch, cache)
    with pytest.raises(ValueError, match="slots for"):
        isolated.place(cache, torch.tensor([10]))
    with pytest.raises(ValueError, match="no references to join"):
        ReferenceKV.join([[], []])


def moved(reference: Reference, t: int) -> Reference:
    ids = reference.ids.clone()
    ids[:, 0] = t
    return Reference(reference.tokens, ids)


def redraw(owner: Sequence, seed: int) -> Sequence:
    g = torch.Generator().manual_seed(100 + seed)
    return replace(
        owner, target=torch.randn(owner.target.shape, generator=g), sigma=torch.rand((), generator=g)
    )


def gradients(model: MMDiT, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_gradients_close(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        assert (x - y).norm() <= 1e-4 * y.norm() + 1e-6
