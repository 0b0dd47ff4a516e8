"""What was erased is nowhere: every file of the data folder is searched for a try-on's pictures, words and previews."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from besieged import SECRET, Besieged
from hostile_pictures import encoded
from PIL import Image

from loadtests.bench.local_service import free_port

TTL: dict[str, Any] = {"input_ttl_s": 15, "result_ttl_s": 15, "deadline_max_s": 25, "deadline_default_s": 25}
SLICE = 24
PATIENCE_S = 240.0


def photo() -> bytes:
    """A picture like no other: its bytes are found wherever they were written."""
    return encoded(Image.effect_noise((96, 128), 60).convert("RGB"), "JPEG", quality=80)


def slices(data: bytes) -> dict[str, bytes]:
    """Some bytes of a picture, plain and in base64; its first and last ones may be those of any picture."""
    middle = data[len(data) // 2 // 3 * 3 :][: SLICE * 2]
    return {"bytes": middle[:SLICE], "base64": base64.b64encode(middle)}


@dataclass
class Traces:
    """What a try-on could leave behind: by name, the bytes that give it away."""

    wanted: dict[str, bytes] = field(default_factory=dict)

    def word(self, name: str) -> str:
        """A word that stands nowhere else, to be sent as `name`."""
        word = "w" + secrets.token_hex(8)
        self.wanted[name] = word.encode()
        return word

    def picture(self, name: str, data: bytes) -> bytes:
        self.wanted |= {f"{name} ({how})": part for how, part in slices(data).items()}
        return data

    def found(self, folder: Path) -> list[str]:
        """Which of them lie in which file below `folder`."""
        seen = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with suppress(FileNotFoundError):  # the store takes its old log away meanwhile
                data = path.read_bytes()
                seen += [f"{name} in {path.relative_to(folder)}" for name, part in self.wanted.items() if part in data]
        return seen


def dressed(service: Besieged, traces: Traces) -> dict[str, Any]:
    """A try-on with everything personal in it, followed to its end; its result and previews are traces too."""
    files = [("person", ("p.jpg", traces.picture("person", photo()), "image/jpeg"))]
    files += [("garment", (f"{i}.jpg", traces.picture(f"garment {i}", photo()), "image/jpeg")) for i in range(2)]
    data = {
        "categories": "tops,pants",
        "prompt": f"the sleeves rolled up like {traces.word('prompt')} does",
        "metadata": json.dumps({"customer": traces.word("metadata")}),
        "webhook_url": f"http://127.0.0.1:{free_port()}/{traces.word('webhook address')}",
    }
    with service.client() as client:
        made = client.post("/v1/try-ons", files=files, data=data)
        assert made.status_code == 202, made.text
        with client.stream("GET", made.json()["links"]["events"]) as answer:
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        said = [json.loads(line) for line in lines]
        previews = [base64.b64decode(event["preview"]) for event in said if "preview" in event]
        assert previews, "somebody who follows sees previews"
        for number, preview in enumerate(previews):
            traces.picture(f"preview {number}", preview)
        job: dict[str, Any] = said[-1]["try_on"]
        assert job["status"] == "succeeded", job
        assert traces.wanted["prompt"].decode() in job["instruction"]["text"]
        assert job["metadata"]["customer"].encode() == traces.wanted["metadata"]
        traces.picture("result", client.get(job["result"]["url"]).content)
    return job


def keys_of(service: Besieged) -> list[Path]:
    """The files that hold keys of words."""
    return [path for path in (service.folder / "data" / "blobs" / "key").rglob("*") if path.is_file()]


Launch = Callable[..., Besieged]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    started: list[Besieged] = []

    def start(**settings: Any) -> Besieged:
        service = Besieged(tmp_path / "besieged", model="nano", webhook_allow_private=True, **settings)
        started.append(service)
        service.folder.mkdir()
        return service.start(photo(), photo())

    yield start
    for service in started:
        service.stop()


@pytest.mark.timeout(600)
def test_after_delete_no_file_knows_the_try_on(launch: Launch) -> None:
    service, traces = launch(webhook_secret=SECRET), Traces()
    job = dressed(service, traces)
    left = traces.found(service.folder)
    assert {name.partition(" in ")[0] for name in left} == {"person (bytes)", "result (bytes)"} | {
        f"garment {number} (bytes)" for number in range(2)
    }, "only the pictures lie there, and only as pictures"
    (key,) = keys_of(service)
    traces.wanted["key"] = key.read_bytes()
    with service.client() as client:
        assert client.delete(job["links"]["self"]).status_code == 204
        assert client.get(job["links"]["self"]).status_code == 410
    assert traces.found(service.folder) == []


@pytest.mark.timeout(600)
def test_after_its_time_no_file_knows_the_try_on(launch: Launch) -> None:
    service, traces = launch(**TTL, log_rewrite_s=2), Traces()
    job = dressed(service, traces)
    for key in keys_of(service):
        traces.wanted["key"] = key.read_bytes()
    assert "key" in traces.wanted
    patience = time.monotonic() + PATIENCE_S
    while (left := traces.found(service.folder)) and time.monotonic() < patience:
        time.sleep(0.5)
    assert left == []
    with service.client() as client:
        assert client.get(job["links"]["self"]).status_code in (404, 410)


def test_a_picture_that_cannot_be_erased_yet_is_erased_by_asking_again(besieged: Besieged) -> None:
    """Where DELETE fails halfway nothing is forgotten that is still there."""
    with besieged.client() as client:
        job = besieged.dress(client, headers={"Prefer": "wait=30"}).json()
        blobs = besieged.folder / "data" / "blobs"
        away = blobs.rename(blobs.with_name("away"))
        try:
            blobs.write_text("not a folder")
            refused = client.delete(job["links"]["self"])
        finally:
            blobs.unlink()
            away.rename(blobs)
        assert refused.status_code == 503, refused.text
        assert client.delete(job["links"]["self"]).status_code == 204
        with pytest.raises(httpx.HTTPStatusError):
            client.get(job["result"]["url"]).raise_for_status()
