"""A JPEG without what it carries beside the picture: metadata removed, coefficients untouched.

A photo that needs no turning, scaling or colour conversion keeps its own compressed data, so it loses no
quality and costs no encoding. Marker syntax: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SOF, _SOI, _EOI, _SOS, _APP14 = (0xC0, 0xC1), b"\xff\xd8", 0xD9, 0xDA, 0xEE
_DRI, _RESTARTS = 0xDD, range(0xD0, 0xD8)
_SCAN = 0x00
_ANY_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# Coding processes by the frame's marker (ITU-T T.81, table B.1): Huffman and arithmetic, sequential and progressive.
SHOWN = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_PICTURE = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, _SOS})
_DROPPED = frozenset({*range(0xE0, 0xF0), 0xFE})
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_MAX_SCANS = 20
_MAX_SEGMENTS = 1024
_WINDOW = 64 << 10


def strip(data: bytes, most_scans: int = _MAX_SCANS) -> bytes | None:
    """The same picture without metadata, thumbnails, profiles, comments or bytes after its end.

    Kept are the tables and scans, a bare JFIF header where there was one, and Adobe's colour-transform flag,
    because both decide how the colours are read. None for a file that is better decoded and encoded anew:
    no proper end, an unusual coding process, more segments than any camera writes, or more scans than
    `most_scans`, or tables after the last of them.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [_SOI]
    scans = 0
    for marker, start, end in _segments(data):
        if marker == _EOI:
            kept.append(b"\xff\xd9")
            return b"".join(kept) if scans else None
        if marker == _SCAN:
            kept.append(view[start:end])
        elif marker in _PICTURE:
            if scans >= most_scans:
                return None
            scans += marker == _SOS
            kept += (b"\xff", view[start:end])
        elif marker == 0xE0 and data[start + 3 : start + 8] == b"JFIF\x00":
            kept.append(_JFIF)
        elif marker == _APP14 and end - start >= 15 and data[start + 3 : start + 8] == b"Adobe":
            kept.append(b"\xff\xee\x00\x0e" + data[start + 3 : start + 15])
        elif marker not in _DROPPED:
            return None
    return None


def outline(data: bytes) -> bytes | None:
    """A sequential JPEG's header, metadata included, with an empty scan: decodes to grey in next to no time.

    Everything that makes libjpeg give up on such a file is in its header and tables. Huffman-coded data it reads
    to the end whatever it holds, and what is missing or wrong there is a warning (jdhuff.c). So when the outline
    decodes and `strip(data, 1)` finds the end of its only scan, the picture decodes. None for another coding
    process, such as progressive, or components in several scans.
    """
    kept = [_SOI]
    components = b""
    for marker, start, end in _segments(data):
        kept += (b"\xff", data[start:end])
        if marker in _SOF:
            components = data[start + 8 : start + 9]
        elif marker == _SOS:
            return b"".join(kept) + b"\xff\xd9" if data[start + 3 : start + 4] == components else None
        elif marker not in _PICTURE and marker not in _DROPPED:
            return None
    return None


@dataclass(frozen=True)
class Frame:
    """What the header of a JPEG's frame says: its marker's second byte, bits a sample, sides, and of each component,
    by its id, the sampling factors (horizontal, vertical).
    """

    process: int
    bits: int
    width: int
    height: int
    sampling: dict[int, tuple[int, int]]

    @property
    def progressive(self) -> bool:
        return self.process in _PROGRESSIVE

    @property
    def mcu(self) -> tuple[int, int]:
        """(width, height) in pixels of what is coded at a time, all components together."""
        horizontal, vertical = zip(*self.sampling.values(), strict=True)
        return 8 * max(horizontal), 8 * max(vertical)


def frame(data: bytes) -> Frame | None:
    """The frame of a JPEG; None for a file in which none begins."""
    for marker, start, end in _segments(data):
        if marker in _ANY_SOF:
            return _frame(marker, data[start:end])
        if marker == _SOS:
            break
    return None


def scans(data: bytes) -> int:
    """How many scans a JPEG has; none are looked for beyond the first of one that is not progressive."""
    count, progressive = 0, False
    for marker, _, _ in _segments(data):
        progressive = progressive or marker in _PROGRESSIVE
        if marker == _SOS:
            count += 1
            if not progressive:
                break
    return count


def without_end(data: bytes) -> bytes | None:
    """Of a JPEG that was cut off in its last scan or behind it: what there is up to there, to put an end to.

    None for one that has its end, and for one that lacks whole scans: then all of the picture is coarse.
    """
    seen: dict[int, list[bool]] = {}
    size = 0
    for marker, start, end in _segments(data):
        if marker == _EOI:
            return None
        if marker in _ANY_SOF:
            found = _frame(marker, data[start:end])
            if found is None:
                return None
            seen = {name: [False] * (64 if found.progressive else 1) for name in found.sampling}
        elif marker == _SOS:
            size = len(data)
            _scan_seen(seen, data[start:end])
        elif marker == _SCAN:
            size = end
    complete = size and seen and all(map(all, seen.values()))
    return data[:size].rstrip(b"\xff") if complete else None  # half a marker would make another one with what follows


def next_restart(data: bytes) -> bytes | None:
    """The restart marker that may come next behind data that was cut off; None for a JPEG that has none."""
    if all(marker != _DRI for marker, _, _ in _segments(data)):
        return None
    last = max(data.rfind(bytes((0xFF, number))) for number in _RESTARTS)
    number = data[last + 1] + 1 if last >= 0 else _RESTARTS[0]
    return bytes((0xFF, number if number in _RESTARTS else _RESTARTS[0]))


def _frame(marker: int, segment: bytes) -> Frame | None:
    if len(segment) < 9 or len(segment) < 9 + 3 * segment[8] or not segment[8]:
        return None
    named = [segment[at : at + 2] for at in range(9, 9 + 3 * segment[8], 3)]
    sampling = {name: (factors >> 4, factors & 15) for name, factors in named}
    height, width = int.from_bytes(segment[4:6], "big"), int.from_bytes(segment[6:8], "big")
    return Frame(marker, segment[3], width, height, sampling)


def _scan_seen(seen: dict[int, list[bool]], segment: bytes) -> None:
    """Note which coefficients of which components are complete with the scan of this header (ITU-T T.81, B.2.3).

    Of a frame that is not progressive, every scan brings all of its components.
    """
    names = segment[4 : 4 + 2 * segment[3] : 2]
    first, last, precision = segment[-3:]
    for name in names:
        bands = seen.get(name, [])
        if len(bands) == 1:
            bands[0] = True
        elif precision & 15 == 0:
            bands[first : last + 1] = [True] * (min(last, 63) + 1 - first)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment, `start` at the marker's second byte, and of the compressed data behind
    a scan's header as _SCAN. Ends with _EOI, or without it where the file is cut off or is no JPEG.
    """
    if data[:2] != _SOI:
        return
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.match(data, position)
        if found is None:
            return
        start = found.end() - 1
        marker = data[start]
        if marker == _EOI:
            yield marker, start, start + 1
            return
        length = int.from_bytes(data[start + 1 : start + 3], "big")
        position = start + 1 + length
        if length < 2 or position > len(data):
            return
        yield marker, start, position
        if marker == _SOS:
            after = _end_of_scan(data, position)
            if after is None:
                return
            yield _SCAN, position, after
            position = after


def _end_of_scan(data: bytes, start: int) -> int | None:
    """Where the marker after a scan begins. Looks in windows, so that other threads get on meanwhile."""
    for window in range(start, len(data), _WINDOW):
        if found := _AFTER_SCAN.search(data, window, window + _WINDOW + 1):
            return found.start()
    return None
