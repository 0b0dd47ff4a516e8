"""Results made through a running service, one request a sample; what is there already is not made again.

A picture appears under its name only when it is whole. Every request carries an idempotency key of what it asks, so a
run that was killed finds the job it had begun. A sample that cannot be made is left without a result, with the reason.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from engine_build.errors import RequestError
from engine_build.instruction import CATEGORIES, PREFIX
from engine_build.judging.folders import phrase
from engine_build.judging.samples import JudgedSet, Sample

BASELINES = ("copy", "truth")
_HOLD_S = 60
_ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})
_BUSY = frozenset({429, 502, 503, 504})
_MAX_WAIT_S = 60.0
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Service:
    """A running service and what is asked of it. `patience_s` bounds one sample, waiting its turn included."""

    url: str
    key: str = ""
    seed: int = 0
    steps: int | None = None
    size: str | None = None
    parallel: int = 4
    patience_s: float = 900.0


@dataclass(frozen=True)
class Made:
    """What came of it: pictures made now, there before, and why others could not be made, by id."""

    made: int
    there: int
    failed: dict[str, str]


class _Failed(Exception):
    """A sample that cannot be made, and why."""


def generate(
    judged: JudgedSet, results: Path, service: Service, progress: Callable[[int, int], None] = lambda done, total: None
) -> Made:
    """Make what is missing of a folder of results.

    Raises RequestError for a set whose photo is its own truth, and when the service cannot be reached at all.
    """
    _refuse_photos_as_truth(judged)
    results.mkdir(parents=True, exist_ok=True)
    todo = [sample for sample in judged.samples if not sample.result_in(results).is_file()]
    failed: dict[str, str] = {}
    headers = {"Authorization": f"Bearer {service.key}"} if service.key else {}
    with (
        httpx.Client(base_url=service.url, headers=headers, timeout=_HOLD_S + 30, trust_env=False) as http,
        ThreadPoolExecutor(max(1, service.parallel)) as pool,
    ):
        try:
            http.get("/readyz")
        except httpx.HTTPError as error:
            raise RequestError(f"no service answers at {service.url}: {error}") from error
        for done, (sample, reason) in enumerate(
            pool.map(lambda one: _made(http, one, results, service), todo), start=1
        ):
            if reason:
                failed[sample.id] = reason
            progress(done, len(todo))
    return Made(len(todo) - len(failed), len(judged.samples) - len(todo), failed)


def write_baseline(judged: JudgedSet, results: Path, of: str) -> int:
    """Write the photo (`copy`) or the truth of every sample as its result; returns how many.

    Raises RequestError for another word, or a set that knows no truth.
    """
    if of not in BASELINES:
        raise RequestError(f"there is no baseline {of!r}; choose from {', '.join(BASELINES)}")
    results.mkdir(parents=True, exist_ok=True)
    for sample in judged.samples:
        shown = sample.person if of == "copy" else sample.truth
        if shown is None:
            raise RequestError(f"{judged.name} does not know the truth of {sample.id}")
        _write(sample.result_in(results), _as_png(shown.data()))
    return len(judged.samples)


def _made(http: httpx.Client, sample: Sample, results: Path, service: Service) -> tuple[Sample, str]:
    try:
        _write(sample.result_in(results), _picture(http, sample, service))
    except _Failed as failed:
        return sample, str(failed)
    except httpx.HTTPError as error:
        return sample, f"unreachable: {type(error).__name__}"
    return sample, ""


def _picture(http: httpx.Client, sample: Sample, service: Service) -> bytes:
    form, files = _form(sample, service), _files(sample)
    told = hashlib.sha256(repr(sorted(form.items())).encode())
    for _, (_, data) in files:
        told.update(hashlib.sha256(data).digest())
    headers = {"Idempotency-Key": f"judge-{told.hexdigest()[:40]}", "Prefer": f"wait={_HOLD_S}"}
    until = time.monotonic() + service.patience_s
    answer = _patiently(lambda: http.post("/v1/try-ons", data=form, files=files, headers=headers), until)
    job = _job(answer, (200, 202))
    while job["status"] not in _ENDED:
        if time.monotonic() > until:
            raise _Failed("not finished in time")
        address = f"/v1/try-ons/{job['id']}"
        job = _job(_patiently(lambda a=address: http.get(a, headers={"Prefer": f"wait={_HOLD_S}"}), until), (200,))  # type: ignore[misc]
    if job["status"] != "succeeded":
        raise _Failed(str((job.get("error") or {}).get("code") or job["status"]))
    image = _patiently(lambda: http.get(f"/v1/try-ons/{job['id']}/image"), until)
    if image.status_code != httpx.codes.OK:
        raise _Failed(_code(image))
    return image.content


def _patiently(ask: Callable[[], httpx.Response], until: float) -> httpx.Response:
    """An answer that is not "come again"; waits as it is told, until `until`."""
    while True:
        answer = ask()
        if answer.status_code not in _BUSY:
            return answer
        said = answer.headers.get("retry-after", "")
        wait = min(_MAX_WAIT_S, float(said) if said.isascii() and said.isdigit() else 1.0)
        if time.monotonic() + wait > until:
            raise _Failed(_code(answer))
        time.sleep(wait)


def _job(answer: httpx.Response, expected: tuple[int, ...]) -> dict[str, Any]:
    if answer.status_code not in expected:
        raise _Failed(_code(answer))
    try:
        job: dict[str, Any] = answer.json()
        job["id"], job["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise _Failed("an answer that is no try-on") from error
    return job


def _code(answer: httpx.Response) -> str:
    """The stable code of a problem document (RFC 9457), or the bare status."""
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return f"http-{answer.status_code}"


def _form(sample: Sample, service: Service) -> dict[str, str]:
    """What is said beside the pictures: an instruction of our grammar as its categories and layers, others as words."""
    known = [one.category if one.category in CATEGORIES else "auto" for one in sample.references]
    form = {"categories": ",".join(known), "seed": str(service.seed), "output_format": "png"}
    layers = [phrase(one).layer or "" for one in sample.references]
    if any(layers):
        form["layers"] = ",".join(layers)
    if not sample.instruction.startswith(PREFIX):
        form["prompt"] = sample.instruction
    if service.steps is not None:
        form["steps"] = str(service.steps)
    if service.size is not None:
        form["size"] = service.size
    return form


def _files(sample: Sample) -> list[tuple[str, tuple[str, bytes]]]:
    garments: Iterator[bytes] = (one.picture.data() for one in sample.references)
    return [("person", ("person", sample.person.data())), *(("garment", ("garment", data)) for data in garments)]


def _refuse_photos_as_truth(judged: JudgedSet) -> None:
    for sample in judged.samples:
        if sample.truth is not None and sample.truth.path is not None and sample.truth.path == sample.person.path:
            raise RequestError(
                f"{judged.name}: the photo of {sample.id} is the truth itself, a model without masks would only "
                "have to hand it back; make results of unpaired garments"
            )


def _as_png(data: bytes) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + _PARTIAL)
    partial.write_bytes(data)
    os.replace(partial, path)
