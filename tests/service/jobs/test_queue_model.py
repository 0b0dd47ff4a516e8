"""Random interleavings of everything clients, workers and time can do, on a real store, against a plain model.

After every step the whole store is read and must equal the model: nothing lost, nothing ended twice, no write of a
fenced-off claim, limits balanced, counters equal to states, keys in place. The scripts are the real ones except for
their clock, which is a value in the store, so that leases and deadlines run out exactly when a step says so.
A longer run: pytest tests/service/jobs/test_queue_model.py --hypothesis-profile=fuzz
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from queue_hand import RESULT, make_spec
from queue_model import RUNS, Model, Rules

from service.errors import Conflict, NotFound, ServiceError
from service.jobs import admission, keys, store
from service.jobs.queue import DEADLINE_GRACE_S, JobQueue
from service.jobs.schemas import TERMINAL, Claim, Existing, JobError, Limits, Reserved
from service.settings import load_settings

CLOCK = keys.PREFIX + "test_clock"
SCRIPT_TEXT = store.script_text
START_MS = 1_800_000_000_000
PRIORITIES = ("high", "normal", "low")
TENANTS = ("free", "narrow", "daily")
FAILURE = JobError(code="engine-failed", message="The engine failed.", retryable=True)
RULES = Rules(
    max_in_flight=9,
    reservation_ms=4_000,
    lease_ms=3_000,
    grace_ms=int(DEADLINE_GRACE_S * 1000),
    max_attempts=3,
    concurrency={"narrow": 3},
    daily_quota={"daily": 6},
)

T = TypeVar("T")


def on_test_clock(name: str) -> str:
    """The text of a script, with the store's clock replaced by a value of the test."""
    head, _, rest = SCRIPT_TEXT(name).partition("local function now_ms()\n")
    body, _, rest = rest.partition("\nend\n")
    assert "TIME" in body
    return f"{head}local function now_ms() return tonumber(redis.call('GET', '{CLOCK}')) end\n{rest}"


class Bench:
    """The queue, the loop it lives on, and the names of its next jobs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: JobQueue) -> None:
        self.loop, self.queue = loop, queue
        self.names: Iterator[str] = iter(())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)


@pytest.fixture
def bench(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(store, "script_text", on_test_clock)
    monkeypatch.setattr(admission, "PENDING_WAIT_S", 0.0)
    monkeypatch.setattr(admission, "secrets", SimpleNamespace(token_hex=lambda _: next(made.names)))
    loop = asyncio.new_event_loop()
    chosen = load_settings(
        redis_url=store_url,
        lease_s=RULES.lease_ms / 1000,
        reservation_ttl_s=RULES.reservation_ms / 1000,
        max_in_flight=RULES.max_in_flight,
        max_backlog_s=0,
        max_attempts=RULES.max_attempts,
        store_timeout_s=20,
    )
    made = Bench(loop, loop.run_until_complete(JobQueue.connect(chosen)))
    yield made
    loop.run_until_complete(made.queue.close())
    loop.close()


class QueueMachine(RuleBasedStateMachine):
    """One store from empty to drained. `claims` are never taken back: those of a dead worker write on as zombies."""

    reservations: Bundle[Reserved] = Bundle("reservations")
    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench, self.queue = bench, bench.queue
        self.client = bench.queue.store.client
        self.model = Model(START_MS, RULES)
        self.names = (f"{number:032x}" for number in itertools.count(1))
        self.erased: set[str] = set()

    @initialize()
    def start(self) -> None:
        self.bench.names = self.names
        self.bench.run(self.client.flushall())
        self._set_clock()

    def _set_clock(self) -> None:
        self.bench.run(self.client.set(CLOCK, self.model.now))

    def _reserve(self, tenant: str, key: str | None, body: str) -> Reserved | None:
        self.bench.names = itertools.chain(head := [next(self.names)], self.names)
        limits = Limits(concurrency=RULES.concurrency.get(tenant, 0), daily_quota=RULES.daily_quota.get(tenant, 0))
        expected = self.model.reserve(head[0], tenant, key, body)
        try:
            answer = self.bench.run(
                self.queue.reserve(tenant=tenant, idempotency_key=key, body_digest=body, limits=limits)
            )
        except ServiceError as error:
            assert error.code == expected
            return None
        if isinstance(answer, Existing):
            assert answer.job_id == expected
            return None
        assert expected == "reserved" and answer.id == head[0]
        return answer

    def _submit(self, reserved: Reserved, priority: str, tokens: int, deadline_ms: int) -> bool:
        deadline_at = (self.model.now + deadline_ms) / 1000
        spec = make_spec(reserved, priority=priority, tokens=tokens, deadline_at=deadline_at)
        expected = self.model.submit(reserved.id, priority, tokens, int(deadline_at * 1000))
        try:
            self.bench.run(self.queue.submit(reserved, spec))
        except Conflict:
            assert not expected
            return False
        assert expected
        return True

    @rule(
        target=jobs,
        tenant=st.sampled_from(TENANTS),
        key=st.sampled_from((None, None, "k1", "k2")),
        body=st.sampled_from(("b1", "b1", "b2")),
        priority=st.sampled_from(PRIORITIES),
        tokens=st.sampled_from((1, 40, 100)),
        deadline_ms=st.sampled_from((1_000, 5_000, 20_000)),
    )
    def post(
        self, tenant: str, key: str | None, body: str, priority: str, tokens: int, deadline_ms: int
    ) -> str | MultipleResults[str]:
        reserved = self._reserve(tenant, key, body)
        if reserved is None or not self._submit(reserved, priority, tokens, deadline_ms):
            return multiple()
        return reserved.id

    @rule(target=reservations, tenant=st.sampled_from(TENANTS), key=st.sampled_from((None, "k1", "k2")))
    def reserve_and_read_on(self, tenant: str, key: str | None) -> Reserved | MultipleResults[Reserved]:
        """A gateway that is still reading the pictures, or dies while it does."""
        return self._reserve(tenant, key, "b1") or multiple()

    @rule(target=jobs, reserved=reservations, priority=st.sampled_from(PRIORITIES))
    def submit(self, reserved: Reserved, priority: str) -> str | MultipleResults[str]:
        """Also twice, and after the reservation has run out."""
        known = self.model.jobs.get(reserved.id)
        fresh = known is not None and known.status == "reserved"
        done = self._submit(reserved, priority, 10, 10_000)
        return reserved.id if done and fresh else multiple()

    @rule(reserved=consumes(reservations))
    def release(self, reserved: Reserved) -> None:
        self.bench.run(self.queue.release(reserved))
        self.model.release(reserved.id)

    @rule(
        target=claims,
        worker=st.sampled_from(("w1", "w2")),
        max_jobs=st.integers(1, 4),
        budget=st.sampled_from((0, 100, 1_000)),
    )
    def claim(self, worker: str, max_jobs: int, budget: int) -> MultipleResults[Claim]:
        overdue = self.model.overdue()
        taken = self.bench.run(self.queue.claim(worker, max_jobs=max_jobs, token_budget=budget, block_s=0))
        self.model.claim([(claim.spec.id, claim.fence, claim.attempt) for claim in taken], max_jobs, budget)
        for job_id in overdue:
            if self.bench.run(self.client.hget(keys.JOB + job_id, "status")) != "queued":
                self.model.end(job_id, "expired")
        return multiple(*taken)

    @rule(held=st.lists(claims, min_size=1, max_size=4, unique_by=lambda claim: claim.fence))
    def heartbeat(self, held: list[Claim]) -> None:
        for claim in held:
            answer = self.bench.run(self.queue.heartbeat("w1", [claim]))
            assert answer == {claim.spec.id: self.model.heartbeat(claim.spec.id, claim.fence)}

    @rule(claim=claims)
    def progress(self, claim: Claim) -> None:
        done = self.bench.run(self.queue.progress(claim, stage="denoise", step=1, steps=4))
        assert done == self.model.holds(claim.spec.id, claim.fence)

    @rule(claim=claims)
    def finish_with_a_picture(self, claim: Claim) -> None:
        self._finish(claim, "succeeded", RESULT.model_dump_json(), result=RESULT)

    @rule(claim=claims, status=st.sampled_from(("failed", "canceled", "expired")))
    def finish_without(self, claim: Claim, status: str) -> None:
        self._finish(claim, status, "", error=FAILURE if status == "failed" else None)

    def _finish(self, claim: Claim, status: Any, result_text: str, **outcome: Any) -> None:
        visible = self.bench.run(self.queue.finish(claim, status=status, **outcome))
        assert visible == self.model.finish(claim.spec.id, claim.fence, status, result_text)

    @rule(claim=claims)
    def fail_attempt(self, claim: Claim) -> None:
        settled = self.bench.run(self.queue.fail_attempt(claim, FAILURE))
        assert settled == self.model.fail_attempt(claim.spec.id, claim.fence)

    @rule(claim=claims)
    def hand_back(self, claim: Claim) -> None:
        assert self.bench.run(self.queue.hand_back(claim)) == self.model.hand_back(claim.spec.id, claim.fence)

    @rule(claim=claims)
    def cancel_what_was_claimed(self, claim: Claim) -> None:
        self.cancel(claim.spec.id)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        expected = self.model.cancel(job_id)
        try:
            record = self.bench.run(self.queue.cancel(job_id))
        except NotFound:
            assert not expected
            return
        assert expected and record.status == self.model.jobs[job_id].status

    @rule(job_id=jobs)
    def erase(self, job_id: str) -> None:
        record = self.bench.run(self.queue.erase(job_id))
        assert (record is not None) == self.model.erase(job_id)
        self.erased.add(job_id)
        assert self.bench.run(self.queue.existed(job_id))

    @rule()
    def sweep(self) -> None:
        report = self.bench.run(self.queue.sweep())
        assert {name: set(ids) for name, ids in report.model_dump().items()} == self.model.sweep()

    @rule(passed_ms=st.sampled_from((1, 900, 1_000, 2_600, 3_000, 5_000)))
    def time_passes(self, passed_ms: int) -> None:
        """Workers that crashed or stall are those that send no heartbeat meanwhile."""
        self.model.now += passed_ms
        self._set_clock()

    @invariant()
    def the_store_is_the_model(self) -> None:
        self.bench.run(self._compare())

    async def _compare(self) -> None:
        model, pipe = self.model, self.client.pipeline(transaction=False)
        ids = list(model.jobs)
        for job_id in ids:
            pipe.hmget(keys.JOB + job_id, "status", "fence", "attempts", "cancel", "solo", "entry")
        for zset in (keys.LEASES, keys.DEADLINES, keys.IN_FLIGHT, keys.RESERVATIONS):
            pipe.zrange(zset, 0, -1, withscores=True)
        for priority in PRIORITIES:
            pipe.zrange(keys.WAITING + priority, 0, -1)
        for priority in PRIORITIES:
            pipe.xrange(keys.STREAM + priority)
        for tenant in TENANTS:
            pipe.smembers(keys.TENANT + tenant)
        for priority, tenant in itertools.product(PRIORITIES, TENANTS):
            pipe.smembers(f"{keys.TURNS}{priority}:{tenant}")
        pipe.hgetall(keys.TOTALS)
        pipe.llen(keys.WAKE)
        pipe.keys(keys.JOB + "*")
        pipe.keys(keys.IDEMPOTENCY + "*")
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
            expected = {
                one for one in model.those(*RUNS) if (jobs[one].priority, jobs[one].tenant) == (priority, tenant)
            }
            assert next(answers) == expected
        assert {name: int(count) for name, count in next(answers).items()} == dict(model.totals)
        assert next(answers) or not model.those("queued"), "work waits and nobody would be woken"
        assert {key.removeprefix(keys.JOB) for key in next(answers)} == set(ids)
        assert len(next(answers)) == len(model.keys)
        await self._compare_keys()

    async def _compare_keys(self) -> None:
        for (tenant, key), (body, job_id) in self.model.keys.items():
            name = f"{keys.IDEMPOTENCY}{tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
            assert await self.client.hgetall(name) == {"digest": body, "job": job_id}
        for (tenant, day), used in self.model.quota.items():
            assert int(await self.client.get(f"{keys.QUOTA}{tenant}:{day}") or 0) == used

    def teardown(self) -> None:
        """Whatever happened, the service drains: each accepted job ends, once, and its events say so."""
        if self.model.jobs or self.model.ends:
            self.bench.run(self._drain())

    async def _drain(self) -> None:
        for _ in range(RULES.max_attempts + 2):
            while batch := await self.queue.claim("last", max_jobs=8, token_budget=10_000, block_s=0):
                for claim in batch:
                    await self.queue.finish(claim, status="succeeded", result=RESULT)
            self.model.now += 30_000
            await self.client.set(CLOCK, self.model.now)
            await self.queue.sweep()
        backlog = await self.queue.backlog()
        assert (backlog.waiting, backlog.running, backlog.in_flight) == (0, 0, 0)
        accepted = {job_id for job_id, job in self.model.jobs.items() if job.status != "reserved"}
        for job_id in accepted:
            events = await self.client.xrange(keys.EVENTS + job_id)
            kinds = [fields["type"] for _, fields in events]
            assert [kind for kind in kinds if kind in TERMINAL] == kinds[-1:], kinds
            assert kinds[-1] == await self.client.hget(keys.JOB + job_id, "status")
        for job_id in self.erased:
            assert not await self.client.exists(keys.JOB + job_id, keys.EVENTS + job_id)
        totals = await self.queue.totals()
        ended = sum(count for name, count in totals.items() if name.startswith("requests|"))
        note(f"{ended} jobs ended")
        assert ended == len(accepted | self.erased)
        for left in (keys.TENANT, keys.TURNS, keys.RESERVATIONS, keys.LEASES, keys.DEADLINES, keys.WAITING):
            assert not await self.client.keys(left + "*")


MACHINE = settings(
    max_examples=settings.default.max_examples if settings.get_current_profile_name() == "fuzz" else 60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(1500)
def test_the_queue_is_its_model(bench: Bench) -> None:
    run_state_machine_as_test(lambda: QueueMachine(bench), settings=MACHINE)
