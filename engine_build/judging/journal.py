"""The journal of a judged folder: JSON Lines that are only ever added to, the one source of every report.

    {"kind": "header", …}   first line: the judge, the words' hash, the set; what a journal is of never changes
    {"kind": "sample", …}   what was asked for: id, categories and sub-styles, instruction
    {"kind": "answer", …}   one answer, or why there is none; of the same question the later line counts
    {"kind": "absent", …}   a sample without a result

A line is written whole and synced before anything is made of it. What a killed process left of a line is cut off when
the journal is opened again, so a run goes on after any kill; the answers it has are never asked for again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError

NAME = "journal.jsonl"
FORMAT = 1
Row = dict[str, Any]
Case = tuple[str, str, str, int]
"""Sample, question, variant, repeat: one answer counts for each."""


@dataclass(frozen=True)
class Header:
    """What a journal's answers have in common. `judge` is what an answer depends on beside pictures and words."""

    rubric: str
    judge: Mapping[str, Any]
    set_name: str
    set_digest: str
    mode: str = "score"

    @property
    def judge_hash(self) -> str:
        return hashlib.sha256(json.dumps(self.judge, sort_keys=True).encode()).hexdigest()[:16]

    def row(self) -> Row:
        return {
            "kind": "header",
            "format": FORMAT,
            "mode": self.mode,
            "rubric": self.rubric,
            "judge": dict(self.judge),
            "judge_hash": self.judge_hash,
            "set": {"name": self.set_name, "digest": self.set_digest},
        }

    @classmethod
    def of(cls, row: Row, path: Path) -> Header:
        """Raises RequestError for a first line that is no header, or one that was changed by hand."""
        try:
            if row["kind"] != "header" or row["format"] != FORMAT:
                raise RequestError(f"{path} is not a journal of format {FORMAT}")
            header = cls(row["rubric"], row["judge"], row["set"]["name"], row["set"]["digest"], row["mode"])
            if header.judge_hash != row["judge_hash"]:
                raise RequestError(f"{path}: the header's judge does not have the header's judge_hash")
        except (KeyError, TypeError) as error:
            raise RequestError(f"{path} does not begin with a journal's header") from error
        return header

    def differs(self, other: Header, of_set: bool = True) -> list[str]:
        """What speaks against comparing two journals, in words."""
        found = []
        if self.mode != other.mode:
            found.append(f"one holds {self.mode}s, the other {other.mode}s")
        if self.rubric != other.rubric:
            found.append(f"the judge's words differ ({self.rubric}, {other.rubric})")
        keys = sorted({*self.judge, *other.judge})
        apart = [key for key in keys if self.judge.get(key) != other.judge.get(key)]
        if apart:
            said = ", ".join(f"{key}: {self.judge.get(key)!r} and {other.judge.get(key)!r}" for key in apart)
            found.append(f"the judges differ ({said})")
        if of_set and self.set_digest != other.set_digest:
            found.append(f"the sets differ ({self.set_name}, {other.set_name})")
        return found


@dataclass
class Journal:
    """A journal read: its header, samples in order, the answer that counts for each case, samples without a result."""

    path: Path
    header: Header
    samples: dict[str, Row] = field(default_factory=dict)
    answers: dict[Case, Row] = field(default_factory=dict)
    by_key: dict[str, Row] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """Add a line's content. Raises RequestError for a kind that is not known."""
        kind = row.get("kind")
        if kind == "sample":
            self.samples[row["id"]] = row
        elif kind == "answer":
            self.answers[row["sample"], row["call"], row["variant"], row["repeat"]] = row
            self.by_key[row["key"]] = row
            self.absent.pop(row["sample"], None)
        elif kind == "absent":
            self.absent[row["sample"]] = row["reason"]
            for case in [case for case in self.answers if case[0] == row["sample"]]:
                del self.answers[case]
        else:
            raise RequestError(f"{self.path}: a line of the unknown kind {kind!r}")


def read(folder: Path) -> Journal:
    """The journal of a folder, or of a file. Raises RequestError for none, or one that is damaged."""
    path = folder / NAME if folder.is_dir() else folder
    if not path.is_file():
        raise RequestError(f"{folder} holds no {NAME}; changeroom judge run writes it")
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise RequestError(f"{path} is empty")
    journal = Journal(path, Header.of(first, path))
    for row in rows:
        journal.take(row)
    return journal


class Writer:
    """A journal being added to, by this process alone; use as a context manager.

    Raises RequestError where another process writes to it, or where it is of something else.
    """

    def __init__(self, folder: Path, header: Header, samples: list[Row]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            whole = _whole(path.read_bytes())
            if whole < os.fstat(self._file).st_size:
                os.ftruncate(self._file, whole)
            if not whole:
                self._append([header.row(), *samples])
            self.journal = read(path)
            against = header.differs(self.journal.header)
            if against:
                raise RequestError(f"{path} was begun otherwise: {'; '.join(against)}. Choose another --out")
            for row in samples:
                if row["id"] not in self.journal.samples:
                    self.add(row)
        except BlockingIOError as error:
            os.close(self._file)
            raise RequestError(f"another process writes to {path}") from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def add(self, row: Row) -> None:
        """Write a line and make it last."""
        self._append([row])
        self.journal.take(row)

    def _append(self, rows: list[Row]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()
        while text:
            text = text[os.write(self._file, text) :]
        os.fsync(self._file)


def _whole(data: bytes) -> int:
    """How many bytes of a journal are whole lines."""
    return data.rfind(b"\n") + 1


def _rows(path: Path) -> Iterator[Row]:
    """Every whole line of a journal. Raises RequestError for one that is not JSON."""
    data = path.read_bytes()
    for number, line in enumerate(data[: _whole(data)].split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{path}, line {number} is damaged: {error}") from error
        if not isinstance(row, dict):
            raise RequestError(f"{path}, line {number} is not an object")
        yield row
