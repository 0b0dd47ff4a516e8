"""Sample grids of any stage: the same few held-out samples, drawn by the weights as they stand.

Rows are samples, columns the picture to edit, the other references, the result and the truth.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from engine_build.training.data.sample import Source, encode
from engine_build.training.loop.start_from import NetworkParts
from engine_build.training.measure.measures import FIRST, Way, generate
from engine_build.world.sample_files import picture

ROWS = 6
_REFERENCES = 6
_GROUND = (255, 255, 255)


def write_sheet(path: Path, parts: NetworkParts, source: Source, way: Way, write: bool = True) -> Path:
    """Draw `ROWS` samples of a source; every process of a run must call it, one of them writes."""
    drawn = source.draw(range(FIRST - ROWS, FIRST))
    results, _ = generate(parts, encode(parts.encoder, drawn), way)
    height, width = drawn[0].target.shape[1:]
    side = height // 2
    across = 3 * width + _REFERENCES // 2 * side
    sheet = Image.new("RGB", (across, ROWS * height), _GROUND)
    for row, (sample, result) in enumerate(zip(drawn, results, strict=True)):
        top = row * height
        sheet.paste(picture(sample.references[0].cpu()), (0, top))
        for i, reference in enumerate(sample.references[1 : 1 + _REFERENCES]):
            small = picture(reference.cpu())
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (width + i % 3 * side, top + i // 3 * side))
        for column, shown in ((across - 2 * width, result), (across - width, sample.target.cpu())):
            sheet.paste(picture(torch.as_tensor(shown)), (column, top))
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(path)
    return path
