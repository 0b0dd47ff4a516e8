"""Random interleavings of everything clients, workers and time can do, on a real store, against a plain model.

After every step the whole store is read and must equal the model: nothing lost, nothing ended twice, no write of a
fenced-off claim, limits balanced, counters equal to states, keys in place. The scripts are the real ones except for
their clock, which is a value in the store, so that leases and deadlines run out exactly when a step says so.
A longer run: pytest tests/service/jobs/test_queue_model.py --hypothesis-profile=fuzz
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
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
from queue_books import CLOCK, PRIORITIES, TENANTS, compare, drain
from queue_hand import RESULT, make_spec
from queue_model import Model, Rules

from service.errors import Conflict, NotFound, ServiceError
from service.jobs import store, store_keys, submission
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim, Existing, JobError, Limits, Reserved
from service.jobs.upkeep import DEADLINE_GRACE_S
from service.settings import load_settings

SCRIPT_TEXT = store.script_text
START_MS = 1_800_000_000_000
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
    monkeypatch.setattr(submission, "PENDING_WAIT_S", 0.0)
    monkeypatch.setattr(submission, "secrets", SimpleNamespace(token_hex=lambda _: next(made.names)))
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
        self.tenants: dict[str, str] = {}

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
                self.queue.submission.reserve(tenant=tenant, idempotency_key=key, body_digest=body, limits=limits)
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
            self.bench.run(self.queue.submission.submit(reserved, spec))
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
        self.bench.run(self.queue.submission.release(reserved))
        self.model.release(reserved.id)

    @rule(
        target=claims,
        worker=st.sampled_from(("w1", "w2")),
        max_jobs=st.integers(1, 4),
        budget=st.sampled_from((0, 100, 1_000)),
    )
    def claim(self, worker: str, max_jobs: int, budget: int) -> MultipleResults[Claim]:
        overdue = self.model.overdue()
        taken = self.bench.run(self.queue.claims.claim(worker, max_jobs=max_jobs, token_budget=budget, block_s=0))
        self.model.claim([(claim.spec.id, claim.fence, claim.attempt) for claim in taken], max_jobs, budget)
        for job_id in overdue:
            if self.bench.run(self.client.hget(store_keys.JOB + job_id, "status")) != "queued":
                self.model.end(job_id, "expired")
        return multiple(*taken)

    @rule(held=st.lists(claims, min_size=1, max_size=4, unique_by=lambda claim: claim.fence))
    def heartbeat(self, held: list[Claim]) -> None:
        for claim in held:
            answer = self.bench.run(self.queue.claims.heartbeat([claim]))
            assert answer == {claim.spec.id: self.model.heartbeat(claim.spec.id, claim.fence)}

    @rule(claim=claims)
    def progress(self, claim: Claim) -> None:
        done = self.bench.run(self.queue.claims.progress(claim, stage="denoise", step=1, steps=4))
        assert done == self.model.holds(claim.spec.id, claim.fence)

    @rule(claim=claims)
    def finish_with_a_picture(self, claim: Claim) -> None:
        self._finish(claim, "succeeded", RESULT.model_dump_json(), result=RESULT)

    @rule(claim=claims, status=st.sampled_from(("failed", "canceled", "expired")))
    def finish_without(self, claim: Claim, status: str) -> None:
        self._finish(claim, status, "", error=FAILURE if status == "failed" else None)

    def _finish(self, claim: Claim, status: Any, result_text: str, **outcome: Any) -> None:
        visible = self.bench.run(self.queue.claims.finish(claim, status=status, **outcome))
        assert visible == self.model.finish(claim.spec.id, claim.fence, status, result_text)

    @rule(claim=claims)
    def fail_attempt(self, claim: Claim) -> None:
        settled = self.bench.run(self.queue.claims.fail_attempt(claim, FAILURE))
        assert settled == self.model.fail_attempt(claim.spec.id, claim.fence)

    @rule(claim=claims)
    def hand_back(self, claim: Claim) -> None:
        assert self.bench.run(self.queue.claims.hand_back(claim)) == self.model.hand_back(claim.spec.id, claim.fence)

    @rule(claim=claims)
    def cancel_what_was_claimed(self, claim: Claim) -> None:
        self.cancel(claim.spec.id)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        expected = self.model.cancel(job_id)
        try:
            record = self.bench.run(self.queue.owner.cancel(job_id))
        except NotFound:
            assert not expected
            return
        assert expected and record.status == self.model.jobs[job_id].status

    @rule(job_id=jobs)
    def erase(self, job_id: str) -> None:
        if job_id in self.model.jobs:
            self.tenants[job_id] = self.model.jobs[job_id].tenant
        record = self.bench.run(self.queue.owner.erase(job_id))
        assert (record is not None) == self.model.erase(job_id)
        self.erased.add(job_id)
        tenant = self.tenants[job_id]
        assert self.bench.run(self.queue.owner.existed(job_id, tenant))
        assert not self.bench.run(self.queue.owner.existed(job_id, f"not-{tenant}"))

    @rule()
    def sweep(self) -> None:
        report = self.bench.run(self.queue.upkeep.sweep())
        assert {name: set(ids) for name, ids in report.model_dump().items()} == self.model.sweep()

    @rule(passed_ms=st.sampled_from((1, 900, 1_000, 2_600, 3_000, 5_000)))
    def time_passes(self, passed_ms: int) -> None:
        """Workers that crashed or stall are those that send no heartbeat meanwhile."""
        self.model.now += passed_ms
        self._set_clock()

    @invariant()
    def the_store_is_the_model(self) -> None:
        self.bench.run(compare(self.client, self.model))

    def teardown(self) -> None:
        """Whatever happened, the service drains: each accepted job ends, once, and its events say so."""
        if self.model.jobs or self.model.ends:
            self.bench.run(drain(self.queue, self.model, self.erased))


MACHINE = settings(
    max_examples=settings.default.max_examples if settings.get_current_profile_name() == "fuzz" else 60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(1500)
def test_the_queue_is_its_model(bench: Bench) -> None:
    run_state_machine_as_test(lambda: QueueMachine(bench), settings=MACHINE)
