"""The judge's eyes: a small network that reads category, pattern and colour from a garment on a person.

It is trained on true pictures only and frozen in `judge.safetensors`; evaluation asks it about true and
generated pictures alike, so its own mistakes cancel in the ratio.

Letters: N garments, S side of a crop (32).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine_build.training.loop.run import Run
from engine_build.world.render import garment_region, render
from engine_build.world.scenes import sample_scene
from engine_build.world.specs import CATEGORIES, COLOURS, PATTERNS, SMALLEST, GarmentSpec

JUDGE = Path(__file__).parent / "judge.safetensors"
SIDE = 32


class Classifier(nn.Module):
    """(N, 3, 32, 32) crops in [0, 1] to logits (N, 8), (N, 7), (N, 12) and features (N, 128)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.heads = nn.ModuleList(nn.Linear(128, len(names)) for names in (CATEGORIES, PATTERNS, COLOURS))

    def features(self, x: Tensor) -> Tensor:
        x = x * 2 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.avg_pool2d(F.silu(norm(convolution(x))), 2)
        return x.amax((2, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        category, pattern, colour = (head(features) for head in self.heads)
        return category, pattern, colour


def labels(specs: list[GarmentSpec]) -> Tensor:
    """(N, 3): indices of category, pattern and main colour."""
    rows = [(CATEGORIES.index(g.category), PATTERNS.index(g.pattern), COLOURS.index(g.colour)) for g in specs]
    return torch.tensor(rows)


def crops(pictures: Tensor, masks: Tensor) -> Tensor:
    """(N, 3, 32, 32): the square round each mask (N, H, W), a tenth wider, cut from (N, 3, H, W)."""
    n, height, width = masks.shape
    rows, columns = masks.any(2).float(), masks.any(1).float()
    top, bottom = rows.argmax(1), height - rows.flip(1).argmax(1)
    left, right = columns.argmax(1), width - columns.flip(1).argmax(1)
    side = torch.maximum(bottom - top, right - left).float() * 1.2 + 2
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y = ((top + bottom)[:, None] + side[:, None] * axis) / height - 1
    x = ((left + right)[:, None] + side[:, None] * axis) / width - 1
    grid = torch.stack([x[:, None, :].expand(n, SIDE, SIDE), y[:, :, None].expand(n, SIDE, SIDE)], -1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def batches(height: int, scenes: int = 24) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops and labels of what people wear in training scenes, endlessly."""
    seed = 300_000_000
    while True:
        drawn_scenes = [sample_scene(seed + i, None) for i in range(scenes)]
        seed += scenes
        drawn = render(drawn_scenes, height)
        pictures, masks, specs = [], [], []
        for i, scene in enumerate(drawn_scenes):
            for worn in scene.target:
                mask = garment_region(drawn.target_regions[i], worn.spec.category)
                if int(mask.sum()) >= SMALLEST:
                    pictures.append(drawn.target[i])
                    masks.append(mask)
                    specs.append(worn.spec)
        yield crops(torch.stack(pictures), torch.stack(masks)), labels(specs)


def train(folder: Path, steps: int = 1500, height: int = 96, learning_rate: float = 2e-3) -> Classifier:
    """Train on true pictures with a little noise, write `folder/judge.safetensors`."""
    torch.manual_seed(0)
    run, model = Run(folder, "judge"), Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    source = batches(height)
    for step, bar, task in run.progress(0, steps):
        x, truth = next(source)
        x = x + 0.03 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
        logits = model(x)
        loss = sum(F.cross_entropy(one, truth[:, i]) for i, one in enumerate(logits))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            right = torch.stack([one.argmax(1) == truth[:, i] for i, one in enumerate(logits)]).float().mean()
            run.log(step, loss=loss.detach(), accuracy=right)
            bar.update(task, description=f"judge {float(right):.3f}")
    save_file(model.state_dict(), folder / "judge.safetensors")
    return model.eval()


def load(path: Path = JUDGE) -> Classifier:
    """The frozen judge."""
    model = Classifier()
    model.load_state_dict(load_file(path), strict=True)
    return model.eval()
