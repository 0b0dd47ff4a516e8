"""What shards hold: counts, sizes, instructions, a contact sheet; with `every`, each sample decoded and checked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from engine_build.training.data.entry import Entry, ShardError
from engine_build.training.data.pictures import BrokenPicture, opened, read_map
from engine_build.training.data.reading import Shards
from engine_build.training.data.shards import read_entry

LOOKED_AT = 200
ROWS = 8
_CELL = (144, 192)


@dataclass
class Findings:
    """What was found in `looked_at` of `samples`."""

    shards: int
    samples: int
    bytes: int
    looked_at: int = 0
    masked: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    maps: Counter[str] = field(default_factory=Counter)
    instructions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {k: dict(sorted(v.items())) if isinstance(v, Counter) else v for k, v in vars(self).items()}

    def text(self) -> str:
        """For people."""
        part = "" if self.looked_at == self.samples else f" (the following from {self.looked_at} of them)"
        rows = [f"{self.samples} samples in {self.shards} shards, {self.bytes / 2**20:.1f} MiB{part}"]
        for title, counts in (
            ("source", self.sources),
            ("references", self.references),
            ("categories", self.categories),
            ("target size", self.sizes),
            ("maps", self.maps),
        ):
            if counts:
                rows.append(f"  {title}: " + ", ".join(f"{name} {n}" for name, n in counts.most_common(10)))
        if self.masked:
            rows.append(f"  {self.masked} show the target with the garment greyed as the picture to edit")
        rows += [f"  said: {one}" for one in self.instructions]
        rows += [f"  BROKEN {one}" for one in self.broken]
        return "\n".join(rows)


def inspect(
    patterns: list[str],
    every: bool = False,
    sheet: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Findings:
    """Look at samples spread over all shards, or at `every` one. Raises ShardError when there are none.

    Broken samples are findings, not errors. `sheet` is painted with the first few looked at.
    """
    shards = Shards(patterns, shuffled=False)
    everything = list(shards.spans())
    chosen = everything if every else random.Random(0).sample(everything, min(LOOKED_AT, len(everything)))
    found = Findings(len(shards.paths), len(shards), sum(path.stat().st_size for path in shards.paths))
    shown: list[tuple[Image.Image, list[Image.Image], Image.Image]] = []
    for number, (path, span) in enumerate(chosen, start=1):
        found.looked_at += 1
        try:
            entry = read_entry(path, span)
            pictures = _count(found, entry)
        except ShardError as error:
            found.broken.append(str(error))
        except BrokenPicture as error:
            found.broken.append(f"{path}: {span.key}: {error}")
        else:
            if len(shown) < ROWS:
                shown.append(pictures)
                found.instructions += [entry.instruction] if len(found.instructions) < 3 else []
        if progress is not None:
            progress(number, len(chosen))
    if sheet is not None and shown:
        _paint(sheet, shown)
    return found


def _count(found: Findings, entry: Entry) -> tuple[Image.Image, list[Image.Image], Image.Image]:
    person, target = opened(entry.person.data), opened(entry.target.data)
    references = [opened(one.picture.data) for one in entry.references]
    for name, data in entry.maps.items():
        if read_map(data).size != target.size:
            raise BrokenPicture(f"{name} has not the target's size")
    found.masked += entry.masked
    found.sources[entry.source] += 1
    found.references[str(len(references))] += 1
    found.categories.update(one.category for one in entry.references)
    found.sizes["{}x{}".format(*target.size)] += 1
    found.maps.update(list(entry.maps))
    return person, references, target


def _paint(path: Path, rows: list[tuple[Image.Image, list[Image.Image], Image.Image]]) -> None:
    columns = 2 + max(len(references) for _, references, _ in rows)
    sheet = Image.new("RGB", (columns * _CELL[0], len(rows) * _CELL[1]), "white")
    for row, (person, references, target) in enumerate(rows):
        for column, one in ((0, person), *enumerate(references, start=1), (columns - 1, target)):
            small = ImageOps.contain(one, _CELL, Image.Resampling.LANCZOS)
            sheet.paste(small, (column * _CELL[0], row * _CELL[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
