"""One sample as files: what a shard holds of it, whatever it came from.

WebDataset's convention: files of one sample stand together and share the name up to the first dot.

    KEY.json                what is said: instruction, categories, source (see `Entry.described`)
    KEY.person.EXT          the picture to edit
    KEY.target.EXT          the truth, of the person's size
    KEY.reference-N.EXT     garments (or pictures to copy from), N from 1
    KEY.edited.png          optional, 8 bit: how much a pixel is the instruction's business, 255 entirely
    KEY.person_regions.png  optional, 8 bit: labels of `engine_build.support.regions`, named in the JSON
    KEY.target_regions.png  likewise

EXT is jpg, png or webp: pictures are stored as they came where nothing had to change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine_build.errors import CheckpointError
from engine_build.instruction import MAX_GARMENTS

FORMAT = 1
MAPS = ("edited", "person_regions", "target_regions")
EXTENSIONS = ("jpg", "png", "webp")


class ShardError(CheckpointError):
    """A shard that cannot be read as what it claims to be."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its bytes and their kind, one of EXTENSIONS."""

    data: bytes
    extension: str


@dataclass(frozen=True)
class EntryReference:
    """A garment, or another picture the instruction refers to, and what is known of it."""

    picture: Picture
    category: str
    layer: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Entry:
    """One sample. `maps` are PNG bytes by the names of MAPS, `labels` what region labels mean.

    `masked` says that the person's picture is the target with the garment's place greyed, not another photo.
    `facts` is whatever else its source wants remembered, JSON values only.
    """

    key: str
    person: Picture
    references: tuple[EntryReference, ...]
    target: Picture
    instruction: str
    source: str
    masked: bool = False
    maps: Mapping[str, bytes] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What the sample's JSON says."""
        rows = [{"category": r.category, "layer": r.layer, "description": r.description} for r in self.references]
        return {
            "format": FORMAT,
            "key": self.key,
            "source": self.source,
            "instruction": self.instruction,
            "references": rows,
            "masked": self.masked,
            "labels": dict(self.labels),
            "facts": dict(self.facts),
        }

    def files(self) -> list[tuple[str, bytes]]:
        """Names and contents in the order in which a shard holds them."""
        said = json.dumps(self.described(), ensure_ascii=False, sort_keys=True).encode()
        rows = [("json", said), (f"person.{self.person.extension}", self.person.data)]
        rows.append((f"target.{self.target.extension}", self.target.data))
        for number, one in enumerate(self.references, start=1):
            rows.append((f"reference-{number}.{one.picture.extension}", one.picture.data))
        rows += [(f"{name}.png", self.maps[name]) for name in MAPS if name in self.maps]
        return [(f"{self.key}.{suffix}", data) for suffix, data in rows]


def entry_of(files: Mapping[str, bytes]) -> Entry:
    """The sample of its files by full name. Raises ShardError naming the sample and what is wrong."""
    first = next(iter(files), "")
    key = first.partition(".")[0]
    parts = {name.partition(".")[2]: data for name, data in files.items()}
    try:
        said = json.loads(parts["json"])
        version = said["format"]
        if version != FORMAT:
            raise ShardError(f"{key}: written in format {version}, this release reads {FORMAT}")
        rows = said["references"]
        if not isinstance(rows, list) or len(rows) > MAX_GARMENTS:
            raise ShardError(f"{key}: 0 to {MAX_GARMENTS} references expected")
        references = tuple(
            EntryReference(_picture(parts, f"reference-{i}"), row["category"], row["layer"], row["description"])
            for i, row in enumerate(rows, start=1)
        )
        return Entry(
            key=str(said["key"]),
            person=_picture(parts, "person"),
            references=references,
            target=_picture(parts, "target"),
            instruction=str(said["instruction"]),
            source=str(said["source"]),
            masked=bool(said["masked"]),
            maps={name: parts[f"{name}.png"] for name in MAPS if f"{name}.png" in parts},
            labels=said["labels"],
            facts=said["facts"],
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"{key or 'a sample'}: not a sample of this format ({error!r})") from error


def _picture(parts: Mapping[str, bytes], name: str) -> Picture:
    for extension in EXTENSIONS:
        if f"{name}.{extension}" in parts:
            return Picture(parts[f"{name}.{extension}"], extension)
    raise KeyError(f"{name}.{'|'.join(EXTENSIONS)}")
