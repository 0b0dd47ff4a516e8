"""Webhooks: signatures a receiver can verify, retries, and no way into a private network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from step_engine import StepEngine, ended, working

from service.egress import ForbiddenTarget, VettedBackend, check_url, is_public
from service.errors import InvalidRequest
from service.jobs import store_keys
from service.jobs.blobs import BlobStore
from service.jobs.queue import JobQueue
from service.jobs.schemas import INLINE, GarmentRef, JobError, JobRecord, JobResult, JobSpec
from service.jobs.words import Words
from service.settings import Settings
from service.worker import webhooks
from service.worker.webhooks import Message, WebhookDelivery, WebhookSender, message, signature, signing_key

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """An HTTP server that answers with the given statuses in turn and keeps what it was sent."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = [line.partition(": ") for line in head[1:] if line]
        headers = {name.lower(): value for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.received.append((headers, body))
        answer = self.answers[min(len(self.received), len(self.answers)) - 1]
        writer.write(b"HTTP/1.1 " + answer + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*answers: bytes) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(answers))
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


async def send(url: str, *, allow_private: bool = True) -> str:
    sender = WebhookSender(SECRET, allow_private=allow_private)
    try:
        return await sender.send(Message("msg_1", url, b'{"a":1}'))
    finally:
        await sender.close()


async def test_a_delivery_is_signed_as_standard_webhooks_says():
    async with receiving(b"204 No Content") as receiver:
        assert await send(f"http://127.0.0.1:{receiver.port}/hook?x=1") == "accepted"
    ((headers, body),) = receiver.received
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_the_published_example():
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("answer", "became"),
    [(b"200 OK", "accepted"), (b"500 Oops", "failed"), (b"404 What", "failed"), (b"410 Gone", "refused")],
)
async def test_what_an_answer_means(answer: bytes, became: str):
    async with receiving(answer) as receiver:
        assert await send(f"http://127.0.0.1:{receiver.port}/") == became


async def test_a_receiver_that_is_not_there_is_a_failure():
    async with receiving(b"200 OK") as receiver:
        pass
    assert await send(f"http://127.0.0.1:{receiver.port}/") == "failed"


@asynccontextmanager
async def delivering(queue: JobQueue, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Deliveries of what is due in the store, four quick tries each."""
    monkeypatch.setattr(webhooks, "POLL_S", 0.02)
    sender = WebhookSender(SECRET, allow_private=True)
    delivery = WebhookDelivery(queue, sender, blobs, Words(blobs), delays=(0.01, 0.01, 0.01))
    running = asyncio.create_task(delivery.run_forever())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await sender.close()


async def nothing_due(queue: JobQueue) -> None:
    async with asyncio.timeout(60):
        while await queue.store.client.zcard(store_keys.WEBHOOKS):  # noqa: ASYNC110 (the list lives in the store)
            await asyncio.sleep(0.02)


async def test_failures_are_retried_with_the_same_id_until_accepted(settings, queue, blobs, submit, monkeypatch):
    async with receiving(b"500 Oops", b"429 Slow down", b"200 OK") as receiver:
        job_id = await submit(webhook_url=f"http://127.0.0.1:{receiver.port}/")
        async with working(settings, StepEngine()):
            await ended(queue, job_id)
        async with delivering(queue, blobs, monkeypatch):
            await nothing_due(queue)
    assert [headers["webhook-id"] for headers, _ in receiver.received] == [f"msg_{job_id}"] * 3
    assert {json.loads(body)["type"] for _, body in receiver.received} == {"try_on.succeeded"}


async def test_a_delivery_is_given_up_after_the_last_try(queue, blobs, submit, monkeypatch):
    async with receiving(b"500 Oops") as receiver:
        job_id = await submit(webhook_url=f"http://127.0.0.1:{receiver.port}/")
        await queue.owner.cancel(job_id)
        async with delivering(queue, blobs, monkeypatch):
            await nothing_due(queue)
    assert len(receiver.received) == 4
    assert json.loads(receiver.received[0][1])["type"] == "try_on.canceled"


async def test_an_erased_job_tells_nobody(queue, blobs, submit, monkeypatch):
    async with receiving(b"200 OK") as receiver:
        await queue.owner.erase(await submit(webhook_url=f"http://127.0.0.1:{receiver.port}/"))
        async with delivering(queue, blobs, monkeypatch):
            await nothing_due(queue)
    assert receiver.received == []


async def test_a_job_whose_words_were_erased_tells_nobody(queue, blobs, submit, monkeypatch):
    async with receiving(b"200 OK") as receiver:
        job_id = await submit(webhook_url=f"http://127.0.0.1:{receiver.port}/")
        await queue.owner.cancel(job_id)
        await blobs.delete((await queue.owner.get(job_id)).spec.sealed.key)
        async with delivering(queue, blobs, monkeypatch):
            await nothing_due(queue)
    assert receiver.received == []


async def test_a_job_without_a_webhook_leaves_nothing_due(queue, submit):
    await queue.owner.cancel(await submit())
    assert await queue.store.client.zcard(store_keys.WEBHOOKS) == 0


async def test_a_worker_that_dies_while_delivering_leaves_it_to_the_next(queue, submit):
    job_id = await submit(webhook_url="https://example.com/")
    await queue.owner.cancel(job_id)
    assert await queue.webhooks.due(limit=5, hold_s=60) == [(job_id, 1)]
    assert await queue.webhooks.due(limit=5, hold_s=60) == []
    await queue.store.client.zadd(store_keys.WEBHOOKS, {job_id: 1})  # as if the time it was held had gone by
    assert await queue.webhooks.due(limit=5, hold_s=60) == [(job_id, 2)]


async def test_a_redirect_is_not_followed():
    async with receiving(b"200 OK") as inside:
        redirect = f"302 Found\r\nlocation: http://127.0.0.1:{inside.port}/".encode()
        async with receiving(redirect) as receiver:
            assert await send(f"http://127.0.0.1:{receiver.port}/") == "failed"
    assert inside.received == []


async def test_a_private_receiver_is_never_connected_to():
    async with receiving(b"200 OK") as receiver:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"):
            assert await send(f"https://{host}:{receiver.port}/", allow_private=False) == "refused"
    assert receiver.received == []


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch):
    """A name server that answers publicly first and privately later (rebinding) is asked exactly once."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    async def rebinding(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    backend = VettedBackend()
    connected: list[str] = []

    async def connect_tcp(host: str, *_: object) -> None:
        connected.append(host)

    monkeypatch.setattr(backend._inner, "connect_tcp", connect_tcp)
    await backend.connect_tcp("rebind.example", 443)
    assert connected == ["93.184.216.34"]
    with pytest.raises(ForbiddenTarget):
        await backend.connect_tcp("rebind.example", 443)
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fec0::1", "ff02::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::a00:1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        # every range of the IANA registries of special-purpose addresses, first and last
        "0.255.255.255", "10.255.255.255", "100.127.255.255", "127.255.255.255", "172.31.255.255", "192.0.0.0",
        "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.171", "192.0.0.255", "192.0.2.255",
        "192.31.196.1", "192.52.193.1", "192.88.99.2", "192.168.255.255", "192.175.48.1", "198.18.0.0",
        "198.19.255.255", "198.51.100.0", "203.0.113.255", "239.255.255.255", "240.0.0.0",
        "::ffff:192.0.0.8", "64:ff9b::c000:8", "::8.8.8.8", "::ffff:0:808:808", "100::1", "100:0:0:1::1", "2001:1::1",
        "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff:ffff::1",
        "2001:db8::1", "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "5f00::1", "fdff::1", "febf::1",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "1.0.0.0",
        "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255",
        "192.0.1.0", "192.0.3.0", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:200::1",
        "2001:db7:ffff::1", "2001:db9::1", "2003::1", "3ffe:ffff::1", "3fff:1000::1",
    ],
)  # fmt: skip
def test_public_addresses_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "https://", "https://user:word@example.com/", "file:///etc/passwd",
        "https://example.com:22/", "https://example.com:99999/", "https://exa mple.com/", "https://exämple.com/",
        "https://example.com/\r\nx: y", "//example.com", "",
    ],
)  # fmt: skip
def test_bad_urls_are_refused_before_any_lookup(url: str):
    with pytest.raises(ForbiddenTarget):
        check_url(url)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "not base64!"])
def test_a_weak_secret_is_refused(secret: str):
    with pytest.raises(InvalidRequest):
        WebhookSender(secret)


def test_the_message_says_how_the_job_ended_and_nothing_personal():
    spec = JobSpec(
        id="j1", person="input/x", garments=(GarmentRef(blob="input/y"),), prompt="my secret wish",
        instruction="wear", instruction_by="grammar", seed=1, created_at=0, deadline_at=1, tokens=1,
        webhook_url="https://example.com/", metadata={"order": "7"},
    )  # fmt: skip
    result = JobResult(blob="result/z", content_type="image/png", width=3, height=4, model="nano", nfe=4)
    told = message(JobRecord(spec=spec, status="succeeded", result=result, finished_at=1.0))
    assert told is not None
    body = json.loads(told.body)
    assert (body["type"], body["timestamp"]) == ("try_on.succeeded", "1970-01-01T00:00:01+00:00")
    assert body["data"]["metadata"] == {"order": "7"}
    assert body["data"]["links"]["image"] == "/v1/try-ons/j1/image"
    assert b"secret wish" not in told.body and b"result/z" not in told.body
    error = JobError(code="engine-failed", message="x")
    failed = message(JobRecord(spec=spec, status="failed", error=error))
    assert failed is not None and json.loads(failed.body)["data"]["error"]["code"] == "engine-failed"
    assert message(JobRecord(spec=spec, status="processing")) is None
    silent = spec.model_copy(update={"webhook_url": None})
    assert message(JobRecord(spec=silent, status="failed", error=error)) is None


async def told_in_fashns_shape(
    settings: Settings, queue: JobQueue, blobs: BlobStore, submit: Any, monkeypatch: pytest.MonkeyPatch, **said: Any
) -> tuple[str, dict[str, Any]]:
    """The id and the body of one delivery of a job that ended."""
    async with receiving(b"200 OK") as receiver:
        job_id = await submit(webhook_url=f"http://127.0.0.1:{receiver.port}/", output_format="png", **said)
        async with working(settings, StepEngine()):
            await ended(queue, job_id)
        async with delivering(queue, blobs, monkeypatch):
            await nothing_due(queue)
    ((headers, body),) = receiver.received
    stamp = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == signature(KEY, headers["webhook-id"], stamp, body)
    told: dict[str, Any] = json.loads(body)
    return job_id, told


async def test_a_receiver_of_fashns_shape_is_told_its_four_fields(settings, queue, blobs, submit, monkeypatch):
    address = "https://try.example.com/v1/try-ons/x/image?token=1.a"
    job_id, told = await told_in_fashns_shape(settings, queue, blobs, submit, monkeypatch, webhook_output=address)
    assert told == {"id": job_id, "status": "completed", "output": [address], "error": None}


async def test_a_receiver_that_asked_for_base64_is_sent_the_picture(settings, queue, blobs, submit, monkeypatch):
    job_id, told = await told_in_fashns_shape(settings, queue, blobs, submit, monkeypatch, webhook_output=INLINE)
    head, _, encoded = told["output"][0].partition(",")
    assert (told["id"], told["status"], head) == (job_id, "completed", "data:image/png;base64")
    record = await queue.owner.get(job_id)
    assert base64.b64decode(encoded) == await blobs.get(record.result.blob)


@pytest.mark.parametrize(
    ("status", "code", "word", "name"),
    [
        ("failed", "engine-failed", "failed", "PipelineError"),
        ("failed", "input-damaged", "failed", "ImageLoadError"),
        ("failed", "unprocessable-request", "failed", "InputValidationError"),
        ("failed", "store-unavailable", "failed", "InternalServerError"),
        ("expired", "deadline-exceeded", "time_out", "PipelineError"),
        ("canceled", "canceled", "canceled", "PipelineError"),
    ],
)
def test_failures_have_the_names_that_fashns_clients_know(status: Any, code: str, word: str, name: str):
    spec = JobSpec(
        id="j1", person="input/x", garments=(GarmentRef(blob="input/y"),), instruction="wear",
        instruction_by="grammar", seed=1, created_at=0, deadline_at=1, tokens=1,
        webhook_url="https://example.com/", webhook_output=INLINE,
    )  # fmt: skip
    told = message(JobRecord(spec=spec, status=status, error=JobError(code=code, message="Because.")))
    assert told is not None
    assert json.loads(told.body) == {
        "id": "j1",
        "status": word,
        "output": None,
        "error": {"name": name, "message": "Because."},
    }


def test_a_job_without_fashns_receiver_can_be_read_by_workers_of_the_last_version():
    spec = JobSpec(
        id="j1", person="input/x", garments=(GarmentRef(blob="input/y"),), instruction="wear",
        instruction_by="grammar", seed=1, created_at=0, deadline_at=1, tokens=1,
    )  # fmt: skip
    assert "webhook_output" not in spec.model_dump()
