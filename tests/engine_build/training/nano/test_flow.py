"""Batches, noise, weights and the loss of flow matching."""

from __future__ import annotations

import math

import pytest
import torch
from nano_runs import FLOW, VAE, random_nano
from torch import Tensor

from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.nano_model import NanoModel
from engine_build.training.loop.tokenizer import train as train_tokenizer
from engine_build.training.nano.flow import flow_loss, packed, tokenize
from engine_build.training.nano.latents import Latents, LatentStream, token_weight
from engine_build.training.nano.vae import build
from engine_build.training.stages.matching import noise_levels
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene
from engine_build.world.specs import REGION_OF


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder(build(VAE))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(samples=50)


def _stream(encoder: Encoder, mix: tuple[float, ...] = (1.0, 1.0)) -> LatentStream:
    return LatentStream(encoder, height=32, shot=16, scenes=2, mix=mix, passes=2, chunk=4)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_levels_are_shifted_logit_normal_and_stratified() -> None:
    count, shift = 4096, 1.8
    levels = noise_levels(count, shift, _generator())
    odds = levels.double() / (1 - levels.double()) / shift
    strata = (torch.special.ndtr(odds.log()) * count).floor().clamp(0, count - 1)
    assert len(strata.unique()) > 0.98 * count
    assert float(levels.median()) == pytest.approx(shift / (1 + shift), abs=0.01)
    assert float(odds.log().std()) == pytest.approx(1.0, abs=0.02)
    assert float(levels.min()) > 0 and float(levels.max()) <= 1
    assert torch.equal(levels, noise_levels(count, shift, _generator()))
    assert not torch.equal(levels, levels.sort().values)


def test_a_batch_depends_on_its_step_alone(encoder: Encoder) -> None:
    forward = _stream(encoder)
    batches = [forward.batch(step) for step in range(8)]
    for step in (7, 2, 5, 0):
        again = _stream(encoder).batch(step)
        assert again.instructions == batches[step].instructions
        for name in ("person", "garments", "target", "weight"):
            assert torch.equal(getattr(again, name), getattr(batches[step], name))
    sums = {float(batch.target.double().sum()) for batch in batches}
    assert len(sums) > 4


def test_every_scene_of_a_chunk_is_visited_in_every_pass(encoder: Encoder) -> None:
    stream = _stream(encoder, mix=(1.0,))
    visits = [stream.batch(step) for step in range(4)]
    for half in (visits[:2], visits[2:]):
        rows = torch.cat([batch.target for batch in half]).flatten(1)
        assert len(rows.unique(dim=0)) == 4
    assert torch.equal(
        torch.cat([b.target for b in visits[:2]]).flatten(1).unique(dim=0),
        torch.cat([b.target for b in visits[2:]]).flatten(1).unique(dim=0),
    )


def test_a_batch_holds_what_its_words_say(encoder: Encoder) -> None:
    stream = _stream(encoder)
    for step in range(6):
        batch = stream.batch(step)
        count = batch.garments.shape[1]
        assert batch.person.shape == batch.target.shape == (2, 12, 64)
        assert batch.garments.shape == (2, count, 4, 64)
        for told in batch.instructions:
            assert f"of image {count + 1}" in told and f"of image {count + 2}" not in told


def test_weights_average_to_one_and_are_higher_on_edits() -> None:
    scenes = [sample_scene(i, 2) for i in range(4)]
    drawn = render(scenes, 96)
    weight = token_weight(scenes, drawn.person_regions, drawn.target_regions, 4.0)
    assert weight.shape == (4, 108)
    torch.testing.assert_close(weight.mean(1), torch.ones(4))
    for i, scene in enumerate(scenes):
        asked = torch.tensor([REGION_OF[g.category] for g in scene.garments], dtype=torch.uint8)
        edited = torch.isin(drawn.target_regions[i], asked).float()
        share = torch.nn.functional.avg_pool2d(edited[None, None], 8).flatten()
        still = (drawn.target_regions[i] == 0) & (drawn.person_regions[i] == 0)
        background = torch.nn.functional.avg_pool2d(still.float()[None, None], 8).flatten()
        assert (weight[i][share == 1] > 3 * weight[i][background == 1].max()).all()
    flat = token_weight(scenes, drawn.person_regions, drawn.target_regions, 0.0)
    assert torch.equal(flat, torch.ones(4, 108))


def test_encoder_returns_what_it_encoded(encoder: Encoder) -> None:
    """Tokens are normalised 2x2 patches: decoding them is the autoencoder's own decoding."""
    x = torch.rand(2, 3, 32, 24, generator=_generator())
    with torch.no_grad():
        latent = encoder.vae.encode(x * 2 - 1).latent_dist.mode()
        direct = (encoder.vae.decode(latent).sample * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(encoder.decode(encoder.encode(x), 32, 24), direct, atol=1e-5, rtol=1e-4)


def _batch(encoder: Encoder) -> Latents:
    return _stream(encoder, mix=(1.0,)).batch(0)


@torch.no_grad()
def test_loss_is_the_weighted_error_of_each_draw_alone(encoder: Encoder, tokenizer) -> None:
    model, latents = random_nano(len(tokenizer)), _batch(encoder)
    value = flow_loss(model, tokenize(tokenizer, latents.instructions), latents, FLOW, _generator(5))

    drawn = _generator(5)
    eps = torch.randn((4, 12, 64), generator=drawn)
    sigma = noise_levels(4, FLOW.shift, drawn)
    errors: list[Tensor] = []
    for i, level in enumerate(sigma.tolist()):
        scene = i // FLOW.draws
        x0, told = latents.target[scene : scene + 1], latents.instructions[scene]
        alone = latents.rows([scene])
        ids = tokenize(tokenizer, latents.instructions)[scene : scene + 1]
        noisy = (1 - level) * x0 + level * eps[i : i + 1]
        velocity = model.dit(packed(model.embed(ids), noisy, sigma[i : i + 1], alone, 32, 16))
        assert told == alone.instructions[0]
        errors.append(latents.weight[scene][:, None] * (velocity - (eps[i] - x0[0])) ** 2)
    assert float(value) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)


@torch.no_grad()
def test_loss_of_a_silent_model_is_the_energy_of_its_target(encoder: Encoder, tokenizer) -> None:
    model, latents = random_nano(len(tokenizer)), _batch(encoder)
    model.dit.proj_out.weight.zero_()
    value = flow_loss(model, tokenize(tokenizer, latents.instructions), latents, FLOW, _generator(3))
    eps = torch.randn((4, 12, 64), generator=_generator(3))
    target = eps - latents.target.repeat_interleave(2, 0)
    expected = (latents.weight.repeat_interleave(2, 0)[..., None] * target**2).mean()
    assert math.isclose(float(value), float(expected), rel_tol=1e-5)


def test_gradients_reach_words_and_network_but_not_the_autoencoder(encoder: Encoder, tokenizer) -> None:
    model: NanoModel = random_nano(len(tokenizer)).train()
    latents = _batch(encoder)
    flow_loss(model, tokenize(tokenizer, latents.instructions), latents, FLOW, _generator()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(n.startswith(("text.layers.3.", "text.norm.")) for n in silent), silent
    assert all(p.grad is None for p in encoder.vae.parameters())
    assert not latents.target.requires_grad
