"""The native surface from end to end: submit, wait, read, follow, replay."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gateway_live import INFO, Live, data_url, parts, picture
from PIL import Image

from service.jobs.words import Words

PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")


def test_a_post_is_a_202_with_location_and_becomes_a_picture(http: httpx.Client) -> None:
    answer = http.post("/v1/try-ons", files=parts())
    assert answer.status_code == 202, answer.text
    location = answer.headers["location"]
    assert answer.headers["retry-after"] == "1"
    assert location == answer.json()["links"]["self"]
    done = http.get(location, headers={"Prefer": "wait=10"})
    assert done.headers["preference-applied"] == "wait=10"
    body = done.json()
    assert body["status"] == "succeeded"
    assert body["timings"]["denoise"] == 0.1 and body["timings"]["total"] > 0
    assert "job-denoise;dur=100.0" in done.headers["server-timing"]
    image = http.get(body["result"]["url"])
    assert image.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(image.content)).size == (192, 256)
    again = http.get(body["links"]["image"], headers={"If-None-Match": image.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


def test_prefer_wait_answers_200_with_everything_asked_for(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/try-ons",
        files=parts(2),
        data={
            "categories": "tops,coats",
            "layers": ",open",
            "prompt": "keep it casual 🙂",
            "size": "128x192",
            "seed": "41",
            "output_format": "png",
            "metadata": json.dumps({"order": "7"}),
        },
        headers={"Prefer": "respond-async, wait=20"},
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["seed"] == 41 and body["size"] == "128x192" and body["metadata"] == {"order": "7"}
    assert [(g["category"], g["layer"]) for g in body["garments"]] == [("tops", None), ("coats", "open")]
    assert body["instruction"]["by"] == "grammar" and "image 3" in body["instruction"]["text"]
    assert (body["result"]["width"], body["result"]["height"]) == (128, 192)
    assert body["result"]["content_type"] == "image/png"


def test_the_request_field_and_json_say_the_same(http: httpx.Client) -> None:
    wish = {"garments": [{"file": "second", "category": "hats"}, {"category": "tops"}], "seed": 5}
    files = [
        ("person", ("p.jpg", PERSON, "image/jpeg")),
        ("garment", ("a.jpg", SHIRT, "image/jpeg")),
        ("second", ("b.jpg", SHIRT, "image/jpeg")),
    ]
    form = http.post("/v1/try-ons", files=files, data={"request": json.dumps(wish)})
    assert form.status_code == 202, form.text
    body = {
        "person": data_url(PERSON),
        "garments": [
            {"image": data_url(SHIRT), "category": "hats"},
            {"image": data_url(SHIRT), "category": "tops"},
        ],
        "seed": 5,
    }
    plain = http.post("/v1/try-ons", json=body)
    assert plain.status_code == 202, plain.text
    for name in ("garments", "seed", "instruction"):
        assert form.json()[name] == plain.json()[name]


def test_six_garments_keep_their_order(http: httpx.Client) -> None:
    names = ["tops", "pants", "coats", "shoes", "bags", "hats"]
    answer = http.post("/v1/try-ons", files=parts(6), data={"categories": names})
    assert answer.status_code == 202, answer.text
    assert [g["category"] for g in answer.json()["garments"]] == names
    for image in range(2, 8):
        assert answer.json()["instruction"]["text"].count(f"image {image}") == 1


def test_the_same_key_and_body_is_one_job_under_fifty_posts(live: Live) -> None:
    headers = {"Idempotency-Key": "fifty"}

    with live.client() as client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/try-ons", files=parts(), headers=headers), range(50)))
    assert {a.status_code for a in answers} <= {200, 202}, [a.text for a in answers if a.status_code > 202][:1]
    assert len({a.json()["id"] for a in answers}) == 1
    assert sum(a.headers.get("idempotent-replayed") != "true" for a in answers) == 1


def test_the_same_key_with_another_body_is_refused(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "other-body"}
    assert http.post("/v1/try-ons", files=parts(1), headers=headers).status_code == 202
    answer = http.post("/v1/try-ons", files=parts(2), headers=headers)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:changeroom:problem:idempotency-mismatch"


def test_a_client_that_leaves_while_waiting_does_not_lose_its_job(held: Live) -> None:
    request = httpx.Request(
        "POST",
        held.url + "/v1/try-ons",
        files=parts(),
        headers={"Prefer": "wait=30", "Idempotency-Key": "left", "Connection": "close"},
    )
    head = f"POST /v1/try-ons HTTP/1.1\r\nHost: {request.url.host}\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in request.headers.items() if k != "host")
    with socket.create_connection(("127.0.0.1", held.port())) as raw:
        raw.sendall(head.encode() + b"\r\n" + request.read())
        deadline = time.monotonic() + 5
        while held.call(held.queue.upkeep.backlog()).waiting == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert held.call(held.queue.upkeep.backlog()).waiting == 1
    held.resume()
    with held.client() as client:
        answer = client.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10", "Idempotency-Key": "left"})
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.json()["status"] == "succeeded" and answer.json()["attempts"] == 1


def test_catalogue_garments_are_worn_by_sku(live: Live, http: httpx.Client) -> None:
    put = http.put(
        "/v1/garments/COAT-7",
        params={"category": "coats", "layer": "open"},
        content=SHIRT,
        headers={"Content-Type": "image/jpeg"},
    )
    assert put.status_code == 201 and put.headers["location"] == "/v1/garments/COAT-7"
    assert put.json()["category"] == "coats"
    again = http.put("/v1/garments/COAT-7", files={"image": ("c.jpg", SHIRT)}, data={"category": "coats"})
    assert again.status_code == 200
    assert http.get("/v1/garments/COAT-7").json() == again.json()
    answer = http.post(
        "/v1/try-ons",
        files=[("person", ("p.jpg", PERSON, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))],
        data={"skus": "COAT-7"},
        headers={"Prefer": "wait=10"},
    )
    body = answer.json()
    assert body["status"] == "succeeded", body
    assert [(g["category"], g["sku"]) for g in body["garments"]] == [("auto", None), ("coats", "COAT-7")]
    http.delete(body["links"]["self"])
    assert http.get("/v1/garments/COAT-7").status_code == 200
    assert http.delete("/v1/garments/COAT-7").status_code == 204
    assert http.get("/v1/garments/COAT-7").status_code == 404


def test_every_answer_carries_its_request_id_and_trace(live: Live, http: httpx.Client) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = http.post("/v1/try-ons", files=parts(), headers={"X-Request-Id": "mine-1", "traceparent": trace})
    assert answer.headers["x-request-id"] == "mine-1"
    assert "read;dur=" in answer.headers["server-timing"]
    record = live.call(live.queue.owner.get(answer.json()["id"]))
    record = live.call(Words(live.blobs).open_record(record))
    assert record.spec.request_id == "mine-1" and record.spec.traceparent == trace
    odd = http.get("/v1/try-ons/none", headers={"X-Request-Id": "a b\tc"})
    assert odd.headers["x-request-id"].startswith("req_")
    assert odd.json()["request_id"] == odd.headers["x-request-id"]


def test_head_is_get_without_the_body(http: httpx.Client) -> None:
    made = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=10"}).json()
    for path in ("/", "/livez", "/readyz", "/openapi.json", "/v1/models", made["links"]["image"]):
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        for name in ("content-type", "content-length"):
            assert head.headers[name] == whole.headers[name], path
    assert http.head("/v1/try-ons/none").status_code == 404
    assert http.head("/v1/try-ons").headers["allow"] == "POST"
    assert http.head(made["links"]["events"]).status_code == 405


def test_readiness_follows_workers_and_liveness_does_not(
    live: Live, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert http.get("/livez").json()["status"] == "ok"
    assert http.get("/readyz").status_code == 200
    models = http.get("/v1/models").json()
    assert models["data"][0]["id"] == "plain" and models["data"][0]["workers"] == 1
    assert models["data"][0]["token_budget"] == INFO.token_budget
    live.hold()
    try:
        live.call(live.queue.workers.withdraw("test-worker"))
        answer = http.get("/readyz")
        assert answer.status_code == 503 and answer.json()["code"] == "engine-unavailable"
        assert http.get("/livez").status_code == 200
        assert not [line for line in caplog.records if line.name == "changeroom.gateway"], "probes fill no log"
    finally:
        live.resume()


def read_events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Server-sent events of a streaming response."""
    event: dict[str, Any] = {}
    for line in answer.iter_lines():
        if not line and "data" in event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, rest = line.partition(": ")
            event[name] = json.loads(rest) if name == "data" else rest


def test_events_replay_follow_and_resume(held: Live) -> None:
    with held.client() as client:
        made = client.post("/v1/try-ons", files=parts()).json()
        seen: list[dict[str, Any]] = []
        with client.stream("GET", made["links"]["events"]) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for event in read_events(answer):
                seen.append(event)
                if len(seen) == 1:
                    held.resume()
        kinds = [event["event"] for event in seen]
        assert kinds[0] == "queued" and seen[0]["data"]["position"] == 0
        assert kinds[-1] == "succeeded" and "progress" in kinds
        progress = next(event for event in seen if event["event"] == "progress")
        assert progress["data"]["preview"] and progress["data"]["steps"] == 2
        assert seen[-1]["data"]["try_on"]["result"]["url"]
        with client.stream("GET", made["links"]["events"], headers={"Last-Event-ID": progress["id"]}) as answer:
            rest = list(read_events(answer))
        assert [e["id"] for e in rest] == [e["id"] for e in seen[seen.index(progress) + 1 :]]


def test_the_page_is_asked_for_anew_and_its_pictures_are_kept(http: httpx.Client) -> None:
    for path, kept in (
        ("/", "no-cache"),
        ("/studio/app.js", "no-cache"),
        ("/studio/samples/hats-1.png", "public, max-age=86400"),
    ):
        first = http.get(path)
        assert first.status_code == 200 and first.headers["cache-control"] == kept
        again = http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == kept and again.headers["etag"] == first.headers["etag"]
    assert http.get("/studio/nothing.js").json()["code"] == "not-found"


def test_a_result_says_why_the_configured_model_did_not_write_its_instruction(launch: Callable[..., Live]) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with launch(rewriter_url=address, rewriter_model="writer").client() as client:
            answer = client.post("/v1/try-ons", files=parts(1), data={"prompt": "very loosely"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["instruction"]["by"] == "grammar"
    assert answer.json()["instruction"]["fallback"] == "unreachable"
