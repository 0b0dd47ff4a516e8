"""How try-ons end before or without a picture, and how what they left is erased."""

from __future__ import annotations

import time

import httpx
import pytest
from gateway_live import Live, parts

from service.errors import Gone
from service.jobs.schemas import JobError


def value(metrics: str, series: str) -> float:
    """The value of one series in a Prometheus text, 0 when it is absent."""
    for line in metrics.splitlines():
        if line.startswith(series + " "):
            return float(line.split()[-1])
    return 0.0


def test_cancel_before_start_and_twice(held: Live) -> None:
    with held.client() as client:
        before = client.get("/metrics").text
        made = client.post("/v1/try-ons", files=parts()).json()
        assert made["status"] == "queued" and made["position"] == 0
        assert "changeroom_requests_waiting 1.0" in client.get("/metrics").text
        first = client.post(made["links"]["cancel"])
        assert first.status_code == 200 and first.json()["status"] == "canceled"
        assert first.json()["error"]["code"] == "canceled"
        again = client.post(made["links"]["cancel"])
        assert again.json() == first.json()
        after = client.get("/metrics").text
        assert "changeroom_requests_waiting 0.0" in after
        series = 'changeroom_canceled_total{phase="queued"}'
        assert value(after, series) == value(before, series) + 1
        picture = client.get(made["links"]["image"])
        assert picture.status_code == 409 and picture.json()["code"] == "no-picture"


def test_an_unfinished_picture_is_a_conflict(held: Live) -> None:
    with held.client() as client:
        made = client.post("/v1/try-ons", files=parts()).json()
        answer = client.get(made["links"]["image"])
        assert answer.status_code == 409 and answer.json()["code"] == "not-finished"
        assert answer.headers["retry-after"] == "1"
        client.delete(made["links"]["self"])


def test_delete_erases_record_inputs_and_picture(live: Live, http: httpx.Client) -> None:
    made = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10"}).json()
    record = live.call(live.queue.owner.get(made["id"]))
    keys = [record.spec.person, record.spec.garments[0].blob, record.result.blob]
    assert http.delete(made["links"]["self"]).status_code == 204
    for address in (made["links"]["self"], made["links"]["image"], made["result"]["url"]):
        gone = http.get(address)
        assert gone.status_code == 410, address
    assert http.delete(made["links"]["self"]).status_code == 410
    for key in keys:
        with pytest.raises(Gone):
            live.call(live.blobs.get(key))


def test_an_erased_picture_is_gone_while_the_record_stays(live: Live, http: httpx.Client) -> None:
    made = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10"}).json()
    record = live.call(live.queue.owner.get(made["id"]))
    live.call(live.blobs.delete(record.result.blob))
    answer = http.get(made["links"]["image"])
    assert answer.status_code == 410
    assert answer.json()["type"] == "urn:changeroom:problem:result-expired"


def test_a_failed_try_on_carries_its_problem(live: Live, http: httpx.Client) -> None:
    live.worker.failing = JobError(code="engine-failed", message="Try again.", retryable=True)
    try:
        body = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10"}).json()
    finally:
        live.worker.failing = None
    assert body["status"] == "failed" and body["result"] is None
    assert body["error"]["type"] == "urn:changeroom:problem:engine-failed"
    assert body["error"]["retryable"] is True


def test_a_deadline_ends_a_job_nobody_takes(held: Live) -> None:
    with held.client() as client:
        made = client.post("/v1/try-ons", files=parts(), headers={"Cancel-After": "1s"}).json()
        time.sleep(1.2)
        held.call(held.queue.upkeep.sweep())
        body = client.get(made["links"]["self"]).json()
    assert body["status"] == "expired" and body["error"]["code"] == "deadline-exceeded"


def test_a_signed_address_opens_only_its_own_picture(http: httpx.Client) -> None:
    one = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10"}).json()
    two = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10"}).json()
    token = one["result"]["url"].split("token=")[1]
    swapped = http.get(f"{two['links']['image']}?token={token}")
    assert swapped.status_code == 401 and swapped.json()["code"] == "invalid-token"
    late = http.get(f"{one['links']['image']}?token=1000.{token.split('.')[1]}")
    assert late.status_code == 410
