"""Somebody fills the store with jobs as large as they may be: a bound for each key, and a bound for the store."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from besieged import ANSWER_S, STALL_S, Besieged
from hostile_pictures import encoded, plain

QUOTA = 1 << 20
ROOM = 400_000
MOST_POSTS = 400
PICTURE = encoded(plain(40, 40), "JPEG")
FILES = [("person", ("p.jpg", PICTURE, "image/jpeg")), ("garment", ("g.jpg", PICTURE, "image/jpeg"))]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    lifted = {"stored_bytes_per_key": QUOTA, "concurrency_per_key": 0, "max_backlog_s": 0}
    service = Besieged(tmp_path_factory.mktemp("filled"), **lifted)
    try:
        yield service.start(PICTURE, PICTURE)
    finally:
        service.stop()


@pytest.fixture
def client(service: Besieged) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def largest(number: int) -> dict[str, str]:
    """Words of a job, as many as there may be, which no packer makes smaller."""
    rare = random.Random(number)

    def text(length: int) -> str:
        return "".join(chr(rare.randrange(0x4E00, 0x9FA5)) for _ in range(length))

    metadata = {f"{index}-{text(60)}": text(512) for index in range(16)}
    return {"prompt": text(2000), "metadata": json.dumps(metadata, ensure_ascii=False)}


def fill(client: httpx.Client) -> tuple[list[str], httpx.Response]:
    """Post until it is refused; the ids of what was accepted, and the refusal."""
    posted: list[str] = []
    for number in range(MOST_POSTS):
        started = time.monotonic()
        answer = client.post("/v1/try-ons", files=FILES, data=largest(number))
        if answer.status_code != 202:
            assert time.monotonic() - started < ANSWER_S + STALL_S
            return posted, answer
        posted.append(answer.json()["id"])
    raise AssertionError(f"{MOST_POSTS} of the largest jobs were accepted")


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/try-ons/{job_id}", headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_one_key_fills_no_more_of_the_store_than_it_may(service: Besieged, client: httpx.Client) -> None:
    with redis.Redis.from_url(service.store.url) as store:
        before = int(store.info("memory")["used_memory"])
        posted, refused = fill(client)
        assert (refused.status_code, refused.json()["code"]) == (429, "storage-exceeded"), refused.text
        assert int(refused.headers["retry-after"]) > 0
        assert len(posted) >= 20
        assert int(store.info("memory")["used_memory"]) - before < 2 * QUOTA
    assert {ended(client, job_id)["status"] for job_id in posted} == {"succeeded"}
    assert client.delete(f"/v1/try-ons/{posted.pop()}").status_code == 204
    assert client.post("/v1/try-ons", files=FILES).status_code == 202
    for job_id in posted:
        assert client.delete(f"/v1/try-ons/{job_id}").status_code == 204


def test_a_full_store_refuses_new_jobs_ends_those_it_has_and_recovers_unaided(
    service: Besieged, client: httpx.Client
) -> None:
    with redis.Redis.from_url(service.store.url) as store:
        store.config_set("maxmemory", int(store.info("memory")["used_memory"]) + ROOM)
        try:
            posted, refused = fill(client)
            assert (refused.status_code, refused.json()["code"]) == (503, "store-unavailable"), refused.text
            assert refused.json()["retryable"] and int(refused.headers["retry-after"]) > 0
            assert len(posted) >= 3
            assert client.get("/livez").status_code == 200
            assert {ended(client, job_id)["status"] for job_id in posted} == {"succeeded"}
            for job_id in posted:
                assert client.delete(f"/v1/try-ons/{job_id}").status_code == 204
            patience = time.monotonic() + 10 + STALL_S
            while (answer := client.post("/v1/try-ons", files=FILES)).status_code != 202:
                assert time.monotonic() < patience, answer.text
                time.sleep(0.2)
            assert ended(client, answer.json()["id"])["status"] == "succeeded"
        finally:
            store.config_set("maxmemory", 0)
