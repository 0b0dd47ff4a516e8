"""What tests of the queue do most, in one line each."""

from __future__ import annotations

import time
from typing import Any

from service.jobs import store_keys
from service.jobs.queue import JobQueue
from service.jobs.schemas import Claim, GarmentRef, JobResult, JobSpec, Limits, Reserved

UNLIMITED = Limits()
RESULT = JobResult(blob="result/x", content_type="image/jpeg", width=768, height=1024, model="nano", nfe=4)


def make_spec(reservation: Reserved, *, deadline_s: float = 60, **changes: Any) -> JobSpec:
    now = time.time()
    values: dict[str, Any] = {
        "id": reservation.id,
        "tenant": reservation.tenant,
        "person": "input/person",
        "garments": (GarmentRef(blob="input/garment", category="tops"),),
        "instruction": "Dress the person in image 1 in the top of image 2.",
        "instruction_by": "grammar",
        "seed": 7,
        "created_at": now,
        "deadline_at": now + deadline_s,
        "tokens": 100,
    }
    return JobSpec(**(values | changes))


class Hand:
    """Acts on one queue."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue

    async def reserve(
        self, tenant: str = "shop", key: str | None = None, digest: str = "body", limits: Limits = UNLIMITED
    ) -> Reserved:
        answer = await self.queue.submission.reserve(
            tenant=tenant, idempotency_key=key, body_digest=digest, limits=limits
        )
        assert isinstance(answer, Reserved)
        return answer

    async def post(self, tenant: str = "shop", *, deadline_s: float = 60, **changes: Any) -> str:
        reservation = await self.reserve(tenant)
        await self.queue.submission.submit(reservation, make_spec(reservation, deadline_s=deadline_s, **changes))
        return reservation.id

    async def claim(
        self, worker: str = "w1", *, max_jobs: int = 1, budget: int = 10_000, block_s: float = 0
    ) -> list[Claim]:
        return await self.queue.claims.claim(worker, max_jobs=max_jobs, token_budget=budget, block_s=block_s)

    async def claim_one(self, worker: str = "w1") -> Claim:
        (claim,) = await self.claim(worker)
        return claim

    async def status(self, job_id: str) -> str:
        record = await self.queue.owner.get(job_id)
        assert record is not None
        return record.status

    async def pass_deadline(self, job_id: str, by_s: float = 0.001) -> None:
        """Make a job's deadline lie this far back, as if that time had gone by."""
        late = int((time.time() - by_s) * 1000)
        await self.queue.store.client.hset(store_keys.JOB + job_id, "deadline", late)
        await self.queue.store.client.zadd(store_keys.DEADLINES, {job_id: late})

    async def lose_lease(self, job_id: str) -> None:
        """Make a lease run out now, as if its worker had been silent for its whole length."""
        await self.queue.store.client.zadd(store_keys.LEASES, {job_id: 1})
