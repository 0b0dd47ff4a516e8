"""Whole pictures against diffusers' pipelines, from the same weights, words, references and noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinKVPipeline, Flux2KleinPipeline
from PIL import Image
from tiny import TEXT_LAYERS, tiny_pipeline

from engine_build.config import CheckpointConfig, ReferenceAttention
from engine_build.model.text_encoder import TextEncoder
from engine_build.request.reference_pictures import fit_area
from engine_build.runtime.caches import Caches
from engine_build.runtime.loading import load_pipeline, pick_kernels
from engine_build.runtime.pipeline import Pipeline

TEXT_TOKENS = 96
WORDS = "The person of image 1, wearing the coat of image 2 open."
SIZES = ((64, 96), (130, 77), (200, 90), (71, 333))


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth random colours at full contrast."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3))
    return Image.fromarray(pixels.astype(np.uint8)).resize(size)


def lively_checkpoint(folder: Path, seed: int, kv: bool) -> Path:
    """A tiny checkpoint whose picture depends visibly on its words and references."""
    pipeline = tiny_pipeline(seed, kv)
    with torch.no_grad():
        for name, weight in pipeline.transformer.named_parameters():
            if "stream_modulation" in name:
                weight.mul_(12)
            elif "norm_q" in name or "norm_k" in name or "norm_added" in name:
                weight.mul_(1.7)
            elif "time_guidance_embed" in name or "to_out" in name:
                weight.mul_(2)
    pipeline.save_pretrained(folder)
    return folder


def ours(folder: Path, mode: ReferenceAttention) -> Pipeline:
    CheckpointConfig(mode, text_layers=TEXT_LAYERS, max_text_tokens=TEXT_TOKENS).save(folder)
    return load_pipeline(
        folder,
        kernels=pick_kernels("torch"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        caches=Caches.of(text_bytes=1 << 20, latent_bytes=1 << 20, reference_bytes=1 << 20),
    )


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Flux2KleinPipeline, Pipeline]:
    folder = lively_checkpoint(tmp_path_factory.mktemp("klein"), seed=0, kv=False)
    return quiet(Flux2KleinPipeline.from_pretrained(folder)), ours(folder, "joint")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Flux2KleinKVPipeline, Pipeline]:
    folder = lively_checkpoint(tmp_path_factory.mktemp("klein-kv"), seed=3, kv=True)
    return quiet(Flux2KleinKVPipeline.from_pretrained(folder)), ours(folder, "shared")


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compare(theirs, mine: Pipeline, references: int, size: tuple[int, int], steps: int) -> None:
    """At most 1/255 apart on average and 3/255 anywhere; the picture itself must not be flat."""
    width, height = size
    pictures = [photo(edge, seed) for seed, edge in enumerate(SIZES[:references])]
    start = torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(5))
    expected = theirs(
        image=pictures or None,
        prompt=WORDS,
        width=width,
        height=height,
        num_inference_steps=steps,
        latents=start,
        max_sequence_length=TEXT_TOKENS,
        text_encoder_out_layers=TEXT_LAYERS,
    ).images[0]
    fitted = [fit_area(picture, 1024 * 1024, 8) for picture in pictures]
    picture = mine.generate(WORDS, fitted, size, steps, start=start[0])
    assert picture.size == expected.size == size
    assert np.asarray(expected).std() > 20
    difference = np.abs(np.asarray(picture, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() <= 1
    assert difference.max() <= 3


@pytest.mark.parametrize("references", [0, 1, 2, 4])
@pytest.mark.parametrize(("size", "steps"), [((72, 96), 4), ((128, 64), 3)])
def test_same_picture_as_klein(joint, references: int, size: tuple[int, int], steps: int) -> None:
    compare(*joint, references, size, steps)


@pytest.mark.parametrize("references", [0, 1, 2, 4])
def test_same_picture_as_klein_kv(shared, references: int) -> None:
    compare(*shared, references, (72, 96), 4)


def test_the_bounds_would_notice_references_that_are_lost_or_swapped(shared) -> None:
    _, mine = shared
    pictures = [fit_area(photo(edge, seed), 1024 * 1024, 8) for seed, edge in enumerate(SIZES[:2])]
    own = np.asarray(mine.generate(WORDS, pictures, (72, 96), 4, seed=1), dtype=int)
    swapped = np.asarray(mine.generate(WORDS, pictures[::-1], (72, 96), 4, seed=1), dtype=int)
    lost = np.asarray(mine.generate(WORDS, pictures[:1], (72, 96), 4, seed=1), dtype=int)
    assert np.abs(own - swapped).max() > 3
    assert np.abs(own - lost).max() > 3


def test_noise_of_a_seed_is_diffusers_noise(joint) -> None:
    theirs, mine = joint
    expected = theirs(
        prompt=WORDS,
        width=72,
        height=96,
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(11),
        max_sequence_length=TEXT_TOKENS,
        text_encoder_out_layers=TEXT_LAYERS,
    ).images[0]
    picture = mine.generate(WORDS, [], (72, 96), 2, seed=11)
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(expected, dtype=int)).max() <= 3


def test_prompts_beyond_the_limit_are_cut_as_diffusers_cuts_them(joint) -> None:
    theirs, mine = joint
    long = WORDS * 10
    expected, _ = theirs.encode_prompt(long, max_sequence_length=TEXT_TOKENS, text_encoder_out_layers=TEXT_LAYERS)
    text = mine.text_encoder.encode(long)
    assert text.shape == (TEXT_TOKENS, 48)
    torch.testing.assert_close(text, expected[0], rtol=1e-4, atol=1e-5)


def test_only_the_layers_in_use_are_built(joint) -> None:
    theirs, mine = joint
    assert len(theirs.text_encoder.model.layers) == 4
    assert len(mine.text_encoder.model.layers) == 3


def test_the_last_hidden_state_is_normalised_as_in_transformers(joint, tmp_path: Path) -> None:
    theirs, _ = joint
    theirs.save_pretrained(tmp_path)
    CheckpointConfig("joint", text_layers=(1, 2, 4), max_text_tokens=TEXT_TOKENS).save(tmp_path)
    config = CheckpointConfig.load(tmp_path)
    encoder = TextEncoder.load(tmp_path, config, device=torch.device("cpu"), dtype=torch.float32)
    expected, _ = theirs.encode_prompt(WORDS, max_sequence_length=TEXT_TOKENS, text_encoder_out_layers=(1, 2, 4))
    torch.testing.assert_close(encoder.encode(WORDS), expected[0], rtol=1e-4, atol=1e-5)
