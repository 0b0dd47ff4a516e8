"""Training of the parser that ships, `engine_build.regions.world`, on the procedural world's own finer regions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine_build.regions.world import HEIGHT, WorldParser
from engine_build.support.regions import NAMES
from engine_build.training.loop.run import Run
from engine_build.world.render import render
from engine_build.world.scenes import sample_scene

FILE = "world_parser.safetensors"
_FIRST_SEED = 400_000_000
_AGAIN = 1_000_000


def batches(scenes: int, skipped: int = 0, height: int = HEIGHT) -> Iterator[tuple[Tensor, Tensor]]:
    """Photos and targets of training scenes (2 scenes, 3, H, W) and their parts (2 scenes, H, W), endlessly."""
    seed = _FIRST_SEED + skipped
    while True:
        drawn = render([sample_scene(seed + i) for i in range(scenes)], height, 8, parts=True)
        seed += scenes
        assert drawn.person_parts is not None and drawn.target_parts is not None
        yield torch.cat([drawn.person, drawn.target]), torch.cat([drawn.person_parts, drawn.target_parts]).long()


def weights_of(parts: Tensor) -> Tensor:
    """(R,): what a pixel of each region counts, the less the more there are: hands are few, backgrounds many."""
    share = torch.bincount(parts.flatten(), minlength=len(NAMES)).float() / parts.numel()
    weight = (share + 1e-3) ** -0.3
    return weight / weight.mean()


def blurred(pictures: Tensor, smallest: int = HEIGHT // 2) -> Tensor:
    """Pictures (N, 3, H, W) as if taken at a smaller size, of `smallest` rows or more, and enlarged."""
    height, width = pictures.shape[2:]
    rows = int(torch.randint(smallest, height + 1, ()))
    small = F.interpolate(pictures, (rows, rows * width // height), mode="bilinear", antialias=True)
    return F.interpolate(small, (height, width), mode="bilinear")


def train(
    folder: Path, steps: int = 1500, scenes: int = 6, learning_rate: float = 4e-3, start: Path | None = None
) -> WorldParser:
    """Train and write `folder/FILE` in half precision; from the weights of `start`, if given, on other scenes."""
    torch.manual_seed(0)
    run, model = Run(folder, "parser"), WorldParser()
    if start is not None:
        model.load_state_dict({k: v.float() for k, v in load_file(start).items()}, strict=True)
    source = batches(scenes, 0 if start is None else _AGAIN)
    weight = weights_of(torch.cat([next(source)[1] for _ in range(8)]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for step, bar, task in run.progress(0, steps):
        pictures, truth = next(source)
        noise = 0.06 * torch.rand(len(pictures), 1, 1, 1) * torch.randn_like(pictures)
        light = 0.85 + 0.3 * torch.rand(len(pictures), 3, 1, 1)
        if step % 3 == 0:
            pictures = blurred(pictures)
        logits = model(((pictures + noise) * light).clamp(0, 1))
        loss = F.cross_entropy(logits, truth, weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            right = (logits.argmax(1) == truth).float().mean()
            run.log(step, loss=loss.detach(), accuracy=right)
            bar.update(task, description=f"parser {float(right):.3f}")
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, folder / FILE)
    return model.eval()
