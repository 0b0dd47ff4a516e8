"""Random hostile input for as long as you like: python tests/abuse/fuzz.py --minutes 60

Three parts share the time: `pictures` go through the decoders of a gateway, `requests` to a real service over HTTP,
`queue` is the model-based test of the queue with more examples. What fails is written to a folder, one file each with
the reason beside it; the exit code is 1 then. A seed printed at the start repeats the same pictures and requests.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile_pictures
import hostile_requests
from besieged import Besieged
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service.errors import ServiceError
from service.pictures.pool import ImagePool

ROOT = Path(__file__).parents[2]
PARTS = ("pictures", "requests", "queue")
ROUND = 200
AT_ONCE = 8


class Findings:
    """Counts, and the folder that failing inputs go to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tried = dict.fromkeys(PARTS, 0)
        self.failed = 0

    def add(self, name: str, data: bytes, reason: str) -> None:
        self.failed += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.bin").write_bytes(data)
        (self.folder / f"{name}.txt").write_text(reason + "\n")


async def fuzz_pictures(seed: int, found: Findings) -> None:
    """Damaged pictures: a photo or a refusal, and a decoder that lives on."""
    async with ImagePool(workers=1) as pool:
        for name, data in hostile_pictures.mutants(seed, ROUND):
            before = pool.processes()
            try:
                await pool.decode(data)
            except ServiceError as error:
                if error.status not in (413, 415, 422) and error.code != "decoder-busy":
                    found.add(name, data, f"{error.status} {error.code}: {error.detail}")
                elif pool.processes() != before and error.code != "decoder-busy":
                    found.add(name, data, f"ended its decoder: {error.code}")
            except Exception as error:
                found.add(name, data, repr(error))
            found.tried["pictures"] += 1


def fuzz_requests(seed: int, found: Findings, besieged: Besieged) -> None:
    """Damaged requests: an answer that is not ours to blame, and a service that lives on."""

    def one(mutant: tuple[str, bytes]) -> None:
        name, request = mutant
        try:
            wrong = hostile_requests.wrong_with(hostile_requests.asked(besieged, request))
        except OSError as error:
            wrong = f"no end: {error!r}"
        if wrong:
            found.add(name, request, wrong)
        found.tried["requests"] += 1

    batch = list(hostile_requests.mutants(seed, ROUND))
    try:
        with besieged.siege(), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, batch))
    except AssertionError as error:
        found.add(f"siege-seed{seed}", b"\n\n".join(request for _, request in batch), f"after a round: {error}")


def fuzz_queue(seed: int, found: Findings) -> None:
    """Interleavings of the queue against its model."""
    words = ["tests/service/jobs/test_queue_model.py", "--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", *words], cwd=ROOT, capture_output=True, check=False)
    if ran.returncode:
        found.add(f"queue-seed{seed}", ran.stdout, "the queue is not its model; the steps are in the file beside this")
    found.tried["queue"] += 1


def fuzz(minutes: float, seed: int, parts: tuple[str, ...], found: Findings, console: Console) -> int:
    """Until the time is over, the part that had least of it goes next. Returns how many inputs failed."""
    spent = dict.fromkeys(parts, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        besieged = Besieged(Path(folder), max_in_flight=100_000, max_backlog_s=0, concurrency_per_key=0)
        try:
            if "requests" in parts:
                besieged.start(hostile_requests.PERSON, hostile_requests.SHIRT)
            rounds: dict[str, Callable[[int], None]] = {
                "pictures": lambda number: asyncio.run(fuzz_pictures(number, found)),
                "requests": lambda number: fuzz_requests(number, found, besieged),
                "queue": lambda number: fuzz_queue(number, found),
            }
            began = time.monotonic()
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=console) as progress:
                bar = progress.add_task("fuzzing", total=minutes * 60)
                while time.monotonic() - began < minutes * 60:
                    part, started = min(spent, key=lambda name: spent[name]), time.monotonic()
                    rounds[part](seed)
                    seed += 1
                    spent[part] += time.monotonic() - started
                    counts = ", ".join(f"{found.tried[name]} {name}" for name in parts)
                    progress.update(
                        bar, completed=time.monotonic() - began, description=f"{counts}, {found.failed} failed"
                    )
        finally:
            besieged.stop()
    return found.failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--into", type=Path, default=Path("runs/fuzz"), help="folder for inputs that fail")
    given = parser.parse_args()
    console = Console(highlight=False)
    console.print(f"seed {given.seed}, failing inputs go to {given.into}")
    found = Findings(given.into)
    failed = fuzz(given.minutes, given.seed, tuple(given.parts), found, console)
    counts = ", ".join(f"{found.tried[name]} {name}" for name in given.parts)
    console.print(f"{counts}: {failed} failed" + (f", see {given.into}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
