"""The bundled sample person in the bundled sample outfit, dressed through the public REST API."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from service.errors import CommandFailed

SAMPLES = Path(__file__).parents[1] / "gateway" / "studio" / "samples"


class Dressing:
    """One dressing of the sample person, under way on a thread of its own: a demonstration, whatever comes of it.

    Once it is `over`, `made` is what `dress_sample` returned, or `failure` is the line that says why there is none.
    """

    def __init__(self, address: str, save_to: Path, patience_s: float) -> None:
        self.made: FirstTryOn | None = None
        self.failure: str | None = None
        self._ask = partial(dress_sample, address, save_to, patience_s)
        self._thread = threading.Thread(target=self._dress, name="first-try-on", daemon=True)
        self._thread.start()

    def over(self) -> bool:
        return not self._thread.is_alive()

    def _dress(self) -> None:
        try:
            self.made = self._ask()
        except CommandFailed as error:
            self.failure = str(error)


@dataclass(frozen=True)
class FirstTryOn:
    """Where the picture lies, the seconds from request to picture, and the seconds of each stage."""

    path: Path
    seconds: float
    timings: dict[str, float]


def dress_sample(address: str, save_to: Path, patience_s: float, samples: Path = SAMPLES) -> FirstTryOn | None:
    """Dress the first sample of the manifest; None when no samples are bundled.

    Raises CommandFailed when the service does not answer with a picture within `patience_s`.
    """
    manifest = samples / "manifest.json"
    if not manifest.exists():
        return None
    sample = json.loads(manifest.read_text())["outfits"][0]
    started = time.monotonic()
    with httpx.Client(base_url=address, timeout=30.0, trust_env=False) as client:
        try:
            job = _post(client, samples, sample, patience_s)
            job = _finished(client, job, started + patience_s)
            picture = client.get(job["links"]["image"], follow_redirects=True)
            picture.raise_for_status()
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise CommandFailed(f"the first try-on failed: {error or type(error).__name__}") from error
    seconds = time.monotonic() - started
    try:
        save_to.parent.mkdir(parents=True, exist_ok=True)
        save_to.write_bytes(picture.content)
    except OSError as error:
        raise CommandFailed(f"the first try-on could not be saved: {error}") from error
    return FirstTryOn(save_to.absolute(), seconds, job["timings"])


def _post(client: httpx.Client, samples: Path, sample: dict[str, Any], patience_s: float) -> dict[str, Any]:
    garments = sample["garments"]
    files = [("person", (sample["person"], (samples / sample["person"]).read_bytes()))]
    files += [("garment", (said["file"], (samples / said["file"]).read_bytes())) for said in garments]
    data = {
        "categories": [said.get("category") or "auto" for said in garments],
        "layers": [said.get("layer") or "" for said in garments],
        "prompt": sample.get("prompt") or "",
        "seed": str(sample.get("seed", 0)),
    }
    headers = {"Prefer": "wait=20", "Cancel-After": str(int(patience_s))}
    reply = client.post("/v1/try-ons", files=files, data=data, headers=headers)
    return _job(reply)


def _finished(client: httpx.Client, job: dict[str, Any], give_up_at: float) -> dict[str, Any]:
    while job["status"] in ("queued", "processing"):
        if time.monotonic() > give_up_at:
            raise CommandFailed("the first try-on took too long; see the worker's log")
        time.sleep(0.2)
        job = _job(client.get(job["links"]["self"]))
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        raise CommandFailed(f"the first try-on {job['status']}: {error.get('detail') or error.get('code')}")
    return job


def _job(reply: httpx.Response) -> dict[str, Any]:
    if reply.status_code >= 400:
        try:
            problem = reply.json()
        except ValueError:
            problem = {}
        detail = problem.get("detail") or problem.get("title") or f"HTTP {reply.status_code}"
        raise CommandFailed(f"the first try-on was refused: {detail}")
    body: dict[str, Any] = reply.json()
    return body
