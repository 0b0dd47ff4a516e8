"""The whole store of the queue, read and compared with the model; and emptied to its end."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Set

from hypothesis import note
from queue_hand import RESULT
from queue_model import RUNS, Model
from redis.asyncio import Redis

from service.jobs import store_keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import TERMINAL

CLOCK = store_keys.PREFIX + "test_clock"
PRIORITIES = ("high", "normal", "low")
TENANTS = ("free", "narrow", "daily")


async def compare(client: Redis, model: Model) -> None:
    """Raises AssertionError where the store is not what the model says."""
    pipe = client.pipeline(transaction=False)
    ids = list(model.jobs)
    for job_id in ids:
        pipe.hmget(store_keys.JOB + job_id, "status", "fence", "attempts", "cancel", "solo", "entry")
    for zset in (store_keys.LEASES, store_keys.DEADLINES, store_keys.IN_FLIGHT, store_keys.RESERVATIONS):
        pipe.zrange(zset, 0, -1, withscores=True)
    for priority in PRIORITIES:
        pipe.zrange(store_keys.WAITING + priority, 0, -1)
    for priority in PRIORITIES:
        pipe.xrange(store_keys.STREAM + priority)
    for tenant in TENANTS:
        pipe.smembers(store_keys.TENANT + tenant)
    for priority, tenant in itertools.product(PRIORITIES, TENANTS):
        pipe.smembers(f"{store_keys.TURNS}{priority}:{tenant}")
    pipe.hgetall(store_keys.TOTALS)
    pipe.llen(store_keys.WAKE)
    pipe.keys(store_keys.JOB + "*")
    pipe.keys(store_keys.IDEMPOTENCY + "*")
    answers = iter(await pipe.execute())
    entries = {}
    for job_id in ids:
        status, fence, attempts, cancel, solo, entry = next(answers)
        job = model.jobs[job_id]
        assert status == job.status, f"{job_id} is {status}"
        if status != "reserved":
            assert (int(fence), int(attempts)) == (job.fence, job.attempts)
            assert (cancel, solo) == (str(int(job.cancel)), str(int(job.solo)))
            if status in RUNS:
                entries[entry] = job_id
    jobs = model.jobs
    leases, deadlines, in_flight, reservations = (dict(next(answers)) for _ in range(4))
    assert leases == {job_id: jobs[job_id].lease_until for job_id in model.those("processing")}
    assert deadlines == {job_id: jobs[job_id].deadline for job_id in model.those(*RUNS)}
    assert set(in_flight) == set(model.those("reserved", *RUNS))
    assert reservations == {job_id: jobs[job_id].reserved_until for job_id in model.those("reserved")}
    for priority in PRIORITIES:
        assert set(next(answers)) == {one for one in model.those("queued") if jobs[one].priority == priority}
    delivered = {}
    for _ in PRIORITIES:
        delivered |= {entry: fields["job"] for entry, fields in next(answers)}
    assert delivered == entries
    for tenant in TENANTS:
        assert next(answers) == {one for one in model.those("reserved", *RUNS) if jobs[one].tenant == tenant}
    for priority, tenant in itertools.product(PRIORITIES, TENANTS):
        expected = {one for one in model.those(*RUNS) if (jobs[one].priority, jobs[one].tenant) == (priority, tenant)}
        assert next(answers) == expected
    assert {name: int(count) for name, count in next(answers).items()} == dict(model.totals)
    assert next(answers) or not model.those("queued"), "work waits and nobody would be woken"
    assert {key.removeprefix(store_keys.JOB) for key in next(answers)} == set(ids)
    assert len(next(answers)) == len(model.keys)
    await _compare_keys(client, model)


async def _compare_keys(client: Redis, model: Model) -> None:
    for (tenant, key), (body, job_id) in model.keys.items():
        name = f"{store_keys.IDEMPOTENCY}{tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
        assert await client.hgetall(name) == {"digest": body, "job": job_id}
    for tenant in TENANTS:
        kept = sum(int(used) for used in await client.hvals(store_keys.KEPT + tenant))
        mine = [job_id for job_id, job in model.jobs.items() if job.tenant == tenant]
        said = [await client.hget(store_keys.JOB + job_id, "kept") for job_id in mine]
        assert kept == sum(int(text.partition(":")[2]) for text in said if text), (
            "bytes of records, erased ones left out"
        )
    for (tenant, day), used in model.quota.items():
        assert int(await client.get(f"{store_keys.QUOTA}{tenant}:{day}") or 0) == used


async def drain(queue: JobQueue, model: Model, erased: Set[str]) -> None:
    """Let time pass until nothing is left. Raises AssertionError for a job that did not end once, as its events say."""
    client = queue.store.client
    for _ in range(model.rules.max_attempts + 2):
        while batch := await queue.claims.claim("last", max_jobs=8, token_budget=10_000, block_s=0):
            for claim in batch:
                await queue.claims.finish(claim, status="succeeded", result=RESULT)
        model.now += 30_000
        await client.set(CLOCK, model.now)
        await queue.upkeep.sweep()
    backlog = await queue.upkeep.backlog()
    assert (backlog.waiting, backlog.running, backlog.in_flight) == (0, 0, 0)
    accepted = {job_id for job_id, job in model.jobs.items() if job.status != "reserved"}
    for job_id in accepted:
        events = await client.xrange(store_keys.EVENTS + job_id)
        kinds = [fields["type"] for _, fields in events]
        assert [kind for kind in kinds if kind in TERMINAL] == kinds[-1:], kinds
        assert kinds[-1] == await client.hget(store_keys.JOB + job_id, "status")
    for job_id in erased:
        assert not await client.exists(store_keys.JOB + job_id, store_keys.EVENTS + job_id)
    totals = await queue.upkeep.totals()
    ended = sum(count for name, count in totals.items() if name.startswith("requests|"))
    note(f"{ended} jobs ended")
    assert ended == len(accepted | erased)
    for left in (
        store_keys.TENANT,
        store_keys.TURNS,
        store_keys.RESERVATIONS,
        store_keys.LEASES,
        store_keys.DEADLINES,
        store_keys.WAITING,
    ):
        assert not await client.keys(left + "*")
