"""A trained nano as a folder: our engine serves it, and diffusers and transformers load its parts.

diffusers' Flux2KleinPipeline runs it too, in joint reference attention, with two reservations that are tested
here: nano's tokenizer has no chat template, so the pipeline takes prompt embeddings instead of words, and its
preprocessing refuses reference pictures below 64 px, so garments must be given at 64 px or more.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from nano_runs import write_nano
from PIL import Image
from transformers import AutoTokenizer, Qwen3Model

from engine_build.engine import ImageInput, TryOnRequest
from engine_build.instruction import GarmentPhrase, compose
from engine_build.runtime.torch_engine import EngineOptions, load
from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.nano.grids import Grids
from engine_build.world.instructions import instruction_of
from engine_build.world.sample_files import picture

CONFIG = FlowConfig(height=96, shot=64)
TOLD = compose([GarmentPhrase("coats", "open"), GarmentPhrase("hats")])
STEPS = 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[NanoModel, Path]:
    folder: Path = tmp_path_factory.mktemp("nano")
    return write_nano(folder, CONFIG), folder


def _picture(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


PERSON, COAT, HAT = _picture(72, 96, 0), _picture(64, 64, 1), _picture(64, 64, 2)


def _request(seed: int = 3) -> TryOnRequest:
    garments = (ImageInput(COAT, "coat", "coats", "open"), ImageInput(HAT, "hat", "hats"))
    return TryOnRequest("r", ImageInput(PERSON, "person"), garments, TOLD, seed, STEPS)


def test_our_engine_serves_it(exported: tuple[NanoModel, Path]) -> None:
    engine = load(exported[1], device="cpu")
    info = engine.describe()
    assert (info.reference_attention, info.max_references) == ("isolated", 7)
    assert (info.default_size, info.default_steps, info.size_multiple) == ((72, 96), 2, 8)
    assert "illustrated" in info.note
    first, again = (engine.run([_request()])[0] for _ in range(2))
    assert (first.status, first.nfe, first.approximation) == ("succeeded", STEPS, None)
    assert first.image.size == (72, 96)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    other = engine.run([_request(seed=4)])[0].image
    assert not np.array_equal(np.asarray(first.image), np.asarray(other))


def test_diffusers_and_transformers_load_the_parts(exported: tuple[NanoModel, Path]) -> None:
    model, folder = exported
    transformer, report = Flux2Transformer2DModel.from_pretrained(folder / "transformer", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in model.dit.state_dict().items():
        assert torch.equal(transformer.state_dict()[name], value), name
    _, report = AutoencoderKLFlux2.from_pretrained(folder / "vae", output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    text = Qwen3Model.from_pretrained(folder / "text_encoder").eval()
    ids = tokenizer(TOLD, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == TOLD
    with torch.no_grad():
        torch.testing.assert_close(text(input_ids=ids).last_hidden_state, model.text(input_ids=ids).last_hidden_state)


def test_diffusers_pipeline_paints_what_our_engine_paints_in_joint_form(
    exported: tuple[NanoModel, Path],
) -> None:
    model, folder = exported
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    ids = pipeline.tokenizer(TOLD, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        embeds = model.embed(ids)
    theirs = pipeline(
        image=[PERSON, COAT, HAT],
        prompt_embeds=embeds,
        width=72,
        height=96,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    engine = load(folder, device="cpu", options=EngineOptions(reference_attention="joint"))
    outcome = engine.run([_request()])[0]
    assert outcome.approximation == "references attend as joint, trained as isolated"
    difference = np.abs(np.asarray(theirs, dtype=int) - np.asarray(outcome.image, dtype=int))
    assert difference.mean() < 1 and difference.max() <= 3
    isolated = load(folder, device="cpu").run([_request()])[0].image
    assert not np.array_equal(np.asarray(isolated), np.asarray(outcome.image))


def test_where_diffusers_pipeline_does_not_go(exported: tuple[NanoModel, Path]) -> None:
    pipeline = Flux2KleinPipeline.from_pretrained(exported[1])
    with pytest.raises(ValueError, match="chat template"):
        pipeline(image=PERSON, prompt=TOLD, width=72, height=96, num_inference_steps=1)
    with pytest.raises(ValueError, match="at least 64px"):
        pipeline(image=COAT.resize((40, 40)), prompt_embeds=torch.zeros(1, 4, 192), width=72, height=96)


def test_a_grid_shows_what_our_engine_paints(exported: tuple[NanoModel, Path], tmp_path: Path) -> None:
    model, folder = exported
    encoder = Encoder(AutoencoderKLFlux2.from_pretrained(folder / "vae"))
    grids = Grids(tmp_path, CONFIG, encoder, AutoTokenizer.from_pretrained(folder / "tokenizer"), STEPS)
    path = grids.write("flow", 12, model)
    assert path == tmp_path / "grids" / "flow-12.png"
    sheet = Image.open(path).resize((3 * 72 + 3 * 48, 4 * 96), Image.Resampling.BOX)
    engine = load(folder, device="cpu")
    for i, (scene, drawn) in enumerate(zip(grids.scenes, grids.drawn, strict=True)):
        row = np.asarray(sheet, dtype=int)[96 * i : 96 * (i + 1)]
        person, truth = picture(drawn.person[0]), picture(drawn.target[0])
        shots = [picture(shot) for shot in drawn.garments[0]]
        garments = tuple(
            ImageInput(shot, f"{i}/{j}", garment.category, garment.layer_words)
            for j, (shot, garment) in enumerate(zip(shots, scene.garments, strict=True))
        )
        request = TryOnRequest(
            "g", ImageInput(person, f"{i}"), garments, instruction_of(scene), scene.seed % 2**31, STEPS
        )
        painted = engine.run([request])[0].image
        for left, expected in ((0, person), (72 + 144, painted), (144 + 144, truth)):
            inner = np.abs(row[4:92, left + 4 : left + 68] - np.asarray(expected, dtype=int)[4:92, 4:68])
            assert inner.mean() < 4, (i, left)


def test_the_folder_says_what_it_is(exported: tuple[NanoModel, Path]) -> None:
    folder = exported[1]
    index = json.loads((folder / "model_index.json").read_text())
    assert {name for name in index if not name.startswith("_") and name != "is_distilled"} == {
        path.name for path in folder.iterdir() if path.is_dir()
    }
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["shift"], scheduler["use_dynamic_shifting"]) == (CONFIG.shift, False)
