"""The boxes of an AVIF or HEIC file (ISO/IEC 14496-12), as far as they decide whether it can be opened."""

from __future__ import annotations

from collections.abc import Iterator


def without_groups(data: bytes) -> bytes:
    """The same file with its groups of pictures made free space; none of the others moves.

    Groups (`grpl`) tell which pictures are layers of a pyramid or stand for each other. Only the primary picture is
    shown here, and libavif up to 1.4 refuses whole files for a kind of group it does not know (`pymd`) or for a gain
    map it cannot use.
    """
    freed: bytearray | None = None
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            for inner, at, _ in _boxes(data, start + 12, end):
                if inner == b"grpl":
                    freed = freed or bytearray(data)
                    freed[at + 4 : at + 8] = b"free"
    return data if freed is None else bytes(freed)


def codecs(data: bytes) -> set[bytes]:
    """The kinds of the items of a file with a whole `meta` box, such as hvc1, grid, Exif; empty without one."""
    found: set[bytes] = set()
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta" and end <= len(data):
            for inner, at, until in _boxes(data, start + 12, end):
                if inner == b"iinf":
                    counts = 14 if data[at + 8 : at + 9] == b"\0" else 16
                    found |= {data[a + 16 : a + 20] for k, a, _ in _boxes(data, at + counts, until) if k == b"infe"}
    return found


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each box from `start` on, up to the first that makes no sense."""
    while start + 8 <= min(end, len(data)):
        size = int.from_bytes(data[start : start + 4], "big")
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        elif size == 0:
            size = end - start
        if size < 8:
            return
        yield data[start + 4 : start + 8], start, min(end, start + size)
        start += size
