"""Recorded traffic as files: our own CSV and the public trace of a production diffusion service.

1. `offset_s[,images][,garments][,priority][,size][,service_s]` with a header, any order, other columns ignored.
   `offset_s` is seconds from the start of the trace; `images` is how many pictures the recorded request asked its
   own service for; `garments` is 1 to 6 where the trace is of try-ons; `service_s` is seconds of execution.
2. `cluster-trace-v2026-GenAI` of alibaba/clusterdata ("Understanding Diffusion Model Serving in Production",
   SoCC '25) as downloaded: its table `lora_request_trace.csv` with `gmt_create` (YYYY-MM-DD HH:MM:SS),
   `num_images_per_prompt` and `exec_time_seconds`, alone or in the `.tar.gz` it comes in. Offsets count from the
   first request. Failed requests arrived too, so they count.

Both may be compressed with gzip.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from service.jobs.schemas import Priority

STAMP = "gmt_create"
PRIORITIES = get_args(Priority)


class TraceError(ValueError):
    """A trace that cannot be read; one line that names the file, the line and what is wrong."""


@dataclass(frozen=True)
class Recorded:
    """One recorded request; None where the trace does not say."""

    offset_s: float
    images: int | None = None
    garments: int | None = None
    priority: str | None = None
    size: str | None = None
    service_s: float | None = None


def read_trace(path: Path) -> list[Recorded]:
    """The requests of a trace in the order of their time. Raises TraceError or OSError."""
    try:
        with _text(path) as lines:
            rows = csv.DictReader(lines)
            names = {name.strip() for name in rows.fieldnames or () if name}
            read = _reader(names)
            if read is None:
                raise TraceError(
                    f"{path}: the header has neither offset_s nor {STAMP}; the GenAI trace to take is "
                    "lora_request_trace.csv"
                )
            found = list(_rows(path, rows, read))
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise TraceError(f"{path}: not a CSV file ({error})") from error
    if not found:
        raise TraceError(f"{path}: no requests in it")
    found.sort(key=lambda row: row.offset_s)
    if STAMP in names and "offset_s" not in names:
        first = found[0].offset_s
        found = [Recorded(row.offset_s - first, images=row.images, service_s=row.service_s) for row in found]
    return found


def _reader(names: set[str]) -> Callable[[dict[str, str]], Recorded] | None:
    if "offset_s" in names:
        return _own
    return _genai if STAMP in names else None


def _rows(path: Path, rows: csv.DictReader[str], read: Callable[[dict[str, str]], Recorded]) -> Iterator[Recorded]:
    for row in rows:
        cells = {(name or "").strip(): (cell or "").strip() for name, cell in row.items() if isinstance(cell, str)}
        if not any(cells.values()):
            continue
        try:
            yield read(cells)
        except ValueError as error:
            raise TraceError(f"{path}, line {rows.line_num}: {error}") from error


def _own(cells: dict[str, str]) -> Recorded:
    priority = cells.get("priority") or None
    if priority is not None and priority not in PRIORITIES:
        raise ValueError(f"priority {priority!r} is none of {', '.join(PRIORITIES)}")
    return Recorded(
        offset_s=_seconds(cells, "offset_s", needed=True) or 0.0,
        images=_count(cells, "images"),
        garments=_count(cells, "garments"),
        priority=priority,
        size=cells.get("size") or None,
        service_s=_seconds(cells, "service_s"),
    )


def _genai(cells: dict[str, str]) -> Recorded:
    at = datetime.fromisoformat(cells.get(STAMP, "")).replace(tzinfo=UTC)
    return Recorded(
        offset_s=at.timestamp(),
        images=_count(cells, "num_images_per_prompt"),
        service_s=_seconds(cells, "exec_time_seconds"),
    )


def _seconds(cells: dict[str, str], name: str, needed: bool = False) -> float | None:
    text = cells.get(name, "")
    if not text and not needed:
        return None
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} {text!r} is not a number of seconds")
    return value


def _count(cells: dict[str, str], name: str) -> int | None:
    text = cells.get(name, "")
    if not text:
        return None
    value = float(text)
    if value != int(value) or value < 1:
        raise ValueError(f"{name} {text!r} is not a count of at least 1")
    return int(value)


@contextmanager
def _text(path: Path) -> Iterator[Iterable[str]]:
    """The lines of the trace inside `path`: plain, gzip, or the first fitting table of a tar archive."""
    if path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            text = _member(path, archive)
        yield io.StringIO(text, newline="")
        return
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
        yield lines


def _member(path: Path, archive: tarfile.TarFile) -> str:
    for member in archive:
        name = Path(member.name).name
        if not member.isfile() or not name.endswith(".csv") or name.startswith("._"):
            continue
        handle = archive.extractfile(member)
        if handle is None:
            continue
        text = handle.read().decode("utf-8-sig")
        if _reader({column.strip() for column in text.partition("\n")[0].split(",")}) is not None:
            return text
    raise TraceError(f"{path}: no CSV with offset_s or {STAMP} in this archive")
