"""What a network's pictures are worth on held-out scenes: scores, KID on the judge's features, diversity.

Pictures come from the training sampler, so that guidance, cut schedules and unfinished networks can be measured
alike, and are judged against the nearest truth their scene's instruction allows. PSNR alone rewards blur:
sharpness, KID and diversity stand beside it.

Letters: N pictures or crops, D features (128), S scenes, K pictures of one scene.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from engine_build.training.data.sample import Tokens, encode
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.measure.classifier import Classifier, crops, labels
from engine_build.training.measure.sampler import draw, strength
from engine_build.training.measure.scores import Scores, judged
from engine_build.training.measure.summary import by_category, by_count, summary
from engine_build.world.render import garment_region, render
from engine_build.world.scenes import HELD_OUT_SEED
from engine_build.world.specs import SMALLEST, GarmentSpec, Scene
from engine_build.world.wrong_outfits import admissible

FIRST = HELD_OUT_SEED // 64 + 100_000
DIMENSIONS = ("identity", "garment_fidelity", "background", "physics")
"""The scores a network is rewarded for, in the order of every row of rewards."""


@dataclass(frozen=True)
class HeldOut:
    """Scenes nobody trains on, as tokens, pictures (3, H, W) of their truth and its region maps (H, W)."""

    samples: list[Tokens]
    targets: Tensor
    regions: Tensor

    @property
    def scenes(self) -> list[Scene]:
        return [sample.scene for sample in self.samples if sample.scene is not None]

    @classmethod
    def make(cls, parts: NetworkParts, height: int, shot: int, count: int, mix: tuple[float, ...]) -> HeldOut:
        """`count` scenes, balanced over categories, numbers of garments as in `mix`."""
        drawn = WorldTryOns(height, shot, mix).draw(range(FIRST, FIRST + count))
        scenes = [sample.scene for sample in drawn if sample.scene is not None]
        regions = torch.cat([render(scenes[i : i + 32], height, shot).target_regions for i in range(0, count, 32)])
        return cls(encode(parts.encoder, drawn), torch.stack([sample.target for sample in drawn]).cpu(), regions)


@dataclass(frozen=True)
class Way:
    """A way to sample: Euler steps and guidance (1 is none), everywhere or focused on what is asked for."""

    steps: int
    guidance: float = 1.0
    focus: bool = False

    @property
    def nfe(self) -> int:
        return self.steps * (1 if self.guidance == 1.0 else 2)


def assess(
    parts: NetworkParts,
    held: HeldOut,
    way: Way,
    judge: Classifier,
    seed: int = 0,
    rare: tuple[str, ...] = (),
    repeats: int = 4,
    retrieval: bool = True,
) -> dict[str, object]:
    """Every figure of one network sampled one way; `repeats` pictures a scene for diversity, at least 2."""
    pictures, seconds = generate(parts, held.samples, way, seed)
    rows: list[Scores] = []
    for i in range(0, len(pictures), 8):
        scores = world_scores([[p] for p in pictures[i : i + 8]], held.scenes[i : i + 8], judge, retrieval)
        rows += [row[0] for row in scores]
    few = held.samples[: min(16, len(held.samples))]
    again = torch.stack([generate(parts, few, way, seed + 1 + k)[0] for k in range(repeats)], 1)
    found, truth = features(pictures, held, judge), features(held.targets, held, judge)
    return {
        **summary(rows, round(seconds, 5), way.nfe),
        "steps": way.steps,
        "guidance": way.guidance,
        "focus": way.focus,
        "samples": len(rows),
        "kid": kid(found, truth),
        "diversity": diversity(again, [sample.share for sample in few], held.samples[0].grid),
        "by_category": by_category(rows),
        "by_garments": by_count(rows, held.scenes),
        "patterns": pattern_accuracy(pictures, held, judge, rare),
    }


@torch.no_grad()
def generate(
    parts: NetworkParts, samples: Sequence[Tokens], way: Way, seed: int = 0, batch: int = 16, encode_once: bool = True
) -> tuple[Tensor, float]:
    """Pictures (N, 3, H, W) on the CPU of samples of one size, and seconds a picture of the denoising alone."""
    pictures, spent = [], 0.0
    side = parts.encoder.token_pixels
    for i in range(0, len(samples), batch):
        some = samples[i : i + batch]
        packed = conditioned(parts, some)
        null = conditioned(parts, [one.unconditioned() for one in some]) if way.guidance != 1.0 else None
        towards = strength(some, way.guidance, way.focus) if null is not None else 1.0
        noises = []
        for j, one in enumerate(some):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + i + j)
            noises.append(torch.randn(one.target.shape, generator=generator))
        eps = torch.cat(noises).to(packed.target.device)
        began = time.perf_counter()
        x = draw(parts.dit, packed, eps, parts.schedule, way.steps, towards, null, encode_once)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        spent += time.perf_counter() - began
        rows, columns = some[0].grid
        pictures.append(parts.encoder.decode(x.view(len(some), -1, x.shape[1]), rows * side, columns * side).cpu())
    return torch.cat(pictures), spent / len(samples)


def world_scores(
    pictures: Sequence[list[Tensor]], scenes: Sequence[Scene], judge: Classifier, retrieval: bool = False
) -> list[list[Scores]]:
    """Judges pictures (3, H, W) of each scene against the nearest truth its instruction allows."""
    height = pictures[0][0].shape[1]
    return judged(list(pictures), admissible(list(scenes), height), judge, retrieval)


def features(pictures: Tensor, held: HeldOut, judge: Classifier) -> Tensor:
    """(N, D) the judge's features of every requested garment that shows, cut by the true region map."""
    found = []
    with torch.no_grad():
        for picture, _, mask in _garments(pictures, held):
            found.append(judge.features(crops(picture[None], mask[None])))
    return torch.cat(found) if found else torch.empty(0, 128)


def kid(a: Tensor, b: Tensor) -> float | None:
    """Unbiased squared MMD of features (N, D), (M, D), kernel `(x y / D + 1)^3` (Binkowski et al., 2018).

    Features are first divided by the standard deviation of `b`'s. None for fewer than two of either.
    """
    n, m, d = len(a), len(b), a.shape[1]
    if n < 2 or m < 2:
        return None
    scale = b.double().std().clamp_min(1e-9)
    x, y = a.double() / scale, b.double() / scale
    xx, yy, xy = ((p @ q.T / d + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    own = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return round(float(own - 2 * xy.mean()), 6)


def diversity(pictures: Tensor, shares: Sequence[Tensor], grid: tuple[int, int]) -> float | None:
    """Mean pixel distance (root mean square) of pictures (S, K, 3, H, W) of one scene, where the edit is."""
    height, width = pictures.shape[-2:]
    values = []
    for group, share in zip(pictures, shares, strict=True):
        region = share.cpu().view(grid).repeat_interleave(height // grid[0], 0)
        region = region.repeat_interleave(width // grid[1], 1) > 0.5
        if bool(region.any()):
            pairs = [(a - b)[:, region].square().mean().sqrt() for a, b in combinations(group, 2)]
            values.append(float(torch.stack(pairs).mean()))
    return round(sum(values) / len(values), 5) if values else None


def pattern_accuracy(pictures: Tensor, held: HeldOut, judge: Classifier, rare: tuple[str, ...]) -> dict[str, object]:
    """Share of garments whose pattern is read right, apart for patterns that training left rare."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    with torch.no_grad():
        for picture, spec, mask in _garments(pictures, held):
            read = int(judge(crops(picture[None], mask[None]))[1].argmax())
            right[spec.pattern in rare].append(read == int(labels([spec])[0, 1]))
    share = {name: _mean(right[key]) for name, key in (("rare", True), ("common", False))}
    return {**share, "rare_count": len(right[True]), "common_count": len(right[False])}


def _garments(pictures: Tensor, held: HeldOut) -> list[tuple[Tensor, GarmentSpec, Tensor]]:
    result = []
    for picture, scene, regions in zip(pictures, held.scenes, held.regions, strict=True):
        for garment in scene.garments:
            mask = garment_region(regions, garment.category)
            if int(mask.sum()) >= SMALLEST:
                result.append((picture, garment, mask))
    return result


def _mean(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
