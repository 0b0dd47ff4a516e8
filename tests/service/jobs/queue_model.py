"""What the queue promises, as plain Python: the state every operation should leave, without a store.

Times are milliseconds of the clock of the test. Which waiting jobs a claim takes is left to the queue; whether it
was allowed to take them, and everything that follows, is decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RUNS = ("queued", "processing")
TERMINAL_CODES = {"succeeded": "", "failed": "engine-failed", "canceled": "canceled", "expired": "deadline-exceeded"}


@dataclass
class Rules:
    """The numbers of a service; the limits are by tenant, 0 or absent is unlimited."""

    max_in_flight: int
    reservation_ms: int
    lease_ms: int
    grace_ms: int
    max_attempts: int
    concurrency: dict[str, int] = field(default_factory=dict)
    daily_quota: dict[str, int] = field(default_factory=dict)


@dataclass
class Job:
    """One accepted request, from its reservation to its end."""

    tenant: str
    key: str | None
    reserved_until: int
    day: int
    status: str = "reserved"
    priority: str = "normal"
    tokens: int = 0
    deadline: int = 0
    fence: int = 0
    attempts: int = 0
    lease_until: int = 0
    cancel: bool = False
    solo: bool = False
    result: str = ""


class Model:
    """All jobs of one store. Methods answer what the queue should answer."""

    def __init__(self, now: int, rules: Rules) -> None:
        self.now, self.rules = now, rules
        self.jobs: dict[str, Job] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.quota: Counter[tuple[str, int]] = Counter()
        self.totals: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.fence = 0

    def those(self, *statuses: str) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.status in statuses]

    def overdue(self) -> list[str]:
        return [job_id for job_id in self.those("queued") if self.jobs[job_id].deadline <= self.now]

    def reserve(self, job_id: str, tenant: str, key: str | None, body: str) -> str:
        """`reserved`, the id of the job that the key already made, or the code of the refusal."""
        self.drop_stale()
        known = self.keys.get((tenant, key)) if key is not None else None
        if known is not None:
            if known[0] != body:
                return "idempotency-mismatch"
            return "idempotency-in-progress" if self.jobs[known[1]].status == "reserved" else known[1]
        in_flight = self.those("reserved", *RUNS)
        if len(in_flight) >= self.rules.max_in_flight:
            return "queue-full"
        own = [held for held in in_flight if self.jobs[held].tenant == tenant]
        if 0 < self.rules.concurrency.get(tenant, 0) <= len(own):
            return "concurrency-limited"
        day = self.now // 86_400_000
        if tenant in self.rules.daily_quota:
            if self.quota[tenant, day] >= self.rules.daily_quota[tenant]:
                return "quota-exceeded"
            self.quota[tenant, day] += 1
        self.jobs[job_id] = Job(tenant, key, self.now + self.rules.reservation_ms, day)
        if key is not None:
            self.keys[tenant, key] = (body, job_id)
        return "reserved"

    def release(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.status == "reserved":
            self._forget(job_id)
            if job.tenant in self.rules.daily_quota:
                self.quota[job.tenant, job.day] -= 1

    def drop_stale(self) -> set[str]:
        stale = {held for held in self.those("reserved") if self.jobs[held].reserved_until <= self.now}
        for job_id in stale:
            self.release(job_id)
        return stale

    def submit(self, job_id: str, priority: str, tokens: int, deadline: int) -> bool:
        job = self.jobs.get(job_id)
        if job is None:
            return False
        if job.status == "reserved":
            job.status, job.priority, job.tokens, job.deadline = "queued", priority, tokens, deadline
        return True

    def claim(self, taken: Sequence[tuple[str, int, int]], max_jobs: int, budget: int) -> None:
        """Check and note a claim of (id, fence, attempt) each."""
        assert len(taken) <= max_jobs and len({job_id for job_id, *_ in taken}) == len(taken)
        if any(self.jobs[job_id].deadline > self.now for job_id in self.those("queued")):
            assert taken, "work waits and a claim brought none"
        jobs = [self.jobs[job_id] for job_id, *_ in taken]
        assert len(jobs) < 2 or sum(job.tokens for job in jobs) <= budget
        assert len(jobs) < 2 or not any(job.solo for job in jobs)
        for job, (_, fence, attempt) in zip(jobs, taken, strict=True):
            assert job.status == "queued" and job.deadline > self.now
            assert fence > self.fence, "a fencing token came twice"
            self.fence = fence
            job.status, job.fence, job.attempts = "processing", fence, job.attempts + 1
            job.lease_until = self.now + self.rules.lease_ms
            assert attempt == job.attempts <= self.rules.max_attempts

    def holds(self, job_id: str, fence: int) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.status == "processing" and job.fence == fence

    def heartbeat(self, job_id: str, fence: int) -> str:
        if not self.holds(job_id, fence):
            return "lost"
        job = self.jobs[job_id]
        job.lease_until = self.now + self.rules.lease_ms
        if job.cancel:
            return "canceled"
        return "expired" if job.deadline <= self.now else "ok"

    def finish(self, job_id: str, fence: int, status: str, result: str) -> bool:
        job = self.jobs.get(job_id)
        if not self.holds(job_id, fence):
            return job is not None and (job.status, job.fence, job.result) == (status, fence, result)
        if status == "succeeded" and self.jobs[job_id].cancel:
            self.end(job_id, "canceled")
            return False
        self.end(job_id, status, result=result)
        return True

    def hand_back(self, job_id: str, fence: int) -> bool:
        if not self.holds(job_id, fence):
            return False
        job = self.jobs[job_id]
        job.attempts -= 1
        if job.cancel:
            self.end(job_id, "canceled")
        else:
            job.status = "queued"
        return True

    def fail_attempt(self, job_id: str, fence: int) -> str:
        return self._settle(job_id, "engine-failed") if self.holds(job_id, fence) else "lost"

    def cancel(self, job_id: str) -> bool:
        job = self.jobs.get(job_id)
        if job is None or job.status == "reserved":
            return False
        if job.status == "queued":
            self.end(job_id, "canceled")
        elif job.status == "processing":
            job.cancel = True
        return True

    def erase(self, job_id: str) -> bool:
        job = self.jobs.get(job_id)
        if job is None or job.status == "reserved":
            return False
        if job.status in RUNS:
            self.end(job_id, "canceled")
        self._forget(job_id)
        return True

    def sweep(self) -> dict[str, set[str]]:
        """Ids by what became of them."""
        report: dict[str, set[str]] = {"requeued": set(), "failed": set(), "expired": set(), "canceled": set()}
        report["reservations"] = self.drop_stale()
        for job_id in self.those("processing"):
            if self.jobs[job_id].lease_until <= self.now:
                self.totals["lease_lost"] += 1
                report[self._settle(job_id, "worker-lost")].add(job_id)
        for job_id in self.overdue():
            self.end(job_id, "expired")
            report["expired"].add(job_id)
        for job_id in self.those("processing"):
            job = self.jobs[job_id]
            if job.deadline + self.rules.grace_ms <= self.now:
                ending = "canceled" if job.cancel else "expired"
                self.end(job_id, ending)
                report[ending].add(job_id)
        return report

    def end(self, job_id: str, status: str, code: str | None = None, result: str = "") -> None:
        job = self.jobs[job_id]
        assert job.status in RUNS, "a job ended twice"
        code = TERMINAL_CODES[status] if code is None else code
        self.totals[f"requests|{status}|{code}"] += 1
        if status == "canceled":
            self.totals[f"canceled|{'queued' if job.status == 'queued' else 'running'}"] += 1
        if status == "expired":
            self.totals["deadline_exceeded"] += 1
        self.ends[job_id] += 1
        job.status, job.result = status, result

    def _settle(self, job_id: str, code: str) -> str:
        job = self.jobs[job_id]
        if job.cancel or job.deadline <= self.now:
            ending = "canceled" if job.cancel else "expired"
            self.end(job_id, ending)
            return ending
        if job.attempts >= self.rules.max_attempts:
            self.totals[f"dead_letter|{code}"] += 1
            self.end(job_id, "failed", code)
            return "failed"
        job.status, job.solo = "queued", True
        return "requeued"

    def _forget(self, job_id: str) -> None:
        job = self.jobs.pop(job_id)
        if job.key is not None:
            del self.keys[job.tenant, job.key]

    def ended(self, ids: Iterable[str]) -> set[str]:
        return {job_id for job_id in ids if self.ends[job_id]}
