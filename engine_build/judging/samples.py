"""What is judged: samples of a person, references and an instruction, with the truth where it is known.

Pictures are read when they are looked at. Results are a folder that holds `{id}.png`, one a sample.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError

_NOT_OF_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Picture:
    """An encoded picture: a file, or what reads its bytes from wherever the set keeps them."""

    path: Path | None = None
    read: Callable[[], bytes] | None = field(default=None, compare=False)

    def data(self) -> bytes:
        """Its bytes as stored. Raises OSError for a file that cannot be read."""
        if self.read is not None:
            return self.read()
        if self.path is None:
            raise RequestError("a picture needs a file or a way to read it")
        return self.path.read_bytes()


@dataclass(frozen=True)
class Reference:
    """A garment to put on: `category` as the set calls it (ours where it is ours), `sub_style` finer, or empty."""

    picture: Picture
    category: str
    sub_style: str = ""
    layer: str | None = None


@dataclass(frozen=True)
class Sample:
    """One try-on that was asked for.

    `id` names its result. `truth` is the right answer where somebody knows it. `facts` is what else the source knows,
    such as the seed of a drawn scene.
    """

    id: str
    person: Picture
    references: tuple[Reference, ...]
    instruction: str
    truth: Picture | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def result_in(self, folder: Path) -> Path:
        """Where a folder of results keeps its picture."""
        return folder / f"{self.id}.png"


@dataclass(frozen=True)
class JudgedSet:
    """Samples in a fixed order, under a name for reports. `whole` is the digest of the set they are part of."""

    name: str
    samples: tuple[Sample, ...]
    whole: str = ""

    def first(self, limit: int | None) -> JudgedSet:
        """The first samples of the same set: what is said of them can be compared with what is said of all."""
        return JudgedSet(self.name, self.samples[:limit], self.digest)

    @property
    def digest(self) -> str:
        """Of what was asked in the whole set, not of the pictures: those are part of each question's key."""
        if self.whole:
            return self.whole
        rows = [[s.id, s.instruction, [[r.category, r.sub_style, r.layer] for r in s.references]] for s in self.samples]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]


def identifier(text: str) -> str:
    """`text` as the name of a file: every run of other characters becomes a hyphen."""
    return _NOT_OF_AN_ID.sub("-", text).strip("-.") or "sample"
