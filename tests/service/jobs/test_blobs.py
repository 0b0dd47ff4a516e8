"""Blobs: written, read, erased at once or by time, never another job's; signed addresses."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.errors import Gone, StoreUnavailable
from service.jobs.blobs import BlobStore, blobs_of, content_hash
from service.jobs.schemas import GarmentRef, JobRecord, JobResult, JobSpec
from service.settings import Settings, load_settings

PICTURE = b"\x89PNG" + bytes(range(256)) * 40
PNG = "image/png"


@pytest.fixture(params=["", "memory://"], ids=["folder", "memory"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, blob_url=request.param, input_ttl_s=10, result_ttl_s=7200)


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return BlobStore.open(settings)


def later(blobs: BlobStore, seconds: float) -> None:
    """Move the store's clock on."""
    blobs._clock = lambda: time.time() + seconds


async def test_a_blob_comes_back_as_it_was_named_by_its_content(blobs: BlobStore) -> None:
    key = await blobs.put(PICTURE, kind="input", content_type=PNG)
    assert await blobs.get(key) == PICTURE
    assert content_hash(key) == hashlib.sha256(PICTURE).hexdigest()
    assert key.startswith("input/")


async def test_erasing_one_job_leaves_the_same_picture_of_another(blobs: BlobStore) -> None:
    mine = await blobs.put(PICTURE, kind="input", content_type=PNG)
    yours = await blobs.put(PICTURE, kind="input", content_type=PNG)
    assert content_hash(mine) == content_hash(yours)
    await blobs.delete(mine)
    with pytest.raises(Gone):
        await blobs.get(mine)
    assert await blobs.get(yours) == PICTURE


async def test_erasing_twice_is_no_error(blobs: BlobStore) -> None:
    key = await blobs.put(PICTURE, kind="result", content_type=PNG)
    await blobs.delete(key, key)
    await blobs.delete(key)


async def test_inputs_and_results_run_out_at_their_own_times_and_garments_never(blobs: BlobStore) -> None:
    stale = await blobs.put(PICTURE, kind="input", content_type=PNG)
    result = await blobs.put(PICTURE, kind="result", content_type=PNG)
    garment = await blobs.put(PICTURE, kind="garment", content_type=PNG)
    assert await blobs.sweep_expired() == 0
    later(blobs, 11)
    assert await blobs.sweep_expired() == 1
    with pytest.raises(Gone):
        await blobs.get(stale)
    assert await blobs.get(result) == PICTURE
    later(blobs, 7199 - 60)
    assert await blobs.sweep_expired() == 0
    later(blobs, 7201)
    assert await blobs.sweep_expired() == 1
    later(blobs, 10**8)
    assert await blobs.sweep_expired() == 0
    assert await blobs.get(garment) == PICTURE


async def test_the_sweep_really_deletes_from_disk(tmp_path: Path) -> None:
    blobs = BlobStore.open(load_settings(data_dir=tmp_path, input_ttl_s=1))
    for number in range(30):
        await blobs.put(PICTURE + bytes([number]), kind="input", content_type=PNG)
    folder = tmp_path / "blobs"
    assert sum(path.is_file() for path in folder.rglob("*")) == 30
    later(blobs, 4000)
    assert await blobs.sweep_expired() == 30
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "key", ["", "input", "input/", "../secret", "input/../../etc/passwd", "other/2026010100/x", "/etc/passwd"]
)
async def test_keys_that_are_not_ours_show_nothing(blobs: BlobStore, key: str) -> None:
    with pytest.raises(Gone):
        await blobs.get(key)


async def test_many_at_once(blobs: BlobStore) -> None:
    keys = await asyncio.gather(*(blobs.put(PICTURE, kind="input", content_type=PNG) for _ in range(50)))
    assert len(set(keys)) == 50
    assert set(await asyncio.gather(*(blobs.get(key) for key in keys))) == {PICTURE}


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file in the way")
    with pytest.raises(StoreUnavailable):
        BlobStore.open(load_settings(data_dir=tmp_path))


def test_an_unknown_address_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="ftp"):
        BlobStore.open(load_settings(data_dir=tmp_path, blob_url="ftp://host/path"))


def test_signatures_hold_for_one_job_and_one_time(settings: Settings) -> None:
    blobs = BlobStore.open(settings)
    token = blobs.sign("job", time.time() + 60)
    assert blobs.verify("job", token)
    assert BlobStore.open(settings).verify("job", token), "every process must accept it"
    assert not blobs.verify("other", token)
    expires, _, mac = token.partition(".")
    assert not blobs.verify("job", f"{int(expires) + 1000}.{mac}")
    assert not blobs.verify("job", f"{expires}.{mac[:-1]}")
    later(blobs, 61)
    assert not blobs.verify("job", token)


@pytest.mark.parametrize("token", ["", ".", "1", "x.y", "-1.a", "9" * 40 + ".a", "\u0661.a", "1.é", "4102444800."])
def test_nonsense_is_no_signature(settings: Settings, token: str) -> None:
    assert not BlobStore.open(settings).verify("job", token)


def test_other_secrets_make_other_signatures(tmp_path: Path) -> None:
    one = BlobStore.open(load_settings(data_dir=tmp_path, url_secret="one", blob_url="memory://"))
    two = BlobStore.open(load_settings(data_dir=tmp_path, url_secret="two", blob_url="memory://"))
    assert not two.verify("job", one.sign("job", time.time() + 60))


def test_a_job_owns_its_uploads_and_result_but_no_catalogue_garment() -> None:
    spec = JobSpec(
        id="j",
        person="input/p",
        garments=(GarmentRef(blob="input/g"), GarmentRef(blob="garment/c", sku="coat-1")),
        instruction="",
        instruction_by="grammar",
        seed=0,
        created_at=0,
        deadline_at=1,
        tokens=1,
    )
    result = JobResult(blob="result/r", content_type=PNG, width=1, height=1, model="nano", nfe=4)
    assert blobs_of(JobRecord(spec=spec, status="queued")) == ["input/p", "input/g"]
    assert blobs_of(JobRecord(spec=spec, status="succeeded", result=result))[-1] == "result/r"


def test_a_process_that_used_blobs_exits_cleanly(tmp_path: Path) -> None:
    """obstore's own awaitables abort some processes at exit; ours must not, in any of ten."""
    program = (
        "import asyncio, sys\n"
        "from service.jobs.blobs import BlobStore\n"
        "from service.settings import load_settings\n"
        "async def main():\n"
        "    blobs = BlobStore.open(load_settings(data_dir=sys.argv[1]))\n"
        "    keys = [await blobs.put(b'x', kind='input', content_type='image/png') for _ in range(20)]\n"
        "    await asyncio.gather(*(blobs.get(key) for key in keys))\n"
        "    await blobs.delete(*keys)\n"
        "asyncio.run(main())\n"
    )
    for _ in range(10):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
