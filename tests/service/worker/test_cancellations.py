"""DELETE reaches a worker's memory: latents, keys and values of erased pictures go, others stay."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from step_engine import StepEngine, ended, eventually, until, working

from engine_build.backends import load_engine
from service.jobs.blobs import blobs_of, content_hash
from service.jobs.schemas import GarmentRef
from service.settings import Settings
from service.worker import cancellations


def remembered(engine: Any) -> str:
    """Every key of what the engine keeps of pictures, as one text."""
    caches = engine.pipeline.caches
    return " ".join(map(str, (*caches.latents._entries, *caches.reference_kv._entries)))


def another_picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (96, 128), "teal").save(out, "PNG")
    return out.getvalue()


async def test_an_engine_forgets_the_pictures_of_an_erased_job(settings: Settings, queue, blobs, submit):
    engine = load_engine("nano", device="cpu")
    async with working(settings, engine):
        first = await submit(prompt="my words")
        another = await blobs.put(another_picture(), kind="input", content_type="image/png")
        second = await submit(person=another, garments=(GarmentRef(blob=another, category="tops"),))
        done = [await ended(queue, job_id, 120) for job_id in (first, second)]
        assert [record.status for record in done] == ["succeeded", "succeeded"]
        mine, other = (content_hash(record.spec.person) for record in done)
        assert mine in remembered(engine) and other in remembered(engine) and len(engine.pipeline.caches.text)
        erased = await queue.owner.erase(first)
        await blobs.delete(*blobs_of(erased))
        await eventually(lambda: mine not in remembered(engine), 20)
        assert other in remembered(engine)
        assert len(engine.pipeline.caches.text) == 0


async def test_a_running_job_is_forgotten_again_when_it_has_stopped(settings, queue, submit):
    engine = StepEngine(steps=400, step_seconds=0.05)
    async with working(settings, engine):
        job_id = await submit()
        record = await until(queue, job_id, lambda record: record.step >= 1)
        await queue.owner.erase(job_id)
        await eventually(lambda: len(engine.forgotten) == 2, 30)
        assert engine.steps_run[job_id] < 400
    assert {content for content, _, _ in engine.forgotten} == {frozenset({content_hash(record.spec.person)})}


async def test_what_is_older_than_its_pictures_may_be_is_forgotten(settings, queue, monkeypatch):
    monkeypatch.setattr(cancellations, "TIDY_EVERY_S", 0.05)
    engine = StepEngine()
    async with working(settings.model_copy(update={"input_ttl_s": 77}), engine):
        await eventually(lambda: ((), False, 77) in engine.forgotten, 20)


async def test_a_catalogue_garment_stays_when_a_try_on_is_erased(settings, queue, blobs, submit):
    engine = StepEngine()
    async with working(settings, engine):
        coat = await blobs.put(await blobs.get((await queue.owner.get(await submit())).spec.person), kind="garment",
                               content_type="image/png")  # fmt: skip
        job_id = await submit(garments=(GarmentRef(blob=coat, sku="COAT"),), prompt="open")
        record = await ended(queue, job_id)
        await queue.owner.erase(job_id)
        await eventually(lambda: bool(engine.forgotten), 20)
    assert engine.forgotten == [(frozenset({content_hash(record.spec.person)}), True, None)]
