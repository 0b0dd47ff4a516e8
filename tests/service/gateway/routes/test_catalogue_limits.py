"""One limit for every way in: an upload into the catalogue is bounded like a try-on, and what it leaves behind too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
from gateway_live import Live, parts, picture

from service.gateway.work.api_keys import ANONYMOUS
from service.jobs.schemas import Limits


def put(client: httpx.Client, sku: str, data: bytes | None = None) -> httpx.Response:
    given = picture(64, 64, "navy") if data is None else data
    return client.put(f"/v1/garments/{sku}", content=given, headers={"Content-Type": "image/jpeg"})


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert status == 422 or answer.headers["retry-after"]


async def reserve(live: Live, size: int) -> None:
    """Leave so much of the disk to accepted jobs from now on."""
    folder = live.app.state.gateway.tryons._blobs._folder
    folder._reserve_bytes = size


def stored(live: Live) -> list[Path]:
    return sorted(path for path in (live.settings.data_dir / "blobs" / "garment").rglob("*") if path.is_file())


def test_uploads_and_try_ons_share_one_rate(launch: Callable[..., Live]) -> None:
    with launch(rate_per_minute=3).client() as client:
        assert [put(client, sku).status_code for sku in "ab"] == [201, 201]
        assert client.post("/v1/try-ons", files=parts()).status_code == 202
        refused(put(client, "c"), 429, "rate-limited")
        refused(client.post("/v1/try-ons", files=parts()), 429, "rate-limited")


def test_uploads_and_try_ons_share_one_quota_and_what_is_refused_costs_none(launch: Callable[..., Live]) -> None:
    with launch(daily_quota=2).client() as client:
        for _ in range(3):
            assert put(client, "a", b"no picture").status_code == 415
        assert put(client, "a").status_code == 201
        assert client.post("/v1/try-ons", files=parts()).status_code == 202
        refused(put(client, "b"), 429, "quota-exceeded")
        refused(client.post("/v1/try-ons", files=parts()), 429, "quota-exceeded")


def test_uploads_and_try_ons_share_one_concurrency(launch: Callable[..., Live]) -> None:
    live = launch(concurrency_per_key=1)
    with live.client() as client:
        assert [put(client, sku).status_code for sku in "aa"] == [201, 200]
        upload = live.call(live.queue.submission.reserve_upload(ANONYMOUS, Limits(concurrency=1)))
        refused(put(client, "b"), 429, "concurrency-limited")
        refused(client.post("/v1/try-ons", files=parts()), 429, "concurrency-limited")
        assert live.call(live.queue.upkeep.backlog()).in_flight == 0
        live.call(live.queue.submission.release(upload))
        assert client.post("/v1/try-ons", files=parts()).status_code == 202


def test_a_catalogue_has_so_many_garments_and_bytes(launch: Callable[..., Live]) -> None:
    live = launch(catalogue_garments=2)
    with live.client() as client:
        assert [put(client, sku).status_code for sku in "abb"] == [201, 201, 200]
        refused(put(client, "c"), 422, "catalogue-full")
        assert len(stored(live)) == 2
        assert client.delete("/v1/garments/a").status_code == 204
        assert put(client, "c").status_code == 201
    with launch(catalogue_bytes=len(picture(64, 64, "navy"))).client() as client:
        assert put(client, "a").status_code == 201
        refused(put(client, "b"), 422, "catalogue-full")
        assert put(client, "a").status_code == 200


def test_a_garment_says_when_it_ends(launch: Callable[..., Live]) -> None:
    with launch(garment_ttl_s=3600).client() as client:
        assert put(client, "a").json()["expires_at"]
        first = client.get("/v1/garments/a").json()["expires_at"]
        assert client.get("/v1/garments/a").json()["expires_at"] == first
        dressed = client.post("/v1/try-ons", files=parts(0), data={"skus": "a"})
        assert dressed.status_code == 202, dressed.text
        assert client.get("/v1/garments/a").json()["expires_at"] > first
    with launch(garment_ttl_s=0).client() as client:
        assert put(client, "a").json()["expires_at"] is None


def test_nothing_is_taken_in_that_would_fill_the_disk(launch: Callable[..., Live]) -> None:
    live = launch(disk_reserve_bytes=0)
    with live.client() as client:
        key = {"Idempotency-Key": "before"}
        before = client.post("/v1/try-ons", files=parts(), headers=key)
        live.call(reserve(live, 1 << 60))
        again = client.post("/v1/try-ons", files=parts(), headers=key)
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (before.json()["id"], "true")
        new = client.post("/v1/try-ons", files=parts(), headers={"Idempotency-Key": "new"})
        refused(new, 503, "storage-full")
        live.call(reserve(live, 0))
        assert client.post("/v1/try-ons", files=parts(), headers={"Idempotency-Key": "new"}).status_code == 202
    with launch(disk_reserve_bytes=1 << 60).client() as client:
        refused(put(client, "a"), 503, "storage-full")
        refused(client.post("/v1/try-ons", files=parts()), 503, "storage-full")
        assert 'changeroom_admission_rejected_total{reason="storage-full"} 2.0' in client.get("/metrics").text


def test_only_the_service_can_read_its_pictures(launch: Callable[..., Live]) -> None:
    live = launch()
    with live.client() as client:
        assert put(client, "a").status_code == 201
        answer = client.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=30"})
        assert answer.json()["status"] == "succeeded", answer.text
    root = live.settings.data_dir / "blobs"
    kinds = {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}
    assert kinds == {"garment", "input", "key", "result"}
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (root, *root.rglob("*"))}
    assert modes == {(True, 0o700), (False, 0o600)}
