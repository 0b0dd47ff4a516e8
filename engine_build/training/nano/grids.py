"""Sample grids of a run: held-out scenes dressed by the weights as they stand, one picture to look at a while.

Rows are scenes, columns person, garments, result and truth. Noise comes from a seed of its own, so that looking
changes nothing about training.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine_build.runtime.sampling import Schedule, euler_step, noise
from engine_build.training.data.encoder import Encoder
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.nano.flow import packed, tokenize
from engine_build.training.nano.latents import Latents
from engine_build.world.instructions import instruction_of
from engine_build.world.render import Rendered, render
from engine_build.world.sample_files import sample_row
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import Scene

COUNTS = (1, 2, 4, 6)
"""Garments of the four scenes, as far as the run's mix goes."""
_FIRST_SEED = HELD_OUT_SEED + 5_000
_PIXELS = 8
_ZOOM = 2
_GROUND = (255, 255, 255)


class Grids:
    """Writes `folder/grids/STAGE-STEP.png`, four scenes in `steps` Euler steps each."""

    def __init__(
        self, folder: Path, config: FlowConfig, encoder: Encoder, tokenizer: PreTrainedTokenizerFast, steps: int
    ) -> None:
        self.folder, self.config, self.encoder = folder / "grids", config, encoder
        self.tokenizer, self.steps = tokenizer, steps
        most = len(config.mix)
        self.scenes = [sample_scene(_FIRST_SEED + i, min(k, most)) for i, k in enumerate(COUNTS)]
        self.drawn = [render([scene], config.height, config.shot) for scene in self.scenes]

    def write(self, stage: str, step: int, model: NanoModel) -> Path:
        """One grid with the model's present weights; returns its path."""
        rows = [
            sample_row(drawn, len(scene.garments), self.dress(scene, drawn, model))
            for scene, drawn in zip(self.scenes, self.drawn, strict=True)
        ]
        sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), _GROUND)
        for i, row in enumerate(rows):
            sheet.paste(row, (0, i * row.height))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{stage}-{step}.png"
        sheet.resize((sheet.width * _ZOOM, sheet.height * _ZOOM), Image.Resampling.LANCZOS).save(path)
        return path

    @torch.no_grad()
    def dress(self, scene: Scene, drawn: Rendered, model: NanoModel) -> Tensor:
        """The try-on of one drawn scene, (3, H, W) in [0, 1]."""
        height, width = self.config.height, self.config.height * 3 // 4
        person = self.encoder.encode(drawn.person)
        garments = self.encoder.encode(drawn.garments[0])[None]
        told = (instruction_of(scene),)
        latents = Latents(person, garments, torch.empty(0), torch.empty(0), told)
        text = model.embed(tokenize(self.tokenizer, told))
        x = noise(scene.seed % 2**31, person.shape[2], height // _PIXELS, width // _PIXELS)
        sigmas = Schedule(self.config.shift, use_dynamic_shifting=False).sigmas(len(x), self.steps)
        for now, then in pairwise(sigmas):
            batch = packed(text, x[None], now[None], latents, height, self.config.shot)
            x = euler_step(x, model.dit(batch), float(now), float(then))
        return self.encoder.decode(x[None], height, width)[0]
