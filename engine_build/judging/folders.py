"""Sets kept as folders: a manifest of ours, the requests of `changeroom samples`, VITON-HD and DressCode.

A manifest is JSON Lines, files relative to it; sub_style, layer, instruction and truth may be left out:

    {"id": "a1", "person": "p.jpg", "instruction": "…", "truth": "t.png",
     "references": [{"file": "coat.jpg", "category": "coats", "sub_style": "trench", "layer": "open"}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError
from engine_build.instruction import CATEGORIES, LAYER_WORDS, GarmentPhrase, compose
from engine_build.judging import layouts
from engine_build.judging.layouts import Pair
from engine_build.judging.samples import JudgedSet, Picture, Reference, Sample, identifier

MANIFEST = "set.jsonl"
DRAWN = "drawn"
"""Key of `Sample.facts` under which the seed and the number of garments of a drawn scene stand."""


def manifest(path: Path) -> JudgedSet:
    """The samples of a manifest. Raises RequestError naming the line that is wrong."""
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                samples.append(_sample(path.parent, json.loads(line)))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                said = f"{path}, line {number}: not a sample with id, person and references"
                raise RequestError(f"{said}: {error!r}") from error
    return JudgedSet(path.parent.name or path.name, tuple(samples))


def pairs_or_requests(folder: Path, pairs: str, split: str) -> JudgedSet:
    """The samples of a folder in a layout of others. Raises RequestError for none, or a list without what is asked."""
    layout = layouts.recognise(folder, split)
    if layout == "requests":
        refuse_lists(str(folder), pairs, split)
        return JudgedSet(folder.name, tuple(_request(path) for path in layouts.requests_in(folder)))
    unpaired = pairs == "unpaired"
    listed = layouts.viton_hd(folder, split) if layout == "viton-hd" else layouts.dresscode(folder, split, unpaired)
    return JudgedSet(f"{layout} {split} {pairs}", tuple(_of_pairs(folder, listed, unpaired)))


def refuse_lists(said: str, pairs: str, split: str) -> None:
    """Raise RequestError where somebody chooses among lists that a set does not have."""
    if (pairs, split) != ("unpaired", "test"):
        raise RequestError(f"pairs and split choose among the lists of VITON-HD and DressCode, which {said} is not")


def instruction_for(references: Sequence[Reference]) -> str:
    """The grammar's sentence for references that bring none; a category it does not know is "the garment"."""
    return compose([phrase(reference) for reference in references])


def phrase(reference: Reference) -> GarmentPhrase:
    """A reference as the grammar speaks of it; a layer outside the grammar is left out."""
    category = reference.category if reference.category in CATEGORIES else "auto"
    return GarmentPhrase(category, reference.layer if reference.layer in LAYER_WORDS[category] else None)


def _of_pairs(folder: Path, listed: Iterator[Pair], unpaired: bool) -> Iterator[Sample]:
    for pair in listed:
        garment = pair.wanted if unpaired else pair.own
        if garment is None:
            raise RequestError(f"{folder} has no list that pairs people with others' garments; try --pairs paired")
        references = (Reference(Picture(garment), pair.category),)
        truth = None if unpaired else Picture(pair.person)
        yield Sample(identifier(pair.name), Picture(pair.person), references, instruction_for(references), truth)


def _request(path: Path) -> Sample:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        rows = [{**row, "sub_style": row.get("description") or ""} for row in said["garments"]]
        sample = _sample(path.parent, {**said, "id": identifier(path.parent.resolve().name), "references": rows})
        drawn = {DRAWN: (int(said["seed"]), len(rows))} if "seed" in said and "regions" in said else {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path} is not a request with person and garments: {error!r}") from error
    return Sample(sample.id, sample.person, sample.references, sample.instruction, sample.truth, drawn)


def _sample(folder: Path, said: Mapping[str, Any]) -> Sample:
    references = tuple(
        Reference(
            Picture(layouts.inside(folder, row["file"])),
            str(row["category"]),
            str(row.get("sub_style") or ""),
            row.get("layer"),
        )
        for row in said["references"]
    )
    instruction = said.get("instruction") or instruction_for(references)
    truth = Picture(layouts.inside(folder, said["truth"])) if said.get("truth") else None
    return Sample(str(said["id"]), Picture(layouts.inside(folder, said["person"])), references, instruction, truth)
