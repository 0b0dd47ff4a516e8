"""Worker processes as a supervisor sees them: killed, hung, drained by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from step_engine import ended, until

from service.jobs.queue import JobQueue
from service.settings import Settings


class Start(Protocol):
    def __call__(self, model: str, *settings: str) -> subprocess.Popen[bytes]: ...


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts `changeroom worker` processes on the test's store; kills what is left at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def go(model: str, *given: str) -> subprocess.Popen[bytes]:
        words = ["worker", "--model", model, "--redis-url", settings.redis_url, "--data", str(settings.data_dir)]
        for setting in ("lease_s=2", "sweep_s=0.3", "drain_grace_s=8", *given):
            words += ["--set", setting]
        log = (tmp_path / f"worker-{len(started)}.log").open("wb")
        with log:
            process = subprocess.Popen([sys.executable, "-m", "service.cli", *words], stdout=log, stderr=log)
        started.append(process)
        return process

    yield go
    for process in started:
        process.kill()
        process.wait()


async def exit_code(process: subprocess.Popen[bytes], seconds: float = 30) -> int:
    return await asyncio.to_thread(process.wait, seconds)


async def ready(queue: JobQueue, workers: int = 1) -> None:
    async with asyncio.timeout(60):
        while len(await queue.workers.ready()) < workers:  # noqa: ASYNC110 (readiness lives in the store)
            await asyncio.sleep(0.05)


async def test_a_killed_workers_job_runs_again_with_no_other_traffic(start: Start, queue, submit):
    first = start("null:400:0.2")  # longer than another worker may take to start
    await ready(queue)
    job_id = await submit()
    await until(queue, job_id, lambda record: record.step >= 2)
    start("null:2:0.05")
    await ready(queue, 2)
    first.send_signal(signal.SIGKILL)
    record = await ended(queue, job_id)
    assert (record.status, record.attempts) == ("succeeded", 2)
    events = [event.type async for event in queue.owner.subscribe(job_id)]
    assert events.count("succeeded") == 1


async def test_sigterm_finishes_the_running_job_and_hands_the_rest_back(start: Start, queue, submit):
    worker = start("null:10:0.2")
    await ready(queue)
    running = await submit()
    await until(queue, running, lambda record: record.step >= 1)
    waiting = [await submit() for _ in range(2)]
    worker.send_signal(signal.SIGTERM)
    assert await exit_code(worker) == 0
    assert (await ended(queue, running, 1)).status == "succeeded"
    records = [await queue.owner.get(job_id) for job_id in waiting]
    assert [(record.status, record.attempts) for record in records] == [("queued", 0)] * 2
    assert await queue.workers.ready() == []


async def test_sigterm_beyond_the_grace_hands_the_running_job_back(start: Start, queue, submit):
    worker = start("null:100:0.3", "drain_grace_s=6")
    await ready(queue)
    job_id = await submit()
    await until(queue, job_id, lambda record: record.step >= 1)
    worker.send_signal(signal.SIGTERM)
    assert await exit_code(worker) == 0
    record = await queue.owner.get(job_id)
    assert (record.status, record.attempts) == ("queued", 0)


async def test_a_hung_engine_ends_the_process_and_the_job_goes_on_elsewhere(start: Start, queue, submit):
    hung = start("null:2:60", "engine_stall_s=1")
    await ready(queue)
    job_id = await submit()
    assert await exit_code(hung) == 70
    start("null")
    record = await ended(queue, job_id, 40)
    assert (record.status, record.attempts) == ("succeeded", 2)


async def test_the_logs_carry_job_ids_and_nothing_personal(start: Start, queue, submit, tmp_path: Path):
    worker = start("null")
    await ready(queue)
    job_id = await submit(prompt="my address is 1 Sample Street", instruction="wear the secret coat")
    await ended(queue, job_id)
    worker.send_signal(signal.SIGTERM)
    assert await exit_code(worker) == 0
    text = (tmp_path / "worker-0.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line.get("job_id") == job_id and line["message"] == "job succeeded" for line in lines)
    assert "Sample Street" not in text and "secret coat" not in text
