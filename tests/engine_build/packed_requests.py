"""A tiny MMDiT and packs of requests for it: equal, unequal, without references, without text."""

import torch
from tiny import tiny_transformer

from engine_build.config import ModelConfig, ReferenceAttention
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, grid_ids


def build(mode: ReferenceAttention) -> MMDiT:
    theirs = tiny_transformer()
    model = MMDiT(ModelConfig.from_diffusers(dict(theirs.config), mode)).eval()
    model.load_state_dict(theirs.state_dict())
    return model


def request(seed: int, text: int, grid: tuple[int, int], *references: tuple[int, int]) -> Sequence:
    g = torch.Generator().manual_seed(seed)
    images = tuple(
        Reference(torch.randn(h * w, 16, generator=g), grid_ids(h, w, t=10 * (i + 1)))
        for i, (h, w) in enumerate(references)
    )
    target = torch.randn(grid[0] * grid[1], 16, generator=g)
    sigma = torch.rand((), generator=g)
    return Sequence(torch.randn(text, 48, generator=g), target, grid_ids(*grid), sigma, images)


MIXES = {
    "different": [
        request(0, 5, (3, 3), (2, 2), (3, 1)),
        request(1, 9, (4, 5)),
        request(2, 5, (3, 3), (4, 4)),
        request(3, 2, (1, 7), (2, 2), (2, 2), (2, 2)),
    ],
    "equal": [request(i, 6, (3, 4), (2, 2), (3, 3)) for i in range(3)],
    "same length but different references": [
        request(0, 6, (3, 4), (2, 2), (2, 1)),
        request(1, 6, (3, 4), (3, 2)),
    ],
    "none has references": [request(0, 6, (3, 4)), request(1, 5, (2, 2))],
    "no text": [request(0, 0, (3, 4), (2, 2)), request(1, 0, (2, 2), (1, 1))],
}
