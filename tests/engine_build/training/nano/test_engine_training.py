"""What training computes and what the engine computes are the same function of pictures and words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine_build.config import PRESETS
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.request.plan import plan
from engine_build.runtime.torch_engine import TorchEngine, load
from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.export import export
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.loop.tokenizer import train as train_tokenizer
from engine_build.training.nano.flow import packed, tokenize
from engine_build.training.nano.latents import Latents
from engine_build.training.nano.vae import VaeConfig, build
from engine_build.world.instructions import instruction_of
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import sample_scene

FLOW = FlowConfig()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[NanoModel, Encoder, object, TorchEngine]:
    """A random nano, exported as training exports it, and loaded as the service loads it."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(samples=100)
    model = NanoModel(PRESETS["nano"], len(tokenizer)).eval()
    vae = build(VaeConfig()).eval()
    with torch.no_grad():
        for name, weight in model.dit.named_parameters():
            if "modulation" in name or "proj_out" in name or "norm_out" in name:
                weight.normal_(0, 0.05)
        vae.bn.running_mean.normal_(0, 0.3)
        vae.bn.running_var.uniform_(0.5, 1.5)
    folder: Path = tmp_path_factory.mktemp("nano")
    export(folder, model, vae, tokenizer, FLOW, 4)
    return model, Encoder(vae), tokenizer, load(folder, device="cpu")


@pytest.mark.parametrize("count", [1, 3, 6])
@torch.no_grad()
def test_one_step_is_the_trained_velocity(trained, count: int) -> None:
    model, encoder, tokenizer, engine = trained
    scene = sample_scene(7, count)
    drawn = render([scene], FLOW.height, FLOW.shot)
    told = instruction_of(scene)
    shots = drawn.garments[0, :count]
    garments = tuple(ImageInput(picture(shot), f"{count}-{i}") for i, shot in enumerate(shots))
    request = TryOnRequest("r", ImageInput(picture(drawn.person[0]), f"{count}"), garments, told)

    planned = plan(request, engine.config, 8, "sheets")
    fitted = [planned.person, *planned.passes[0].garments]
    for before, after in zip((request.person, *garments), fitted, strict=True):
        assert np.array_equal(np.asarray(before.image), np.asarray(after.image))
    assert planned.passes[0].instruction == told

    latents = Latents(
        encoder.encode((drawn.person * 255).round() / 255),
        encoder.encode((shots * 255).round() / 255)[None],
        torch.empty(0),
        torch.empty(0),
        (told,),
    )
    x = torch.randn(1, 108, 64, generator=torch.Generator().manual_seed(count))
    text = model.embed(tokenize(tokenizer, (told,)))
    batch = packed(text, x, torch.tensor([0.6]), latents, FLOW.height, FLOW.shot)
    velocity = model.dit(batch)

    state = engine.pipeline.begin(engine.pipeline.condition(told, fitted), (72, 96), 1)
    state.x, state.sigmas, state.levels = x[0].clone(), (0.6, 0.0), torch.tensor([0.6, 0.0])
    engine.pipeline.advance([state])
    torch.testing.assert_close((x[0] - state.x) / 0.6, velocity, rtol=1e-4, atol=1e-4)
