"""The same blob store on an S3-compatible server, reached by URL and the usual AWS_* variables."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from service.errors import Gone, StoreUnavailable
from service.jobs.blobs import BlobStore
from service.settings import load_settings

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}


def served_type(url: str) -> str:
    with urlopen(Request(url, headers=SIGNED), timeout=10) as answer:
        return str(answer.headers["content-type"])


@pytest.fixture(scope="module")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", "0"], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        patience = time.monotonic() + 60
        while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert server.poll() is None and time.monotonic() < patience, log.read_text()
            time.sleep(0.05)
        with urlopen(Request(f"{found[1]}/pictures", method="PUT", headers=SIGNED), timeout=10) as answer:
            assert answer.status == 200
        yield found[1]
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def blobs(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    for name, value in {
        "AWS_ENDPOINT": s3_address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return BlobStore.open(load_settings(data_dir=tmp_path, blob_url="s3://pictures", input_ttl_s=5))


async def test_blobs_are_written_read_and_erased(blobs: BlobStore) -> None:
    key = await blobs.put(b"picture" * 1000, kind="result", content_type="image/png")
    assert await blobs.get(key) == b"picture" * 1000
    await blobs.delete(key, key)
    with pytest.raises(Gone):
        await blobs.get(key)


async def test_the_content_type_goes_with_the_object(blobs: BlobStore, s3_address: str) -> None:
    key = await blobs.put(b"picture", kind="result", content_type="image/webp")
    assert await asyncio.to_thread(served_type, f"{s3_address}/pictures/{key}") == "image/webp"


async def test_expired_inputs_are_erased_and_others_kept(blobs: BlobStore) -> None:
    stale = await blobs.put(b"person", kind="input", content_type="image/png")
    garment = await blobs.put(b"coat", kind="garment", content_type="image/png")
    assert await blobs.sweep_expired() == 0
    blobs._clock = lambda: time.time() + 10
    assert await blobs.sweep_expired() == 1
    with pytest.raises(Gone):
        await blobs.get(stale)
    assert await blobs.get(garment) == b"coat"


async def test_a_missing_bucket_is_unavailable(blobs: BlobStore, tmp_path: Path) -> None:
    elsewhere = BlobStore.open(load_settings(data_dir=tmp_path, blob_url="s3://nowhere"))
    with pytest.raises(StoreUnavailable):
        await elsewhere.put(b"x", kind="input", content_type="image/png")


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobStore]:
    """A store behind a server that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.setenv(name, "test")
        yield BlobStore.open(load_settings(data_dir=tmp_path, blob_url="s3://pictures"))


async def test_a_store_that_hangs_keeps_no_thread(hanging: BlobStore) -> None:
    """The client's own timeouts end a call; `BlockingCalls` can only leave it behind."""
    before = {thread for thread in threading.enumerate() if thread.name == "blobs"}

    def started() -> int:
        return len([thread for thread in threading.enumerate() if thread.name == "blobs" and thread not in before])

    key = f"input/0/{'0' * 64}-0"
    calls = (hanging.get(key), hanging.put(b"x", kind="input", content_type="image/png"), hanging.delete(key))
    waiting = [asyncio.create_task(call) for call in calls]
    patience = time.monotonic() + 30
    while started() < len(waiting):
        assert time.monotonic() < patience
        await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    while started():
        assert time.monotonic() < patience
        await asyncio.sleep(0.1)
