"""A JPEG without what it carries beside the picture: metadata removed, coefficients untouched.

A photo that needs no turning, scaling or colour conversion keeps its own compressed data, so it loses no
quality and costs no encoding. Marker syntax: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re

_SOI, _EOI, _SOS, _APP14 = 0xD8, 0xD9, 0xDA, 0xEE
_PICTURE = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, _SOS})
_DROPPED = frozenset({*range(0xE0, 0xF0), 0xFE})
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_MAX_SCANS = 20


def strip(data: bytes) -> bytes | None:
    """The same picture without metadata, thumbnails, profiles, comments or bytes after its end.

    Kept are the tables and scans, a bare JFIF header where there was one, and Adobe's colour-transform flag,
    because both decide how the colours are read. None for a file that is better decoded and encoded anew:
    no proper end, an unusual coding process, or more scans than any camera writes.
    """
    if data[:2] != b"\xff\xd8":
        return None
    kept = [b"\xff\xd8"]
    scans = 0
    position = 2
    while True:
        found = _MARKER.match(data, position)
        if found is None:
            return None
        marker = data[found.end() - 1]
        if marker == _EOI:
            kept.append(b"\xff\xd9")
            return b"".join(kept) if scans else None
        start = found.end()
        length = int.from_bytes(data[start : start + 2], "big")
        end = start + length
        if length < 2 or end > len(data):
            return None
        if marker == _SOS:
            scans += 1
            following = _AFTER_SCAN.search(data, end)
            if following is None or scans > _MAX_SCANS:
                return None
            end = following.start()
        if marker in _PICTURE:
            kept.append(b"\xff" + data[found.end() - 1 : end])
        elif marker == 0xE0 and data[start + 2 : start + 7] == b"JFIF\x00":
            kept.append(_JFIF)
        elif marker == _APP14 and length >= 14 and data[start + 2 : start + 7] == b"Adobe":
            kept.append(b"\xff\xee\x00\x0e" + data[start + 2 : start + 14])
        elif marker not in _DROPPED:
            return None
        position = end
