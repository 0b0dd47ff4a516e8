"""Sealed words: nothing readable without the key, everything as it was with it, nothing once the key is gone."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from queue_hand import make_spec

from service.errors import Damaged, Gone
from service.jobs import words
from service.jobs.blobs import BlobStore
from service.jobs.schemas import GarmentRef, JobSpec, Reserved
from service.jobs.words import JobKey, Words, sealed, unsealed
from service.settings import load_settings


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.open(load_settings(data_dir=tmp_path))


def job(job_id: str = "job", **changes: object) -> JobSpec:
    said = {
        "prompt": "keep Grandma Wilhelmina's brooch",
        "instruction": "Dress Wilhelmina in the coat, open.",
        "metadata": {"customer": "wilhelmina@example.com", "ort": "Zürich 東京"},
        "webhook_url": "https://example.com/hook?of=wilhelmina",
        "webhook_output": "https://try.example.com/v1/try-ons/job/image?token=signed",
        "request_id": "wilhelmina-1",
        "garments": (
            GarmentRef(blob="input/a", category="coats", layer="outer"),
            GarmentRef(blob="garment/b", sku="B"),
        ),
    }
    return make_spec(Reserved(id=job_id, tenant="shop"), **{**said, **changes})


async def test_words_come_back_as_they_were_and_cannot_be_read_before(blobs: BlobStore) -> None:
    spec = job()
    key = await Words(blobs).new_key()
    kept = sealed(spec, key)
    text = kept.model_dump_json(exclude_defaults=True)
    assert "ilhelmina" not in text and "outer" not in text and "example.com" not in text
    assert kept.sealed is not None
    assert b"ilhelmina" not in base64.b64decode(kept.sealed.text)
    assert (kept.sealed.personal, kept.sealed.webhook) == (True, True)
    read = JobSpec.model_validate_json(text)
    opened = await Words(blobs).open(read)
    assert opened.model_copy(update={"sealed": None}) == spec
    assert await Words(blobs).open(opened) == opened


async def test_a_job_without_a_customer_s_words_says_so(blobs: BlobStore) -> None:
    plain = job(prompt="", webhook_url=None, garments=(GarmentRef(blob="input/a"),))
    kept = sealed(plain, await Words(blobs).new_key())
    assert kept.sealed is not None and (kept.sealed.personal, kept.sealed.webhook) == (False, False)


async def test_nothing_opens_once_the_key_is_erased(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Words(blobs)
    key = await mine.new_key()
    kept = sealed(job(), key)
    assert (await mine.open(kept)).prompt == job().prompt
    await blobs.delete(key.blob)
    with pytest.raises(Gone):
        await Words(blobs).open(kept)
    monkeypatch.setattr(words, "KEYS_KEPT_S", 0.0)
    again = Words(blobs)
    other = await again.new_key()
    await blobs.delete(other.blob)
    with pytest.raises(Gone):
        await again.open(sealed(job(), other))


async def test_only_the_job_s_own_key_opens_only_its_own_words() -> None:
    key = JobKey("key/1/a-b", bytes(32))
    kept = sealed(job(), key)
    with pytest.raises(Damaged):
        unsealed(kept, b"x" * 32)
    with pytest.raises(Damaged):
        unsealed(kept.model_copy(update={"id": "another"}), key.secret)


async def test_few_keys_are_remembered(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "KEYS_KEPT", 3)
    mine = Words(blobs)
    keys = [await mine.new_key() for _ in range(5)]
    assert set(mine._keys) == {key.blob for key in keys[2:]}


def test_the_text_of_a_long_prompt_is_smaller_than_the_prompt() -> None:
    """An instruction repeats its prompt; both together take less than the prompt did."""
    prompt = " ".join(f"wish {number} is that the sleeve falls to the wrist" for number in range(40))
    kept = sealed(job(prompt=prompt, instruction=f"Dress the person. {prompt}"), JobKey("key/1/a-b", bytes(32)))
    assert len(kept.model_dump_json(exclude_defaults=True)) < len(prompt)
