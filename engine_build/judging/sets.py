"""Where samples come from: one word on the command line to a set of them."""

from __future__ import annotations

import re
from pathlib import Path

from engine_build.errors import RequestError
from engine_build.judging import folders, parquet
from engine_build.judging.samples import JudgedSet, Picture, Reference, Sample

__all__ = ["PAIRINGS", "WORLD", "JudgedSet", "Picture", "Reference", "Sample", "load_set"]

WORLD = "world:"
PAIRINGS = ("unpaired", "paired")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def load_set(
    said: str, *, columns: Path | None = None, pairs: str = "unpaired", split: str = "test", limit: int | None = None
) -> JudgedSet:
    """The set that a word names.

        world:COUNT[:GARMENTS[:HEIGHT]]   scenes of the procedural world; GARMENTS 0 is 1 to 6 in turn
        FILE.parquet, or a folder of them  the user's own table of `columns` says what is what
        FILE.jsonl, or a folder with set.jsonl
        a folder with request.json files  as `changeroom samples` writes them
        a folder of VITON-HD or DressCode  `pairs` is one of PAIRINGS, `split` names the list

    With `limit` the first so many samples. Raises RequestError for what is none of these, saying what was looked for.
    """
    if pairs not in PAIRINGS:
        raise RequestError(f"pairs are {' or '.join(PAIRINGS)}, not {pairs!r}")
    path = Path(said).expanduser()
    in_parquet = not said.startswith(WORLD) and bool(parquet.files_of(path))
    if columns is not None and not in_parquet:
        raise RequestError(f"a table of columns is for parquet, which {said} is not")
    if said.startswith(WORLD):
        from engine_build.judging import world_set

        loaded = world_set.world(said.removeprefix(WORLD))
    elif in_parquet:
        loaded = parquet.read(path, columns)
    elif path.suffix == ".jsonl" or (path / folders.MANIFEST).is_file():
        loaded = folders.manifest(path if path.suffix == ".jsonl" else path / folders.MANIFEST)
    else:
        return _checked(folders.pairs_or_requests(path, pairs, split), limit)
    folders.refuse_lists(said, pairs, split)
    return _checked(loaded, limit)


def _checked(loaded: JudgedSet, limit: int | None) -> JudgedSet:
    if not loaded.samples:
        raise RequestError(f"{loaded.name} holds no samples")
    seen: set[str] = set()
    for sample in loaded.samples:
        if not _ID.fullmatch(sample.id):
            raise RequestError(f"{loaded.name}: the id {sample.id!r} cannot name a file; use letters, digits, . _ -")
        if sample.id in seen:
            raise RequestError(f"{loaded.name}: two samples have the id {sample.id!r}")
        if not sample.references:
            raise RequestError(f"{loaded.name}: {sample.id} has no reference")
        seen.add(sample.id)
    return loaded.first(limit)
