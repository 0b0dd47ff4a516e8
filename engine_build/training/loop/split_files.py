"""A file in pieces of at most so many bytes, for machines that hand back small files only.

`path.json` names the pieces of the version that is whole; it is replaced at once when the next one is, and only then
the old pieces go. Whoever is interrupted finds the version before.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

from engine_build.errors import RequestError


def index_of(path: Path) -> Path:
    """The file that names the pieces of `path`."""
    return path.with_name(f"{path.name}.json")


def write(path: Path, content: bytes, largest: int) -> None:
    """`content` as pieces beside `path` and their index; `largest` bytes at most each."""
    index = index_of(path)
    before = _names(index) if index.exists() else []
    version = 1 + max((int(name.rsplit("-", 2)[1]) for name in before), default=0)
    names = [f"{path.name}-{version}-{i:03d}" for i in range(max(1, -(-len(content) // largest)))]
    for i, name in enumerate(names):
        (path.parent / name).write_bytes(content[i * largest : (i + 1) * largest])
    temporary = index.with_name(f"{index.name}.tmp")
    temporary.write_text(json.dumps({"bytes": len(content), "pieces": names}) + "\n", encoding="utf-8")
    os.replace(temporary, index)
    for name in before:
        (path.parent / name).unlink(missing_ok=True)


def read(path: Path) -> io.BytesIO:
    """The whole again. Raises RequestError when a piece is missing or cut short."""
    index = index_of(path)
    expected = json.loads(index.read_text(encoding="utf-8"))["bytes"]
    pieces = [path.parent / name for name in _names(index)]
    if missing := [piece.name for piece in pieces if not piece.exists()]:
        raise RequestError(f"{index} names {missing[0]}, which is not beside it")
    whole = b"".join(piece.read_bytes() for piece in pieces)
    if len(whole) != expected:
        raise RequestError(f"the pieces that {index} names hold {len(whole)} bytes, not {expected}: one is cut short")
    return io.BytesIO(whole)


def _names(index: Path) -> list[str]:
    return [str(name) for name in json.loads(index.read_text(encoding="utf-8"))["pieces"]]
