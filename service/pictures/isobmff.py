"""The boxes of an AVIF or HEIC file (ISO/IEC 14496-12, 23008-12), as far as they decide whether it can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A box of a file: its kind, and where it begins and ends. `body` is behind the header of `at`."""

    kind: bytes
    at: int
    end: int

    @property
    def body(self) -> int:
        return self.at + 8


@dataclass(frozen=True)
class Properties:
    """The properties of an item: places of their numbers in the file, `width` bytes each, and the numbers."""

    places: tuple[int, ...]
    numbers: tuple[int, ...]
    width: int


def readable(data: bytes) -> bytes:
    """An AVIF as libavif reads it, where it is stricter than browsers are; no byte moves.

    - Groups (`grpl`) of pictures become free space: only the primary picture is shown here, and libavif up to 1.4
      refuses a file for a kind of group that it does not know (`pymd`) or for a gain map that it cannot use.
    - A second table of the same kind of which item has which properties (`ipma`, as cavif wrote it) is told apart by
      a flag that means nothing.
    - A transparency without a size (as cavif-rs wrote it) gets that of the picture, in place of how many bits it has,
      which its own data tell.
    """
    changed = bytearray(data)
    for meta in boxes(data, 0, len(data)):
        for box in boxes(data, meta.body + 4, meta.end) if meta.kind == b"meta" else ():
            if box.kind == b"grpl":
                changed[box.at + 4 : box.at + 8] = b"free"
            elif box.kind == b"iprp":
                _tell_apart(changed, [inner for inner in boxes(data, box.body, box.end) if inner.kind == b"ipma"])
                _size_transparency(changed, box)
    return data if changed == data else bytes(changed)


def codecs(data: bytes) -> set[bytes]:
    """The kinds of the items of a file with a whole `meta` box, such as hvc1, grid, Exif; empty without one."""
    found: set[bytes] = set()
    for meta in boxes(data, 0, len(data)):
        for box in boxes(data, meta.body + 4, meta.end) if meta.kind == b"meta" else ():
            if box.kind == b"iinf":
                entries = box.body + (6 if data[box.body : box.body + 1] == b"\0" else 8)
                found |= {data[e.at + 16 : e.at + 20] for e in boxes(data, entries, box.end) if e.kind == b"infe"}
    return found


def boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[Box]:
    """Each box from `start` on, up to the first that makes no sense or does not fit."""
    while start + 8 <= min(end, len(data)):
        size = int.from_bytes(data[start : start + 4], "big")
        if size == 0:
            size = end - start
        if size < 8 or start + size > end:
            return
        yield Box(bytes(data[start + 4 : start + 8]), start, start + size)
        start += size


def _tell_apart(data: bytearray, tables: list[Box]) -> None:
    seen: set[bytes] = set()
    for table in tables:
        for unused in range(0, 256, 2):
            kind = bytes(data[table.body : table.body + 3]) + bytes((data[table.body + 3] | unused,))
            if kind not in seen:
                data[table.body : table.body + 4] = kind
                seen.add(kind)
                break


def _size_transparency(data: bytearray, iprp: Box) -> None:
    kinds: list[bytes] = []
    items: list[Properties] = []
    for box in boxes(data, iprp.body, iprp.end):
        if box.kind == b"ipco":
            kinds = [inner.kind for inner in boxes(data, box.body, box.end)]
        elif box.kind == b"ipma":
            items += _associations(data, box)
    named = [[kinds[n - 1] if 0 < n <= len(kinds) else b"" for n in item.numbers] for item in items]
    sizes = [
        item.numbers[names.index(b"ispe")]
        for item, names in zip(items, named, strict=True)
        if b"ispe" in names and b"auxC" not in names
    ]
    for item, names in zip(items, named, strict=True):
        if sizes and b"auxC" in names and b"ispe" not in names and b"pixi" in names:
            place = item.places[names.index(b"pixi")]
            data[place : place + item.width] = sizes[0].to_bytes(item.width, "big")


def _associations(data: bytearray, ipma: Box) -> Iterator[Properties]:
    """The properties of each item of an `ipma` (ISO/IEC 23008-12, 9.3.1)."""
    id_bytes = 2 if data[ipma.body] < 1 else 4
    width = 2 if data[ipma.body + 3] & 1 else 1
    at = ipma.body + 8
    while at + id_bytes < ipma.end:
        first = at + id_bytes + 1
        at = first + width * data[first - 1]
        if at > ipma.end:
            return
        places = tuple(range(first, at, width))
        essential = 1 << (8 * width - 1)
        numbers = tuple(int.from_bytes(data[place : place + width], "big") & ~essential for place in places)
        yield Properties(places, numbers, width)
