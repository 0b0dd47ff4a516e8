"""Scores of a generated try-on against the procedural world's exact truth.

Four dimensions, each mapped to 1 to 10, and their geometric mean a sample (the benchmark's Overall is the
mean of those over samples). Where the instruction leaves a choice open (coat open or closed, shirt tucked or not,
the bag's place), the picture is judged against the nearest truth it allows.

| dimension | 1 | 10 |
| --- | --- | --- |
| identity | head at 12 dB, or its lines unrelated | head at 30 dB, its lines the truth's |
| garment fidelity | omitted; or 8 dB and every attribute misread | 24 dB, attributes read as from the truth |
| background | 12 dB | 32 dB |
| physics | borders between regions unrelated, layers wrong | borders and layers the truth's |

Letters: H, W picture; pictures are (3, H, W) in [0, 1], masks (H, W) bool.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine_build.training.measure.classifier import Classifier, crops, labels
from engine_build.world.render import garment_region, head_region, unchanged_background
from engine_build.world.specs import SMALLEST, GarmentSpec
from engine_build.world.wrong_outfits import Truth, WrongOutfits, wrong_for

_CEILING = 60.0
_PLAIN_TO_SEE = 0.15
_LOWEST_LINES = 0.2
"""Agreement of lines that earns nothing: unrelated pictures of one person come near it."""


@dataclass(frozen=True)
class Scores:
    """Everything measured on one sample; lists hold one entry a judged garment or layering."""

    background_psnr: float
    head_psnr: float
    garment_psnr: list[float]
    categories: list[str]
    retrieval: list[bool]
    omitted: list[bool]
    attributes: list[float]
    attributes_truth: list[float]
    layering: list[bool]
    fidelity: list[float]
    sharpness: float
    identity: float
    garment_fidelity: float
    background: float
    physics: float

    @property
    def overall(self) -> float:
        """Geometric mean of the four dimensions."""
        return math.prod((self.identity, self.garment_fidelity, self.background, self.physics)) ** 0.25


def nearest(output: Tensor, truths: list[Truth]) -> int:
    """Index of the admissible truth with the smallest squared error; the first of equals."""
    return min(range(len(truths)), key=lambda i: float((output - truths[i].target).square().mean()))


def judged(
    outputs: list[list[Tensor]], truths: list[list[Truth]], judge: Classifier, others: bool = True
) -> list[list[Scores]]:
    """Scores of several outputs (3, H, W) a scene; the wrong outfits of one truth are drawn once.

    Without `others` nothing is said about retrieval, at a fraction of the cost.
    """
    choice = [[nearest(one, allowed) for one in some] for some, allowed in zip(outputs, truths, strict=True)]
    needed = sorted({(i, k) for i, row in enumerate(choice) for k in row})
    wrong = dict(zip(needed, wrong_for([truths[i][k] for i, k in needed], others), strict=True))
    return [
        [score(one, truths[i][k], wrong[i, k], judge) for one, k in zip(some, choice[i], strict=True)]
        for i, some in enumerate(outputs)
    ]


@torch.no_grad()
def score(output: Tensor, truth: Truth, wrong: WrongOutfits, judge: Classifier) -> Scores:
    """Judge one output against the admissible truth nearest to it."""
    shown = truth.shown()
    head = head_region(truth.after) & head_region(truth.before)
    psnrs = [region_psnr(output, truth.target, mask) for _, mask in shown]
    gone = [omitted(output, truth, wrong, g.category) for g, _ in shown]
    attributes, attributes_truth = _attributes(output, truth, shown, judge)
    layering = layers(output, truth, wrong)
    background_psnr = region_psnr(output, truth.target, unchanged_background(truth.before, truth.after))
    head_psnr = region_psnr(output, truth.target, head)
    fidelity = [
        1.0 if missing else scale(0.5 * _ratio(read, readable) + 0.5 * _share(db, 8, 24), 0, 1)
        for missing, read, readable, db in zip(gone, attributes, attributes_truth, psnrs, strict=True)
    ]
    order = sum(layering) / len(layering) if layering else 1.0
    lines = edge_agreement(output, truth.target, borders(truth.after))
    face_lines = edge_agreement(output, truth.target, head)
    return Scores(
        background_psnr=background_psnr,
        head_psnr=head_psnr,
        garment_psnr=psnrs,
        categories=[g.category for g, _ in shown],
        retrieval=[retrieved(output, truth, wrong, g.category) for g, _ in shown if wrong.others],
        omitted=gone,
        attributes=attributes,
        attributes_truth=attributes_truth,
        layering=layering,
        fidelity=fidelity,
        sharpness=float(energy(output) / energy(truth.target)),
        identity=scale(math.sqrt(_share(head_psnr, 12, 30) * _share(face_lines, _LOWEST_LINES, 1)), 0, 1),
        garment_fidelity=sum(fidelity) / len(fidelity) if fidelity else 10.0,
        background=scale(background_psnr, 12, 32),
        physics=scale(0.7 * _share(lines, _LOWEST_LINES, 1) + 0.3 * order, 0, 1),
    )


def region_psnr(output: Tensor, truth: Tensor, mask: Tensor) -> float:
    """dB inside a mask, at most 60; NaN for an empty one."""
    if not bool(mask.any()):
        return math.nan
    error = (output - truth).square().mean(0)[mask].mean()
    return min(_CEILING, float(-10 * torch.log10(error.clamp_min(1e-12))))


def energy(x: Tensor) -> Tensor:
    """Mean squared gradient of a picture."""
    return (x[:, :, 1:] - x[:, :, :-1]).square().mean() + (x[:, 1:] - x[:, :-1]).square().mean()


def retrieved(output: Tensor, truth: Truth, wrong: WrongOutfits, category: str) -> bool:
    """Whether the asked garment is nearer than 15 others of its category, each drawn on this very person."""
    others, regions = wrong.others[category]
    mask = garment_region(torch.cat([truth.after[None], regions]), category).any(0)
    errors = (torch.cat([truth.target[None], others]) - output).square().mean(1)[:, mask].mean(1)
    return int(errors.argmin()) == 0


def omitted(output: Tensor, truth: Truth, wrong: WrongOutfits, category: str) -> bool:
    """Whether a garment's place looks more like the photo, or like nothing worn, than like the truth.

    All are compared out of focus: whether something is there must not depend on how sharp it is.
    """
    mask = garment_region(truth.after, category)
    return any(
        _nearer(_soft(output), _soft(bare), _soft(truth.target), mask & differs(bare, truth.target, _PLAIN_TO_SEE))
        for bare in (truth.person, wrong.without[category])
    )


def layers(output: Tensor, truth: Truth, wrong: WrongOutfits) -> list[bool]:
    """For each layer the instruction names and the picture can show: nearer to it than to its opposite?

    A garment that was omitted is not layered right.
    """
    checks = []
    for category, other in wrong.opposite.items():
        mask = differs(other, truth.target)
        if int(mask.sum()) >= SMALLEST:
            wrong_way = _nearer(output, other, truth.target, mask, ties=True)
            checks.append(not wrong_way and not omitted(output, truth, wrong, category))
    return checks


def differs(a: Tensor, b: Tensor, least: float = 0.05) -> Tensor:
    """Mask of pixels where two pictures differ by more than `least` in some channel."""
    return (a - b).abs().amax(0) > least


def _soft(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x[None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0]


def _nearer(output: Tensor, this: Tensor, that: Tensor, mask: Tensor, ties: bool = False) -> bool:
    """Whether output is nearer to `this` than to `that` inside the mask; False where too little shows."""
    if int(mask.sum()) < SMALLEST:
        return False
    to_this = float((output - this).square().mean(0)[mask].mean())
    to_that = float((output - that).square().mean(0)[mask].mean())
    return to_this < to_that or (ties and to_this == to_that)


def borders(regions: Tensor) -> Tensor:
    """Mask of pixels at most two from a border between regions (H, W): silhouette, hems, layers."""
    labelled = regions[None, None].float()
    high, low = F.max_pool2d(labelled, 5, 1, 2), -F.max_pool2d(-labelled, 5, 1, 2)
    return (high != low)[0, 0]


def edge_agreement(output: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Cosine between luminance gradients of two pictures inside a mask: lines without colour.

    Only steps from pixel to pixel that both lie inside count. Two pictures without lines agree: 1.
    """

    def gradient(x: Tensor) -> Tensor:
        grey = x.mean(0).double()
        across = (grey[:, 1:] - grey[:, :-1])[mask[:, 1:] & mask[:, :-1]]
        down = (grey[1:] - grey[:-1])[mask[1:] & mask[:-1]]
        return torch.cat([across, down])

    a, b = gradient(output), gradient(truth)
    ours, theirs = float(a @ a), float(b @ b)
    if not ours or not theirs:
        return float(ours == theirs)
    return float(a @ b) / math.sqrt(ours * theirs)


def scale(value: float, low: float, high: float) -> float:
    """Map linearly to 1 at `low` and 10 at `high`, clipped. Nothing to judge (NaN) is no fault: 10."""
    return 1 + 9 * _share(value, low, high)


def _share(value: float, low: float, high: float) -> float:
    return 1.0 if math.isnan(value) else min(1.0, max(0.0, (value - low) / (high - low)))


def _ratio(read: float, readable: float) -> float:
    return min(1.0, read / readable) if readable else 1.0


def _attributes(
    output: Tensor, truth: Truth, shown: list[tuple[GarmentSpec, Tensor]], judge: Classifier
) -> tuple[list[float], list[float]]:
    """Share of category, pattern and colour read right, a garment, from the output and from the truth."""
    if not shown:
        return [], []
    n = len(shown)
    masks = torch.stack([mask for _, mask in shown]).repeat(2, 1, 1)
    wanted = labels([garment for garment, _ in shown]).repeat(2, 1)
    pictures = torch.stack([output, truth.target]).repeat_interleave(n, 0)
    logits = judge(crops(pictures, masks))
    right = torch.stack([one.argmax(1) == wanted[:, i] for i, one in enumerate(logits)], 1).float().mean(1)
    return right[:n].tolist(), right[n:].tolist()
