"""How near results come to photographs: FID and KID, paired and unpaired, SSIM, LPIPS, and what lies outside a mask.

Conventions are those of CatVTON's and FastFit's eval.py: the truth is resized by LANCZOS to the result's height, its
width following and cut to whole pixels; FID and KID as clean-fid has them, KID times 1000; LPIPS on SqueezeNet. A
figure whose weights the user did not name is not measured, and a sample without a result is left out of every figure
and counted.

Outside a mask a result is compared with the person's photograph: both are painted white where change is allowed, and
only places elsewhere are averaged. (OmniTry-Bench averages over the painted places too, where nothing can differ.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.judging.pictures import upright
from engine_build.judging.samples import Picture
from engine_build.judging.similarity import masks as mask_files
from engine_build.judging.similarity.distances import Features, frechet_distance, kernel_distance
from engine_build.judging.similarity.inception import Inception
from engine_build.judging.similarity.likeness import Likeness, cut_out
from engine_build.judging.similarity.perceptual import Lpips
from engine_build.judging.similarity.report import Mean, SetRow, SimilarityReport
from engine_build.judging.similarity.structure import ssim, ssim_map
from engine_build.judging.similarity.subjects import Dressed, Subject, find_results, read_subjects
from engine_build.judging.similarity.usability import usability

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Folders:
    """What is measured. `masks` and `verdicts` may be None, and so may one of `paired` and `unpaired`."""

    photographs: Path
    paired: Path | None
    unpaired: Path | None = None
    masks: Path | None = None
    verdicts: Path | None = None
    split: str = "test"


@dataclass(frozen=True)
class Tools:
    """The networks that the user named, None for those that were not."""

    inception: Inception | None = None
    lpips: Lpips | None = None
    dino: Likeness | None = None
    clip: Likeness | None = None


def measure(folders: Folders, tools: Tools, progress: Progress = lambda done, total: None) -> SimilarityReport:
    """Every figure that the folders and tools allow.

    Raises RequestError for folders that do not belong together, and for pictures that cannot be compared.
    """
    subjects = read_subjects(folders.photographs, folders.split)
    report = SimilarityReport(str(folders.photographs), len(subjects))
    if tools.inception is not None:
        report.weights["inception"] = tools.inception.digest
    if tools.lpips is not None:
        report.weights[f"lpips {tools.lpips.net}"] = tools.lpips.digest
    truths: dict[tuple[Path | Picture, int], Features] = {}
    for kind, folder in (("paired", folders.paired), ("unpaired", folders.unpaired)):
        if folder is None:
            continue
        found, report.missing[kind] = find_results(subjects, folder)
        report.results[kind] = str(folder)
        report.rows += _rows(kind, [one for one in found if one.subject.truth is not None], tools, truths, progress)
        if kind == "paired" and folders.masks is not None:
            report.outside = _outside(found, folders.masks, tools.lpips, progress)
            report.likeness = _likeness(found, folders.masks, tools, progress)
    if folders.verdicts is not None:
        report.usable = usability(folders.verdicts, {one.id for one in subjects})
    return report


def at_height(truth: Image.Image, height: int) -> Image.Image:
    """A truth at the height of its result, as CatVTON and FastFit resize it."""
    if truth.height == height:
        return truth
    return truth.resize((int(truth.width * height / truth.height), height), Image.Resampling.LANCZOS)


def _rows(
    kind: str,
    found: Sequence[Dressed],
    tools: Tools,
    truths: dict[tuple[Path | Picture, int], Features],
    progress: Progress,
) -> list[SetRow]:
    """A row for every part of DressCode and one for all."""
    if not found:
        return []
    own = truth = None
    if tools.inception is not None:
        own, truth = _features(found, tools.inception, truths, progress)
    pairs = _paired_scores(found, tools.lpips, progress) if kind == "paired" else []
    groups = sorted({one.subject.group for one in found} - {""})
    rows = []
    for group in [*(groups if len(groups) > 1 else []), "all"]:
        at = [i for i, one in enumerate(found) if group in ("all", one.subject.group)]
        row = SetRow(kind, group, len(at))
        if own is not None and truth is not None:
            row.fid = frechet_distance(truth[at], own[at])
            row.kid, row.kid_sd = (1000 * x for x in kernel_distance(truth[at], own[at]))
        if pairs:
            row.ssim = float(np.mean([pairs[i][0] for i in at]))
            row.lpips = float(np.mean([pairs[i][1] for i in at])) if tools.lpips is not None else None
        rows.append(row)
    return rows


def _features(
    found: Sequence[Dressed],
    inception: Inception,
    truths: dict[tuple[Path | Picture, int], Features],
    progress: Progress,
) -> tuple[Features, Features]:
    """(N, D) of the results and of their photographs, which `truths` remembers by file and size."""
    finished = 0

    def done(count: int) -> None:
        nonlocal finished
        finished += count
        progress(min(finished, 2 * len(found)), 2 * len(found))

    own = inception.features((upright(one.result) for one in found), done)
    places = [(_truth(one.subject), upright(one.result).height) for one in found]
    new = list(dict.fromkeys(place for place in places if place not in truths))
    pictures = (at_height(upright(path), height) for path, height in new)
    truths.update(zip(new, inception.features(pictures, done), strict=True))
    return own, np.stack([truths[place] for place in places])


def _paired_scores(found: Sequence[Dressed], lpips: Lpips | None, progress: Progress) -> list[tuple[float, float]]:
    """SSIM and LPIPS (NaN without its weights) of every result beside its truth."""
    scores = []
    for number, one in enumerate(found, start=1):
        result = upright(one.result)
        a, b = _same_size(one, _truth(one.subject), result)
        scores.append((ssim(a, b), lpips.distance(a, b) if lpips is not None else float("nan")))
        progress(number, len(found))
    return scores


def _outside(found: Sequence[Dressed], masks: Path, lpips: Lpips | None, progress: Progress) -> dict[str, Mean]:
    """SSIM and LPIPS of what must not change."""
    measured: dict[str, list[float]] = {"ssim": [], "lpips": []} if lpips is not None else {"ssim": []}
    why: dict[str, int] = {}
    for number, one in enumerate(found, start=1):
        progress(number, len(found))
        path = mask_files.of_change(masks, one.subject)
        if path is None:
            why["no mask"] = why.get("no mask", 0) + 1
            continue
        result = upright(one.result)
        mask = torch.from_numpy(mask_files.read_mask(path, result.size))
        if bool(mask.all()):
            why["the mask is all white"] = why.get("the mask is all white", 0) + 1
            continue
        a, b = _same_size(one, one.subject.person, result)
        a, b = a.masked_fill(mask, 1.0), b.masked_fill(mask, 1.0)
        measured["ssim"].append(float(ssim_map(a, b)[:, ~mask].mean()))
        if lpips is not None:
            measured["lpips"].append(float(lpips.map(a, b)[~mask].mean()))
    return {name: Mean.of(values, why) for name, values in measured.items()}


def _likeness(found: Sequence[Dressed], masks: Path, tools: Tools, progress: Progress) -> dict[str, Mean]:
    """M-DINO and M-CLIP-I over garments."""
    models = {name: model for name, model in (("m_dino", tools.dino), ("m_clip_i", tools.clip)) if model is not None}
    measured: dict[str, list[float]] = {name: [] for name in models}
    why: dict[str, int] = {}
    for number, one in enumerate(found if models else (), start=1):
        progress(number, len(found))
        for garment in range(1, len(one.subject.references) + 1):
            cuts = _cuts(one, masks, garment)
            if isinstance(cuts, str):
                why[cuts] = why.get(cuts, 0) + 1
                continue
            for name, model in models.items():
                measured[name].append(model.cosine(*cuts))
    return {name: Mean.of(values, why) for name, values in measured.items()}


def _cuts(one: Dressed, masks: Path, garment: int) -> tuple[Image.Image, Image.Image] | str:
    """The garment cut out of the result and of its own picture, or why it cannot be."""
    in_result = mask_files.of_garment_in_result(masks, one.subject, garment)
    if in_result is None:
        return "no mask"
    result, given = upright(one.result), upright(one.subject.references[garment - 1].picture)
    worn = cut_out(result, mask_files.read_mask(in_result, result.size))
    alone = mask_files.of_garment_alone(masks, one.subject, garment)
    shown = given if alone is None else cut_out(given, mask_files.read_mask(alone, given.size))
    return "the mask is empty" if worn is None or shown is None else (worn, shown)


def _same_size(one: Dressed, before: Path | Picture, result: Image.Image) -> tuple[Tensor, Tensor]:
    """Photograph and result as (3, H, W) in [0, 1]; a pixel of width lost to rounding is made up, more is refused."""
    photograph = at_height(upright(before), result.height)
    if abs(photograph.width - result.width) > 1:
        raise RequestError(
            f"{one.result} is {result.width}x{result.height}, but {one.subject.id} at that height is "
            f"{photograph.width} wide: results must keep the photograph's proportions"
        )
    if photograph.width != result.width:
        photograph = photograph.resize(result.size, Image.Resampling.LANCZOS)
    return _tensor(photograph), _tensor(result)


def _truth(subject: Subject) -> Path | Picture:
    if subject.truth is None:
        raise RequestError(f"{subject.id} has no photograph in the garments")
    return subject.truth


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)
