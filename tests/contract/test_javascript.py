"""The openai, fashn and eventsource packages of npm, unmodified, against the running gateway."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gateway_live import Live, data_url, picture

from service.jobs.schemas import JobError
from service.worker.webhooks import message

SCRIPTS = Path(__file__).parent / "js"
PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")


@pytest.fixture
def script(tmp_path: Path, node_modules: Path) -> Any:
    """Run a script of tests/contract/js with one JSON value; what it prints is JSON too."""
    (tmp_path / "node_modules").symlink_to(node_modules)

    def run(name: str, **given: Any) -> Any:
        (tmp_path / name).write_text((SCRIPTS / name).read_text())
        command = ["node", name, json.dumps(given)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run


def pictures() -> list[str]:
    return [base64.b64encode(data).decode() for data in (PERSON, SHIRT)]


def test_openai_edits_streams_and_raises_its_own_errors(live: Live, script: Any) -> None:
    told = script("openai.mjs", base=live.url + "/v1", pictures=pictures())
    assert told["edit"] == {"format": "webp", "size": "192x256", "quality": "medium", "total": True, "bytes": "RIFF"}
    assert told["opened"] == "image/png"
    assert told["events"] == ["image_edit.partial_image", "image_edit.partial_image", "image_edit.completed"]
    assert told["models"] == ["plain"]
    assert told["wrong"] == [
        ["BadRequestError", 400, "image[1]", "unsupported-image-format"],
        ["BadRequestError", 400, "n", "unsupported-parameter"],
        ["BadRequestError", 400, "image", "missing-garment"],
        ["NotFoundError", 404, "model", "unknown-model"],
    ]


def test_fashn_runs_subscribes_and_raises_its_own_errors(live: Live, script: Any) -> None:
    told = script("fashn.mjs", base=live.url, person=data_url(PERSON), garment=data_url(SHIRT), webhook=None)
    assert told["status"] == "completed" and told["kind"] == "image/png" and told["credits"] == 0
    assert told["inline"] == "data:image/jpeg;base64,"
    assert told["wrong"] == [
        ["BadRequestError", 400, "ImageLoadError"],
        ["BadRequestError", 400, "BadRequest"],
        ["NotFoundError", 404, "NotFound"],
    ]


def test_fashns_webhook_arrives_in_fashns_shape(launch: Any, script: Any) -> None:
    live = launch(webhooks_enabled=True, webhook_secret="whsec_" + "a" * 32, webhook_allow_private=True)
    url = "http://127.0.0.1:49151/hook"
    told = script("fashn.mjs", base=live.url, person=data_url(PERSON), garment=data_url(SHIRT), webhook=url)
    sent = message(live.opened(told["id"]))
    assert sent is not None and sent.url == url
    body = json.loads(sent.body)
    assert {name: body[name] for name in ("id", "status", "error")} == {
        "id": told["id"],
        "status": "completed",
        "error": None,
    }
    assert [address.partition("?")[0] for address in body["output"]] == [
        address.partition("?")[0] for address in told["output"]
    ]


def test_a_failed_prediction_has_fashns_name(live: Live, script: Any) -> None:
    live.worker.failing = JobError(code="input-damaged", message="This picture was damaged.")
    try:
        told = script("fashn_failed.mjs", base=live.url, person=data_url(PERSON), garment=data_url(SHIRT))
    finally:
        live.worker.failing = None
    assert told == {"status": "failed", "error": {"name": "ImageLoadError", "message": "This picture was damaged."}}


def test_an_event_source_that_stays_open_stops_asking(live: Live, script: Any) -> None:
    """It reconnects after the end, is told 204, and closes: two connections, whatever it waits."""
    with live.client() as client:
        files = [("person", ("p.jpg", PERSON, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
        made = client.post("/v1/try-ons", files=files).json()
    told = script("events.mjs", address=live.url + made["links"]["events"])
    assert told["kinds"][-1] == "succeeded" and told["kinds"].count("succeeded") == 1
    assert told["statuses"] == [200, 204] and told["state"] == 2
