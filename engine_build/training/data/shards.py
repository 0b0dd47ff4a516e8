"""Tar shards: written one after another, each whole or not there at all, and found again by offset.

Beside `shard-000012.tar` stands `shard-000012.json`, its index: where each sample begins and how long it is. It
only saves time: a shard without one, written by webdataset or by hand, is read through once instead.
Equal samples make equal bytes: names, order and headers hold nothing of the day or the machine.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_build.training.data.entry import Entry, ShardError, entry_of

BLOCK = 512


@dataclass(frozen=True)
class Span:
    """Where a sample lies in its shard, in bytes; `marks` is what the builder remembers of it."""

    key: str
    offset: int
    size: int
    marks: Any = None


def shard_name(number: int) -> str:
    """`shard-000012.tar`."""
    return f"shard-{number:06d}.tar"


def index_path(shard: Path) -> Path:
    """The index beside a shard."""
    return shard.with_suffix(".json")


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there with all of `data`, or not at all."""
    passing = path.with_name(f".{path.name}.part")
    with passing.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(passing, path)


class ShardFile:
    """One shard in the making. Nothing has its final name before `finish`; `discard` leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans: list[Span] = []
        self._passing = path.with_name(f".{path.name}.part")
        self._file = self._passing.open("wb")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, entry: Entry, marks: Any = None) -> None:
        """Append a sample. Raises ValueError for a key that a shard cannot hold or holds already."""
        if not entry.key or "." in entry.key or "/" in entry.key or not entry.key.isprintable():
            raise ValueError(f"{entry.key!r} cannot name a sample: no dots, slashes or control characters")
        if self.spans and self.spans[-1].key == entry.key:
            raise ValueError(f"two samples in a row are called {entry.key}")
        start = self._file.tell()
        for name, data in entry.files():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            header.mode = 0o644
            self._file.write(header.tobuf(tarfile.PAX_FORMAT))
            self._file.write(data)
            self._file.write(bytes(-len(data) % BLOCK))
        self.spans.append(Span(entry.key, start, self._file.tell() - start, marks))

    def finish(self) -> None:
        """Write the end, the index, and give both their names."""
        self._file.write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        rows = [[span.key, span.offset, span.size, span.marks] for span in self.spans]
        whole = self.spans[-1].offset + self.spans[-1].size + 2 * BLOCK if self.spans else 2 * BLOCK
        text = json.dumps({"bytes": whole, "samples": rows}, ensure_ascii=False)
        os.replace(self._passing, self.path)
        write_whole(index_path(self.path), text.encode())

    def discard(self) -> None:
        """Give the unfinished shard up."""
        self._file.close()
        self._passing.unlink(missing_ok=True)


def spans_of(shard: Path) -> list[Span]:
    """A shard's samples, from its index or, without one, from the shard itself.

    Raises ShardError for a shard that is cut short, is no tar file, or has another size than its index says.
    """
    try:
        said = json.loads(index_path(shard).read_text(encoding="utf-8"))
        there, expected = shard.stat().st_size, int(said["bytes"])
        spans = [Span(str(key), int(offset), int(size), marks) for key, offset, size, marks in said["samples"]]
    except FileNotFoundError:
        return list(_scanned(shard))
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{index_path(shard)} is not an index of a shard; delete it to have it read anew") from error
    if there != expected:
        raise ShardError(f"{shard} has {there} bytes, its index was written for {expected}")
    return spans


def read_entry(shard: Path, span: Span) -> Entry:
    """One sample of a shard. Raises ShardError naming the shard."""
    try:
        with shard.open("rb") as file:
            file.seek(span.offset)
            data = file.read(span.size)
        with tarfile.open(fileobj=io.BytesIO(data + bytes(2 * BLOCK)), mode="r:") as archive:
            files = {m.name.rpartition("/")[2]: _content(archive, m) for m in archive if m.isfile()}
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{shard}: {span.key} cannot be read: {error}") from error
    try:
        return entry_of(files)
    except ShardError as error:
        raise ShardError(f"{shard}: {error}") from error


def find_shards(patterns: str | Sequence[str]) -> list[Path]:
    """Shards by path, folder or pattern (`shards/*.tar`), sorted. Raises ShardError when one matches nothing."""
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = set(path.glob("*.tar"))
        elif any(sign in path.name for sign in "*?["):
            matches = set(path.parent.glob(path.name))
        else:
            matches = {path} if path.exists() else set()
        if not matches:
            raise ShardError(f"no shard at {pattern}: name a folder or a pattern such as 'data/*.tar'")
        found |= matches
    return sorted(found)


def _scanned(shard: Path) -> Iterator[Span]:
    key, start, end = "", 0, 0
    try:
        with tarfile.open(shard, mode="r:") as archive:
            if not _ended(shard):
                raise ShardError(f"{shard} is not a readable shard: it ends early")
            for member in archive:
                if not member.isfile():
                    continue
                own = member.name.rpartition("/")[2].partition(".")[0]
                if own != key:
                    if key:
                        yield Span(key, start, end - start)
                    key, start = own, member.offset
                end = member.offset_data + member.size + -member.size % BLOCK
            if key:
                yield Span(key, start, end - start)
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{shard} is not a readable shard: {error}") from error


def _ended(shard: Path) -> bool:
    """Whether a tar file has its end: tarfile itself stops without a word where a header is cut."""
    with shard.open("rb") as file:
        file.seek(-min(shard.stat().st_size, 2 * BLOCK), os.SEEK_END)
        return file.read() == bytes(2 * BLOCK)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends early")
    return data
