"""`make bench-gateway`: what everything but the engine costs, with an engine that answers at once.

Starts `changeroom up` with the null engine (one gateway process, one worker, embedded store), sends a
2-megapixel JPEG person and one garment (about 2 MB together), and reports

1. saturation: finished try-ons a second when 16 connections never pause (closed loop),
2. added latency: time to the finished try-on at half of that rate, Poisson arrivals that do not wait for
   answers (open loop), p50, p95, p99, and the mean of each stage,
3. processor milliseconds a try-on by part of the service in that second phase, where /proc tells them.

The client is a bare HTTP/1.1 writer on the same machine: its share of the cores counts against us.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, quantiles

from PIL import Image, ImageFilter

from loadtests.bench import processor_time
from loadtests.bench.local_service import PROGRAM, free_port
from loadtests.results_file import RESULTS, machine, write_json

PERSON_SIZE = (1224, 1632)
GARMENT_SIZE = (1000, 1000)
CONNECTIONS = 16
BOUNDARY = b"changeroom-bench"
LIFTED = (
    *("rate_per_minute=0", "concurrency_per_key=0", "stored_bytes_per_key=0", "store_memory_bytes=0"),
    *("max_in_flight=4096", "log_level=WARNING"),
)


@dataclass
class TimedAnswer:
    """One answered request: seconds from its planned start, its status, the server's stages in seconds."""

    seconds: float
    status: int
    stages: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """What one run found; latencies in milliseconds."""

    date: str
    machine: dict[str, object]
    upload_bytes: int
    saturation_rps: float
    offered_rps: float
    answered: int
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    stages_mean_ms: dict[str, float]
    processor_mean_ms: dict[str, float]


def photo(size: tuple[int, int], seed: int, quality: int) -> bytes:
    """A JPEG with the detail of a photograph: noise over several scales."""
    random.seed(seed)
    image = Image.new("RGB", size)
    for scale, weight in ((32, 1.0), (4, 0.5), (1, 0.25)):
        small = (max(1, size[0] // scale), max(1, size[1] // scale))
        bands = [Image.frombytes("L", small, random.randbytes(small[0] * small[1])) for _ in range(3)]
        layer = Image.merge("RGB", bands).resize(size, Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, weight)
    out = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.6)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def request_bytes(host: str, port: int) -> bytes:
    """The whole POST, ready to be written."""
    body = bytearray()
    for name, data in (("person", photo(PERSON_SIZE, 1, 95)), ("garment", photo(GARMENT_SIZE, 2, 95))):
        head = f'Content-Disposition: form-data; name="{name}"; filename="{name}.jpg"\r\n'
        body += b"--" + BOUNDARY + b"\r\n" + head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data + b"\r\n"
    for name, value in (("categories", "tops"), ("seed", "1")):
        body += b"--" + BOUNDARY + f'\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    body += b"--" + BOUNDARY + b"--\r\n"
    head = (
        f"POST /v1/try-ons HTTP/1.1\r\nHost: {host}:{port}\r\nPrefer: wait=30\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + bytes(body)


class Client:
    """Keep-alive connections to one address; each request takes a free one or opens another."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._request = request_bytes(host, port)
        self.upload_bytes = len(self._request)

    async def send(self, due: float | None = None) -> TimedAnswer:
        """One try-on; its latency counts from `due` (monotonic seconds) or from now."""
        due = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(60):
                reader, writer = await self._connection()
                writer.write(self._request)
                await writer.drain()
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                await reader.readexactly(int(headers.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return TimedAnswer(time.perf_counter() - due, 0)
        self._free.append((reader, writer))
        return TimedAnswer(time.perf_counter() - due, int(head[0].split()[1]), stages_of(headers))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A free connection the server has not closed meanwhile, or a new one."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return await asyncio.open_connection(*self._address)


def stages_of(headers: dict[str, str]) -> dict[str, float]:
    """Seconds by stage of a Server-Timing header."""
    stages = {}
    for part in headers.get("server-timing", "").split(","):
        name, _, duration = part.strip().partition(";dur=")
        if duration:
            stages[name] = float(duration) / 1000
    return stages


async def saturation(client: Client, seconds: float) -> float:
    """Finished try-ons a second with CONNECTIONS busy connections, the first tenth left out as warm-up."""
    begin = time.perf_counter()
    counted_from, end = begin + 0.1 * seconds, begin + seconds
    finished = 0

    async def busy() -> None:
        nonlocal finished
        while time.perf_counter() < end:
            answer = await client.send()
            if answer.status == 200 and counted_from <= time.perf_counter() < end:
                finished += 1

    await asyncio.gather(*(busy() for _ in range(CONNECTIONS)))
    return finished / (end - counted_from)


async def open_loop(client: Client, rate: float, seconds: float, seed: int = 7) -> list[TimedAnswer]:
    """Poisson arrivals of `rate` a second; a late server does not slow them down."""
    draw = random.Random(seed)
    due, end = time.perf_counter(), time.perf_counter() + seconds
    tasks = []
    while (due := due + draw.expovariate(rate)) < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(client.send(due)))
    return list(await asyncio.gather(*tasks))


@asynccontextmanager
async def service(port: int, data: Path) -> AsyncIterator[int]:
    """`changeroom up` with the null engine, ready to serve; its process id."""
    words = [*PROGRAM, "up", "--model", "null", "--port", str(port), "--data", str(data)]
    words += [word for setting in LIFTED for word in ("--set", setting)]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        async with asyncio.timeout(120):
            while b"serving" not in (line := await process.stdout.readline() if process.stdout else b""):
                if not line:
                    raise SystemExit("the service did not start")
        yield process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def report(
    client: Client,
    rps: float,
    offered: float,
    answers: Sequence[TimedAnswer],
    spent: Mapping[str, float],
    about: dict[str, object],
) -> Report:
    """The figures of both phases, with what `machine` said before them. Exits when next to nothing was answered."""
    good = [answer for answer in answers if answer.status == 200]
    if len(good) < 2:
        raise SystemExit(f"only {len(good)} of {len(answers)} requests were answered")
    cuts = quantiles([answer.seconds * 1000 for answer in good], n=100, method="inclusive")
    names = dict.fromkeys(name for answer in good for name in answer.stages)
    means = {name: fmean(answer.stages.get(name, 0.0) for answer in good) * 1000 for name in names}
    return Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=about,
        upload_bytes=client.upload_bytes,
        saturation_rps=round(rps, 2),
        offered_rps=round(offered, 2),
        answered=len(good),
        failed=len(answers) - len(good),
        p50_ms=round(cuts[49], 1),
        p95_ms=round(cuts[94], 1),
        p99_ms=round(cuts[98], 1),
        stages_mean_ms={name: round(value, 2) for name, value in means.items()},
        processor_mean_ms={part: round(s * 1000 / len(answers), 2) for part, s in spent.items()},
    )


def table(found: Report) -> str:
    """The figures for a terminal."""
    here = found.machine
    rows = [
        (
            "machine",
            f"{here['processor']}, Python {here['python']}, {here['cores']} cores, load before {here['load_before']}",
        ),
        ("upload", f"{found.upload_bytes / 1e6:.2f} MB"),
        ("saturation", f"{found.saturation_rps:.1f} try-ons/s"),
        (
            "offered",
            f"{found.offered_rps:.1f} try-ons/s, open loop, {found.answered} answered, {found.failed} failed",
        ),
        ("added p50 / p95 / p99", f"{found.p50_ms:.0f} / {found.p95_ms:.0f} / {found.p99_ms:.0f} ms"),
        *((f"  {name}", f"{value:.2f} ms") for name, value in found.stages_mean_ms.items()),
        ("processor a try-on", f"{sum(found.processor_mean_ms.values()):.1f} ms"),
        *((f"  {part}", f"{value:.2f} ms") for part, value in found.processor_mean_ms.items()),
    ]
    return "\n".join(f"{name:24}{value}" for name, value in rows)


async def run(seconds: float, rate: float | None = None) -> Report:
    """Both phases; the second offers `rate` try-ons a second, or half of what the first could do."""
    about = machine()
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        async with service(port, Path(data)) as process:
            client = Client("127.0.0.1", port)
            rps = await saturation(client, seconds)
            await asyncio.sleep(1)
            offered = rate or rps / 2
            before = processor_time.by_part(process)
            answers = await open_loop(client, offered, seconds)
            spent = processor_time.since(before, processor_time.by_part(process))
    return report(client, rps, offered, answers, spent, about)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each of the two phases")
    parser.add_argument("--rate", type=float, help="try-ons offered a second (default: half of saturation)")
    parser.add_argument("--json", type=Path, default=RESULTS / "gateway.json", help="where the numbers go")
    given = parser.parse_args(words)
    found = asyncio.run(run(given.seconds, given.rate))
    write_json(given.json, asdict(found))
    sys.stdout.write(table(found) + "\n" + json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
