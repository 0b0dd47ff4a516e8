"""One worker and its promises: progress, cancel at the next step, deadlines, drain, failure, readiness."""

from __future__ import annotations

import asyncio
import io
import os
import time

import pytest
from PIL import Image, ImageChops
from step_engine import PERSON, StepEngine, ended, eventually, until, working

from service.jobs.schemas import Event
from service.worker.leases import Leases


async def test_a_job_becomes_a_stored_picture(settings, queue, blobs, submit):
    async with working(settings, StepEngine()):
        record = await ended(queue, await submit())
    assert record.status == "succeeded", record.error
    assert record.attempts == 1
    assert (record.result.width, record.result.height) == PERSON.size
    assert {"intake", "queue", "prepare", "denoise", "encode", "store"} <= set(record.result.stages)
    picture = Image.open(io.BytesIO(await blobs.get(record.result.blob)))
    assert ImageChops.difference(picture.convert("RGB"), PERSON).getbbox() is None


async def test_every_step_is_told_with_a_small_preview(settings, queue, submit):
    job_id = await submit()

    async def follow() -> list[Event]:
        return [event async for event in queue.owner.subscribe(job_id, None)]

    following = asyncio.create_task(follow())
    async with working(settings, StepEngine(steps=3, step_seconds=0.2)):
        await ended(queue, job_id)
        events = await asyncio.wait_for(following, 60)
    told = [event.data for event in events if event.type == "progress"]
    assert [(data["step"], data["steps"]) for data in told] == [(1, 3), (2, 3), (3, 3)]
    assert all(data["preview"] for data in told)
    assert events[-1].type == "succeeded"


async def test_readiness_comes_only_after_the_warm_up_and_goes_with_the_drain(settings, queue):
    engine = StepEngine()
    engine.warm_up_gate.clear()
    async with working(settings, engine) as worker:
        await asyncio.sleep(0.3)
        assert await queue.workers.ready() == []
        engine.warm_up_gate.set()
        async with asyncio.timeout(60):
            while not (ready := await queue.workers.ready()):  # noqa: ASYNC110 (readiness lives in the store)
                await asyncio.sleep(0.02)
        assert engine.warmed
        assert (ready[0].id, ready[0].model) == (worker.id, "steps")
    assert await queue.workers.ready() == []


async def test_a_running_job_stops_at_the_next_step_after_a_cancel(settings, queue, submit, monkeypatch):
    engine, heard, cancel = StepEngine(steps=50, step_seconds=0.05), [], Leases.cancel
    monkeypatch.setattr(Leases, "cancel", lambda leases, job_id: (cancel(leases, job_id), heard.append(job_id)))
    async with working(settings, engine):
        job_id = await submit()
        await until(queue, job_id, lambda record: record.step >= 2)
        engine.gate.clear()
        await queue.owner.cancel(job_id)
        await eventually(lambda: job_id in heard)
        before = engine.steps_run[job_id]
        engine.gate.set()
        record = await ended(queue, job_id)
        assert record.status == "canceled"
        assert engine.steps_run[job_id] - before <= 2
        assert (await ended(queue, await submit())).status == "succeeded"


async def test_a_job_canceled_before_its_start_costs_no_engine_time(settings, queue, submit):
    engine = StepEngine(steps=4, token_budget=1)
    engine.gate.clear()
    async with working(settings, engine):
        first = await submit()
        await eventually(lambda: bool(engine.ran))
        second = await submit()
        await queue.owner.cancel(second)
        assert (await ended(queue, second)).status == "canceled"
        engine.gate.set()
        assert (await ended(queue, first)).status == "succeeded"
    assert engine.ran == [[first]]


async def test_a_deadline_stops_a_running_job(settings, queue, submit):
    engine = StepEngine(steps=100, step_seconds=0.1)
    async with working(settings, engine):
        job_id = await submit(deadline_at=time.time() + 1.0)
        record = await ended(queue, job_id)
        assert record.status == "expired"
        assert engine.steps_run[job_id] < engine.steps


async def test_a_job_longer_than_its_lease_runs_once(settings, queue, submit):
    engine = StepEngine(steps=6, step_seconds=0.6)
    async with working(settings, engine):
        record = await ended(queue, await submit())
    assert record.status == "succeeded"
    assert record.attempts == 1
    assert len(engine.ran) == 1


async def test_a_lack_of_memory_is_final_and_has_its_own_code(settings, queue, submit):
    async with working(settings, StepEngine()):
        huge, plain = [await ended(queue, await submit(instruction=words)) for words in ("huge", "wear it")]
    assert (huge.status, huge.error.code, huge.attempts) == ("failed", "out-of-memory", 1)
    assert plain.status == "succeeded"


async def test_a_poisonous_job_is_given_up_and_its_batch_mates_survive(settings, queue, submit):
    engine = StepEngine()
    engine.warm_up_gate.clear()
    async with working(settings, engine):
        jobs = [await submit(instruction=words) for words in ("wear it", "poison", "wear it")]
        engine.warm_up_gate.set()
        records = [await ended(queue, job_id) for job_id in jobs]
    assert [record.status for record in records] == ["succeeded", "failed", "succeeded"]
    assert records[1].attempts == settings.max_attempts
    assert records[1].error.code == "engine-failed"
    assert engine.ran[0] == jobs
    assert records[0].attempts == records[2].attempts == 1


async def test_an_erased_picture_fails_the_job_at_once(settings, queue, blobs, submit):
    job_id = await submit()
    record = await queue.owner.get(job_id)
    await blobs.delete(record.spec.person)
    async with working(settings, StepEngine()):
        record = await ended(queue, job_id)
    assert (record.status, record.error.code, record.attempts) == ("failed", "input-erased", 1)


async def test_a_picture_that_cannot_be_read_holds_nobody_up(settings, queue, submit):
    """Its bytes never come, those of every other picture do: mates and later jobs run, it ends after its attempts."""
    engine = StepEngine()
    engine.warm_up_gate.clear()
    async with working(settings, engine) as worker:
        stuck, mate = await submit(), await submit()
        path = settings.data_dir / "blobs" / (await queue.owner.get(stuck)).spec.person
        path.unlink()
        os.mkfifo(path)
        engine.warm_up_gate.set()
        assert (await ended(queue, mate)).status == "succeeded"
        later = await ended(queue, await submit())
        assert later.status == "succeeded"
        assert (await queue.owner.get(stuck)).status in ("queued", "processing")
        record = await ended(queue, stuck, 50)
        assert (record.status, record.error.code, record.attempts) == ("failed", "store-unavailable", 3)
        assert (await ended(queue, await submit())).status == "succeeded"
        worker.stop()
        assert await worker.finished == 0


async def test_a_drain_hands_back_a_job_that_waits_for_its_pictures(settings, queue, submit):
    """The picture store as a whole errs: a claimed job waits for its return, until the worker has to go."""
    job_id = await submit()
    folder = settings.data_dir / "blobs" / "input"
    folder.rename(settings.data_dir / "away")
    folder.symlink_to(folder)
    async with working(settings, StepEngine()) as worker:
        await until(queue, job_id, lambda record: record.status == "processing", 30)
        await asyncio.sleep(4)
        assert (await queue.owner.get(job_id)).attempts == 1
        worker.stop()
        assert await worker.finished == 0
    record = await queue.owner.get(job_id)
    assert (record.status, record.attempts) == ("queued", 0)


async def test_a_broken_engine_ends_the_worker_and_another_one_takes_over(settings, queue, submit):
    async with working(settings, StepEngine()) as worker:
        job_id = await submit(instruction="break")
        assert await asyncio.wait_for(worker.finished, 60) == 1
    record = await queue.owner.get(job_id)
    assert (record.status, record.attempts) == ("queued", 1)


@pytest.mark.parametrize("step_seconds", [0.1, 1.5])
async def test_a_drain_finishes_or_hands_back_and_loses_nothing(settings, queue, submit, step_seconds):
    engine = StepEngine(steps=8, step_seconds=step_seconds, token_budget=1)
    async with working(settings, engine) as worker:
        jobs = [await submit() for _ in range(3)]
        await eventually(lambda: bool(engine.ran))
        worker.stop()
        assert await asyncio.wait_for(worker.finished, 60) == 0
    records = [await queue.owner.get(job_id) for job_id in jobs]
    expected = "succeeded" if step_seconds < 1 else "queued"
    assert [record.status for record in records] == [expected, "queued", "queued"]
    assert [record.attempts for record in records[1:]] == [0, 0]
    settings = settings.model_copy(update={"lease_s": 15})
    async with working(settings, StepEngine()):
        assert {(await ended(queue, job_id)).status for job_id in jobs} == {"succeeded"}


async def test_two_waiting_jobs_share_a_batch_up_to_the_budget(settings, queue, submit):
    engine = StepEngine(token_budget=2)
    engine.warm_up_gate.clear()
    async with working(settings, engine):
        jobs = [await submit() for _ in range(5)]
        engine.warm_up_gate.set()
        for job_id in jobs:
            assert (await ended(queue, job_id)).status == "succeeded"
    assert [len(batch) for batch in engine.ran] == [2, 2, 1]
    assert sorted(job for batch in engine.ran for job in batch) == sorted(jobs)
