"""`loadtest replay` against a real gateway over a real store: every way a try-on can end, seen by its client."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from gateway_live import Live
from typer.testing import CliRunner

from loadtests.replay.client import Manners
from loadtests.replay.open_loop import RunRecord
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.probe import ProbeReading, counted, read
from loadtests.replay.run import Target, offer
from loadtests.replay.summary import summarise
from loadtests.replay.verdict import Objectives, judge
from loadtests.traffic.arrivals import Arrival, Asked, Mix, generated, steady
from loadtests.traffic.photos import CONTENT_TYPE, bundled
from service.cli import app

PATIENCE_S = 90.0
BURST = [Arrival(0.01 * i) for i in range(8)]


@pytest.fixture(scope="module")
def narrow(launch: Callable[..., Live]) -> Live:
    """A service that takes 3 jobs at once."""
    return launch(max_in_flight=3)


@pytest.fixture
def full(narrow: Live) -> Iterator[Live]:
    """The narrow service with its 3 jobs waiting, and its worker idle until the end of the test."""
    narrow.hold()
    body = bundled().body(Arrival(0.0), random.Random(0))
    with narrow.client(headers={"Content-Type": CONTENT_TYPE}) as client:
        made = [client.post("/v1/try-ons", content=body) for _ in range(3)]
        assert [answer.status_code for answer in made] == [202] * 3
        yield narrow
        for answer in made:
            client.post(answer.json()["links"]["cancel"])
    narrow.resume()


def run(live: Live, arrivals: Sequence[Arrival], manners: Manners | None = None, **target: object) -> RunRecord:
    manners = manners or Manners(timeout_s=PATIENCE_S)
    where = Target(live.url, **({"metrics_url": f"{live.url}/metrics"} | target))  # type: ignore[arg-type]
    return asyncio.run(offer(arrivals, where, bundled(), manners))


def ends(record: RunRecord) -> list[str]:
    return [one.end for one in record.outcomes]


def metrics(live: Live) -> dict[str, float]:
    with live.client() as client:
        return read(client.get("/metrics").text, 0.0).ended


async def until(live: Live, condition: Callable[[ProbeReading], bool]) -> ProbeReading:
    """The first reading of the service's metrics that fulfils `condition`."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        for _ in range(int(PATIENCE_S / 0.1)):
            reading = read((await client.get(f"{live.url}/metrics")).text, 0.0)
            if condition(reading):
                return reading
            await asyncio.sleep(0.1)
    raise TimeoutError("the service never came to that")


def status_of(live: Live, outcome: ClientOutcome) -> str:
    with live.client() as client:
        return str(client.get(f"/v1/try-ons/{outcome.job}").json()["status"])


def test_steady_traffic_succeeds_and_the_service_counted_the_same(live: Live) -> None:
    before = metrics(live)
    asked = Asked(garments=Mix((1, 6), (1.0, 1.0)), priorities=Mix(("high", "normal", "low"), (1.0, 1.0, 1.0)))
    arrivals = generated(steady(8.0), 2.5, 4, asked=asked)
    record = run(live, arrivals, Manners(timeout_s=PATIENCE_S, retries=20))
    after = metrics(live)
    assert counted(record.readings)["succeeded"] == len(arrivals)
    assert ends(record) == ["succeeded"] * len(arrivals)
    assert after.get("succeeded", 0) - before.get("succeeded", 0) == len(arrivals)
    for arrival, one in zip(arrivals, record.outcomes, strict=True):
        assert (one.garments, one.priority, one.due_at) == (arrival.garments, arrival.priority, arrival.offset_s)
        assert one.late is not None and one.accepted is not None and one.download is not None
        assert 0 <= one.late <= one.accepted <= one.latency
        assert one.server["total"] <= one.latency
        with live.client() as client:
            seen = client.get(f"/v1/try-ons/{one.job}").json()
        assert len(seen["garments"]) == arrival.garments
    assert any(reading.gauges for reading in record.readings)
    summary = summarise(record)
    assert judge(summary, Objectives(p95_s=PATIENCE_S, availability=1.0, max_late_s=PATIENCE_S)).passed is True
    assert judge(summary, Objectives(p50_s=0.001, max_late_s=PATIENCE_S)).passed is False


def test_latency_counts_from_when_a_try_on_was_due(live: Live) -> None:
    """One connection: while a stalled try-on holds it, the next ones are late, and their latencies say so."""
    arrivals = [Arrival(0.0), Arrival(2.0), Arrival(2.1)]
    live.hold()
    try:

        async def stalled() -> RunRecord:
            where = Target(live.url, connections=1)
            running = asyncio.create_task(offer(arrivals, where, bundled(), Manners(timeout_s=PATIENCE_S)))
            await until(live, lambda reading: reading.gauges["waiting"] >= 1)
            await asyncio.sleep(4.0)
            live.resume()
            return await running

        record = asyncio.run(stalled())
    finally:
        live.resume()
    assert ends(record) == ["succeeded"] * 3
    assert min(one.latency for one in record.outcomes) > 1.5
    assert min(one.late or 0.0 for one in record.outcomes[1:]) > 1.5
    verdict = judge(summarise(record), Objectives(p95_s=PATIENCE_S))
    assert (verdict.word, verdict.passed) == ("invalid", False)
    assert "late" in verdict.warnings[0]


def test_a_full_queue_rejects(full: Live) -> None:
    record = run(full, BURST)
    assert [(one.end, one.status, one.code, one.attempts) for one in record.outcomes] == [
        ("rejected", 503, "queue-full", 1)
    ] * len(BURST)
    summary = summarise(record)
    assert (summary.rejected_share, summary.availability) == (1.0, None)
    assert summary.time_to_reject.count == len(BURST)
    assert sum(one.ends.get("rejected 503", 0) for one in summary.bins) == len(BURST)


def test_rude_clients_do_not_wait_for_retry_after(full: Live) -> None:
    record = run(full, BURST, Manners(timeout_s=PATIENCE_S, retries=2, rude=True))
    assert {(one.end, one.attempts, len(one.rejections)) for one in record.outcomes} == {("rejected", 3, 3)}


def test_polite_clients_come_again_when_they_were_told_to(full: Live) -> None:
    async def come_again() -> RunRecord:
        manners = Manners(timeout_s=PATIENCE_S, retries=100)
        running = asyncio.create_task(offer(BURST, Target(full.url), bundled(), manners))
        before = (await until(full, lambda _: True)).rejected
        await until(full, lambda reading: sum(reading.rejected.values()) > sum(before.values()))
        full.resume()
        return await running

    record = asyncio.run(come_again())
    assert ends(record) == ["succeeded"] * len(BURST)
    again = [one for one in record.outcomes if one.rejections]
    assert again
    assert all(one.latency >= 1.0 and one.attempts == len(one.rejections) + 1 for one in again)


def test_impatient_clients_cancel_what_they_leave(held: Live) -> None:
    record = run(held, BURST[:4], Manners(timeout_s=PATIENCE_S, patience_s=5.0))
    assert ends(record) == ["gave up"] * 4
    assert all(one.latency >= 5.0 for one in record.outcomes)
    assert [status_of(held, one) for one in record.outcomes] == ["canceled"] * 4
    summary = summarise(record)
    assert (summary.gave_up_share, summary.availability, summary.latency.count) == (1.0, None, 0)
    assert judge(summary, Objectives(p95_s=10.0, max_late_s=PATIENCE_S)).passed is False


def test_slow_readers_take_their_time_over_the_picture(live: Live) -> None:
    slow = run(live, BURST[:2], Manners(timeout_s=PATIENCE_S, slow_readers=1.0, slow_bytes_s=8000.0))
    assert ends(slow) == ["succeeded"] * 2
    for one in slow.outcomes:
        with live.client() as client:
            size = len(client.get(f"/v1/try-ons/{one.job}/image").content)
        assert one.slow and one.download is not None and one.download > 0.8 * size / 8000


def test_a_lost_answer_is_asked_again_under_the_same_key(live: Live) -> None:
    """A proxy that loses the first answer: the retry finds the job that was made, and there is only one."""
    before = sum(metrics(live).values())
    lost: list[bytes] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_service = await asyncio.open_connection("127.0.0.1", live.port())

        async def upload() -> None:
            while data := await reader.read(65536):
                to_service.write(data)
                await to_service.drain()

        sending = asyncio.create_task(upload())
        try:
            while data := await upstream.read(65536):
                if not lost:
                    lost.append(data)
                    return
                writer.write(data)
                await writer.drain()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            to_service.close()
            writer.close()

    async def through_the_proxy() -> RunRecord:
        async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            manners = Manners(timeout_s=PATIENCE_S, retries=3)
            return await offer([Arrival(0.0, garments=2)], Target(f"http://127.0.0.1:{port}"), bundled(), manners)

    record = asyncio.run(through_the_proxy())
    assert b"202" in lost[0]
    assert (record.outcomes[0].end, record.outcomes[0].attempts) == ("succeeded", 2)
    assert sum(metrics(live).values()) - before == 1


def test_wrong_requests_and_dead_services_have_their_own_ends(live: Live) -> None:
    refused = run(live, [Arrival(0.0, size="64x99999")])
    assert (ends(refused), refused.outcomes[0].status) == (["refused"], 422)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = Target(f"http://127.0.0.1:{unused.getsockname()[1]}")
        record = asyncio.run(offer([Arrival(0.0)], dead, bundled(), Manners(timeout_s=PATIENCE_S)))
    assert (ends(record), record.outcomes[0].code) == (["unreachable"], "ConnectError")
    assert summarise(record).availability == 0.0


def command(live: Live, folder: Path, *words: str) -> list[str]:
    base = [sys.executable, "-m", "service.cli", "loadtest", "replay", "--url", live.url, "--max-late", "60s"]
    return [*base, "--html", str(folder / "run.html"), "--json", str(folder / "run.json"), *words]


def test_the_command_writes_what_it_found_and_exits_by_its_objectives(live: Live, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("offset_s,images\n0,1\n3,2\n4,8\n")
    words = ("--trace", str(trace), "--speed", "4", "--rows", "--availability", "100%", "--p95", "60s")
    done = subprocess.run(command(live, tmp_path, *words), capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict        passed" in done.stdout
    found = json.loads((tmp_path / "run.json").read_text())
    assert [row["garments"] for row in found["rows"]] == [1, 2, 6]
    assert found["summary"]["ends"] == {"succeeded": 3}
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    missed = CliRunner().invoke(app, command(live, tmp_path, "--duration", "1s", "--p50", "1ms", "--quiet")[3:])
    assert (missed.exit_code, missed.output) == (1, "")


def test_ctrl_c_ends_with_a_report_of_what_ran(held: Live, tmp_path: Path) -> None:
    began = time.monotonic()
    running = subprocess.Popen(
        command(held, tmp_path, "--rate", "4", "--duration", "10m", "--rows"), stdout=subprocess.PIPE, text=True
    )
    try:
        with httpx.Client(trust_env=False) as client:
            while read(client.get(f"{held.url}/metrics").text, 0.0).gauges["waiting"] < 3:
                assert running.poll() is None and time.monotonic() - began < PATIENCE_S
                time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate(timeout=PATIENCE_S)
    finally:
        running.kill()
    assert running.returncode == 130, told
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["summary"]["interrupted"] is True
    rows = found["rows"]
    assert 3 <= len(rows) < found["summary"]["planned"]
    assert {row["end"] for row in rows if row["job"]} == {"unfinished"}
    with held.client() as client:
        left = {client.get(f"/v1/try-ons/{row['job']}").json()["status"] for row in rows if row["job"]}
    assert left == {"canceled"}
    assert "Ended by hand" in (tmp_path / "run.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("--duration", "soon"),
        ("--garments", "7"),
        ("--priorities", "urgent"),
        ("--sizes", "big"),
        ("--availability", "120%"),
        ("--shape", "square"),
    ],
)
def test_wrong_usage_exits_2(words: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["loadtest", "replay", *words], standalone_mode=True)
    assert result.exit_code == 2
    assert words[0] in result.output
