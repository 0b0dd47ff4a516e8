"""The caches: bounded in bytes, keyed by content, and never visible in the picture."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import TEXT_LAYERS, tiny_pipeline

from engine_build.config import CheckpointConfig
from engine_build.engine import ImageInput, Outcome, TryOnRequest
from engine_build.instruction import GarmentPhrase, compose
from engine_build.runtime.caches import ByteCache
from engine_build.runtime.running_request import RequestMeter
from engine_build.runtime.torch_engine import EngineOptions, TorchEngine, load

NO_CACHES = EngineOptions(text_cache_bytes=0, latent_cache_bytes=0, reference_cache_bytes=0, previews=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An isolated checkpoint in which references matter."""
    folder = tmp_path_factory.mktemp("isolated")
    pipeline = tiny_pipeline(5)
    with torch.no_grad():
        for name, weight in pipeline.transformer.named_parameters():
            if "stream_modulation" in name:
                weight.mul_(8)
            elif "norm_q" in name or "norm_k" in name:
                weight.mul_(1.5)
    pipeline.save_pretrained(folder)
    CheckpointConfig(
        "isolated",
        max_references=7,
        default_size=(72, 96),
        default_steps=2,
        max_text_tokens=200,
        pad_text=False,
        text_layers=TEXT_LAYERS,
        garment_canvas=(40, 40),
    ).save(folder)
    return folder


def photo(seed: int, width: int = 72, height: int = 96) -> ImageInput:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return ImageInput(Image.fromarray(pixels).resize((width, height)), f"photo-{seed}", "tops")


def request(*garments: ImageInput, person: int = 0, seed: int = 1) -> TryOnRequest:
    told = compose([GarmentPhrase("tops")] * len(garments))
    return TryOnRequest("r", photo(person), garments, told, seed=seed)


def one(engine: TorchEngine, request: TryOnRequest) -> Outcome:
    (outcome,) = engine.run([request])
    assert outcome.error is None
    return outcome


def apart(a: Outcome, b: Outcome) -> int:
    return int(np.abs(np.asarray(a.image, dtype=int) - np.asarray(b.image, dtype=int)).max())


def test_the_least_recently_used_goes_first() -> None:
    cache = ByteCache[str](10, len)
    for key in "abc":
        cache.put(key, key * 3)
    assert cache.get("a") == "aaa"
    assert cache.put("d", "dddd") == 1
    assert cache.get("b") is None
    assert (cache.get("a"), cache.get("c"), cache.get("d")) == ("aaa", "ccc", "dddd")
    assert (cache.hits, cache.misses, cache.evictions, cache.bytes) == (4, 1, 1, 10)


def test_what_is_larger_than_the_bound_is_not_kept_and_pushes_nothing_out() -> None:
    cache = ByteCache[str](4, len)
    cache.put("a", "aaa")
    assert cache.put("b", "bbbbb") == 0
    assert cache.get("b") is None
    assert cache.get("a") == "aaa"


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        ByteCache[str](-1, len)


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.booleans())))
def test_the_bound_holds_and_the_last_value_is_the_one_found(bound: int, moves) -> None:
    cache = ByteCache[bytes](bound, len)
    last: dict[int, bytes] = {}
    for key, size, reads in moves:
        if reads:
            found = cache.get(key)
            assert found is None or found == last[key]
        else:
            last[key] = bytes(size)
            cache.put(key, last[key])
            assert (cache.get(key) is None) == (size > bound)
        assert cache.bytes <= bound
        assert cache.bytes == sum(size for _, size, _ in cache._entries.values())


def test_a_ledger_counts_misses_hits_and_evictions() -> None:
    meter, cache = RequestMeter(), ByteCache[str](3, len)
    asked: list[list[int]] = []

    def fetch(keys: str) -> list[str]:
        return meter.fetch("text", cache, keys, lambda at: asked.append(at) or [keys[i] * 2 for i in at])

    assert [fetch("a"), fetch("aa"), fetch("b"), fetch("a")] == [["aa"], ["aa", "aa"], ["bb"], ["aa"]]
    assert meter.events == {("text", "miss"): 3, ("text", "hit"): 2, ("text", "eviction"): 2}
    assert asked == [[0], [0], [0]]


def test_what_is_missing_is_made_once_and_together() -> None:
    meter, cache = RequestMeter(), ByteCache[str](99, len)
    cache.put("b", "kept")
    asked: list[list[int]] = []
    made = meter.fetch("text", cache, "abcac", lambda at: asked.append(at) or ["abcac"[i] for i in at])
    assert made == ["a", "kept", "c", "a", "c"]
    assert asked == [[0, 2]]
    assert meter.events == {("text", "miss"): 2, ("text", "hit"): 3}


def test_same_picture_with_and_without_caches(folder: Path) -> None:
    cached, plain = load(folder, options=EngineOptions(previews=False)), load(folder, options=NO_CACHES)
    a, b, c = photo(1), photo(2, 90, 50), photo(3)
    for asked in (request(a), request(a, b), request(b, a), request(c, b, a), request(a, b, person=9)):
        with_cache, without = one(cached, asked), one(plain, asked)
        assert apart(with_cache, without) <= 1
        assert not [event for event in without.cache if event[1] == "hit"]
    assert cached.pipeline.caches.reference_kv.hits == 0 + 2 + 3 + 3 + 2
    assert plain.pipeline.caches.reference_kv.bytes == 0


def test_a_garment_is_known_again_in_any_slot_and_beside_any_person(folder: Path) -> None:
    engine = load(folder, options=EngineOptions(previews=False))
    a, b, c = photo(1), photo(2), photo(3)
    first = one(engine, request(a, b))
    assert first.cache == {("text", "miss"): 1, ("latents", "miss"): 3, ("reference_kv", "miss"): 3}
    moved = one(engine, request(c, b, a, person=7))
    assert moved.cache == {
        ("text", "miss"): 1,
        ("latents", "miss"): 2,
        ("reference_kv", "miss"): 2,
        ("reference_kv", "hit"): 2,
    }
    assert apart(moved, one(load(folder, options=NO_CACHES), request(c, b, a, person=7))) <= 1
    again = one(engine, request(a, b))
    assert again.cache == {("text", "hit"): 1, ("reference_kv", "hit"): 3}
    assert "vae_encode" not in again.stages
    assert apart(first, again) == 0


def test_slots_are_not_ignored(folder: Path) -> None:
    """Guards the tests above: the order of garments changes the picture by more than they allow."""
    engine = load(folder, options=EngineOptions(previews=False))
    a, b = photo(1), photo(2)
    assert apart(one(engine, request(a, b)), one(engine, request(b, a))) > 2


def test_other_content_and_other_sizes_are_not_mistaken(folder: Path) -> None:
    engine = load(folder, options=EngineOptions(previews=False))
    one(engine, request(photo(1)))
    other = one(engine, request(photo(2)))
    assert other.cache["reference_kv", "miss"] == 1
    larger = TryOnRequest("r", photo(0), (photo(1),), compose([GarmentPhrase("tops")]), size=(96, 128))
    assert one(engine, larger).cache["reference_kv", "miss"] == 1


def test_a_garment_and_a_person_of_the_same_bytes_are_told_apart(folder: Path) -> None:
    engine = load(folder, options=EngineOptions(previews=False))
    tall = ImageInput(photo(1, 72, 96).image, "same")
    asked = TryOnRequest("r", tall, (tall,), compose([GarmentPhrase("tops")]), size=(40, 40))
    assert one(engine, asked).cache["reference_kv", "miss"] == 2


def test_reference_bytes_stay_under_the_bound_and_are_really_owned(folder: Path) -> None:
    engine = load(folder, options=EngineOptions(previews=False))
    one(engine, request(photo(1)))
    cache = engine.pipeline.caches.reference_kv
    kept = [kv for kv, _, _ in cache._entries.values()]
    owned = sum(x.untyped_storage().nbytes() for kv in kept for x in (*kv.keys, *kv.values))
    assert owned == cache.bytes == sum(kv.bytes for kv in kept)

    bound = cache.bytes * 3 // 2
    small = load(folder, options=EngineOptions(previews=False, reference_cache_bytes=bound))
    outcomes = [one(small, request(photo(i))) for i in range(1, 6)]
    assert small.pipeline.caches.reference_kv.bytes <= bound
    assert sum(o.cache.get(("reference_kv", "eviction"), 0) for o in outcomes) > 0
    assert apart(outcomes[-1], one(engine, request(photo(5)))) <= 1


def kept(engine: TorchEngine, content: str) -> int:
    """How many latents and K/V are kept that were made from a picture."""
    caches = engine.pipeline.caches
    return sum(content in str(key) for cache in (caches.latents, caches.reference_kv) for key in cache._entries)


def test_an_engine_forgets_pictures_by_content_and_nothing_else(folder: Path) -> None:
    engine = load(folder, options=EngineOptions(previews=False))
    one(engine, request(photo(1), photo(2)))
    one(engine, request(photo(2), person=3))
    assert all(kept(engine, f"photo-{i}") == 2 for i in range(4))
    engine.forget({"photo-0", "photo-1"})
    assert [kept(engine, f"photo-{i}") for i in range(4)] == [0, 0, 2, 2]
    assert len(engine.pipeline.caches.text) == 2
    again = one(engine, request(photo(1), photo(2)))
    assert again.cache["reference_kv", "miss"] == 2 and again.cache["reference_kv", "hit"] == 1
    engine.forget(words=True)
    assert len(engine.pipeline.caches.text) == 0 and kept(engine, "photo-2") == 2
    engine.forget(None)
    assert [len(cache) for cache in (engine.pipeline.caches.latents, engine.pipeline.caches.reference_kv)] == [0, 0]
    assert engine.pipeline.caches.latents.bytes == engine.pipeline.caches.reference_kv.bytes == 0


@pytest.mark.parametrize("overflow", ["sheets", "sequential"])
def test_what_was_made_of_a_picture_is_forgotten_with_it(folder: Path, tmp_path: Path, overflow: str) -> None:
    shutil.copytree(folder, tmp_path / "few")
    replace(CheckpointConfig.load(folder), max_references=2).save(tmp_path / "few")
    engine = load(tmp_path / "few", options=EngineOptions(previews=False, overflow=overflow))
    one(engine, request(photo(1), photo(2)))
    engine.forget({"photo-1" if overflow == "sheets" else "photo-0"})
    names = [str(key) for key in engine.pipeline.caches.latents._entries]
    assert [name.count("photo-0") for name in names] == ([1] if overflow == "sheets" else [0, 0]), names


def test_what_is_old_is_forgotten() -> None:
    cache: ByteCache[bytes] = ByteCache(100, len)
    cache.put("old", b"123")
    time.sleep(0.05)
    cache.put("new", b"12345")
    assert cache.drop(lambda key: False, older_than_s=0.04) == 1
    assert (cache.get("old"), cache.get("new"), cache.bytes) == (None, b"12345", 5)


def test_two_checkpoints_never_share_names(folder: Path, tmp_path: Path) -> None:
    tiny_pipeline(6).save_pretrained(tmp_path)
    CheckpointConfig.load(folder).save(tmp_path)
    assert load(folder).pipeline.checkpoint_id != load(tmp_path).pipeline.checkpoint_id
    assert load(folder).pipeline.checkpoint_id == load(folder).pipeline.checkpoint_id
