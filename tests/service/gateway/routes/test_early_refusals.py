"""Refusals before the body is read: repeated while fresh, in every dialect, never in place of a job that exists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gateway_live import Live, picture

from service.jobs import submission

FILES = [("person", ("p.jpg", picture(), "image/jpeg")), ("garment", ("g.jpg", picture(), "image/jpeg"))]
UNREADABLE = {"content": b"{", "headers": {"Content-Type": "application/json"}}


def test_who_was_just_refused_is_not_read_again(launch: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "FULL_FOR_S", 60.0)
    tight = launch(max_in_flight=1)
    tight.hold()
    try:
        with tight.client() as client:
            assert client.post("/v1/try-ons", **UNREADABLE).status_code == 400
            first = client.post("/v1/try-ons", files=FILES, headers={"Idempotency-Key": "k"})
            assert first.status_code == 202
            assert client.post("/v1/try-ons", files=FILES).json()["code"] == "queue-full"
            for path in ("/v1/try-ons", "/v1/images/edits", "/v1/run"):
                refused = client.post(path, **UNREADABLE)
                assert (refused.status_code, refused.json()["code"]) == (503, "queue-full"), path
                assert int(refused.headers["retry-after"]) >= 1 and refused.headers["x-request-id"]
            assert client.post("/v1/run", **UNREADABLE).json()["message"]
            again = client.post("/v1/try-ons", files=FILES, headers={"Idempotency-Key": "k"})
            assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
            assert client.get("/livez").status_code == 200
            seen = client.get("/metrics").text
        assert 'changeroom_admission_rejected_total{reason="queue-full"} 5.0' in seen
    finally:
        tight.resume()
