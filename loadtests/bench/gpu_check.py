"""`make gpu-check`: everything that only a machine with a GPU can tell, in one command and one file.

Its parts run one after another, each in processes of its own, so that what fails is written down and the rest goes on:

    tests       tests/gpu, and the kernels' tests compiled instead of interpreted
    klein-4b    `changeroom engine bench` of that preset, within a number of minutes; so tstars-5b and nano
    tensorrt    engines of nano built and compared with torch; skipped where TensorRT is not installed

The file is `gpu-check-DEVICE-DATE.json`. A part that is run again on the same day replaces its own entry there, so
that a machine lent for minutes at a time can do them one by one: `make gpu-check PARTS=tests,klein-4b`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loadtests.results_file import RESULTS, machine, write_json

ROOT = Path(__file__).parents[2]
PRESETS = ("klein-4b", "tstars-5b", "nano")
PARTS = ("tests", "klein-4b", "tstars-5b", "tensorrt")
TESTS = (
    "tests/gpu",
    "tests/kernels/test_triton_numerics.py",
    "tests/kernels/test_triton_model.py",
    "tests/kernels/test_triton_operators.py",
    "tests/engine_build/runtime/test_neighbours.py",
)
SPARE_S = 600  # beyond a part's minutes: loading, compiling, the case that was under way
PACKAGES = ("torch", "triton", "diffusers", "transformers", "tensorrt")
ASK = (
    "import json, sys; from engine_build.bench.machine import accelerator; print(json.dumps(accelerator(sys.argv[1])))"
)


@dataclass(frozen=True)
class Done:
    """One finished process: its exit status (None when it took too long), seconds, and the end of what it said."""

    status: int | None
    seconds: float
    said: str

    @property
    def verdict(self) -> str:
        if self.status is None:
            return "failed: took too long"
        return "ok" if self.status == 0 else f"failed: exit status {self.status}"


def call(command: Sequence[str], timeout_s: float) -> Done:
    """Runs a command in the repository; output goes to the terminal's log as one tail."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            status: int | None = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        log.seek(max(0, log.seek(0, 2) - 4000))
        return Done(status, round(time.monotonic() - started, 1), log.read())


def changeroom(*words: str, timeout_s: float) -> Done:
    """A `changeroom` command of this checkout."""
    return call([sys.executable, "-m", "service.cli", *words], timeout_s)


def device_here(device: str) -> dict[str, Any]:
    """Name, memory and driver of `device`, asked in a process of its own, and whether TensorRT is installed.

    Raises RuntimeError when torch cannot be asked.
    """
    asked = subprocess.run([sys.executable, "-c", ASK, device], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode != 0:
        raise RuntimeError(f"torch does not start: {asked.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    return {**found, "tensorrt_here": find_spec("tensorrt") is not None}


def run_tests(scratch: Path, minutes: float, on_gpu: bool, paths: Sequence[str] = TESTS) -> dict[str, Any]:
    """The GPU tests: how many passed, failed and were skipped, and which failed with what.

    On a GPU it is a failure when all of them were skipped: a package is missing there.
    """
    report = scratch / "tests.xml"
    options = ["-q", "-p", "no:cacheprovider", "--timeout", "900", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *paths]
    done = call(command, minutes * 60 + SPARE_S)
    entry: dict[str, Any] = {"status": done.verdict, "seconds": done.seconds}
    if report.is_file():
        cases = list(ET.parse(report).getroot().iter("testcase"))
        failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = sum(case.find("skipped") is not None for case in cases)
        entry |= {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": [_why(c) for c in failed]}
        if done.status == 0 and skipped == len(cases):
            entry["status"] = f"{'failed' if on_gpu else 'skipped'}: no test could run here"
    return entry if entry["status"] == "ok" else entry | {"said": done.said}


def _why(case: ET.Element) -> str:
    problem = case.find("failure") if case.find("failure") is not None else case.find("error")
    said = "" if problem is None else " ".join((problem.get("message") or "").split())[:200]
    return f"{case.get('classname')}::{case.get('name')}: {said}"


def run_bench(preset: str, scratch: Path, minutes: float, device: str) -> dict[str, Any]:
    """One preset's bench; what it had written when it failed is kept. It failed, too, when any of its rows did."""
    file = scratch / f"{preset}.json"
    words = ["--preset", preset, "--device", device, "--minutes", f"{minutes:g}", "--json", str(file)]
    done = changeroom("engine", "bench", *words, timeout_s=minutes * 60 + SPARE_S)
    entry: dict[str, Any] = {"status": done.verdict, "seconds": done.seconds}
    if file.is_file():
        found = entry["found"] = json.loads(file.read_text(encoding="utf-8"))
        rows = Counter(row["status"].partition(":")[0] for row in (*found["end_to_end"], *found["packed"]))
        entry["rows"] = dict(rows)
        if entry["status"] == "ok" and (rows["failed"] or not rows["ok"] + rows["not measured"]):
            entry["status"] = f"failed: {rows['failed']} rows failed, {rows['ok']} were measured"
    return entry if entry["status"] == "ok" else entry | {"said": done.said}


def run_tensorrt(scratch: Path, minutes: float, here: bool) -> dict[str, Any]:
    """nano's engines: built, then compared with torch; the first failure ends it."""
    if not here:
        return {"status": "skipped: TensorRT is not installed; run: pip install 'changeroom[tensorrt]'"}
    engines, verdict = scratch / "engines", scratch / "verdict.json"
    steps = {
        "build": ("build", "--model", "nano", "--bucket", "72x96:6*2", "--out", str(engines)),
        "verify": (
            "verify", "--model", "nano", "--backend", "tensorrt", "--out", str(engines), "--json", str(verdict),
        ),
    }  # fmt: skip
    entry: dict[str, Any] = {"status": "ok"}
    for name, words in steps.items():
        done = changeroom("engine", *words, timeout_s=minutes * 60 + SPARE_S)
        entry[name] = {"status": done.verdict, "seconds": done.seconds}
        if done.verdict != "ok":
            entry |= {"status": f"{name} {done.verdict}", "said": done.said}
            break
    if verdict.is_file():
        entry["found"] = json.loads(verdict.read_text(encoding="utf-8"))
    return entry


def check(
    parts: Sequence[str], minutes: float, out: Path, device: str = "auto", say: Callable[[str], None] = print
) -> tuple[Path, bool]:
    """Runs the parts and writes the file after each; returns it and whether none of them failed."""
    found = device_here(device) | machine(PACKAGES)
    date = datetime.now(UTC).date().isoformat()
    name = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    file = out / f"gpu-check-{name}-{date}.json"
    before = json.loads(file.read_text(encoding="utf-8"))["parts"] if file.is_file() else {}
    entries: dict[str, Any] = dict(before)
    with tempfile.TemporaryDirectory(prefix="changeroom-gpu-") as made:
        scratch = Path(made)
        for part in parts:
            say(f"{part} ...")
            try:
                if part == "tests":
                    entry = run_tests(scratch, minutes, found["cuda_device"])
                elif part == "tensorrt":
                    entry = run_tensorrt(scratch, minutes, found["tensorrt_here"])
                else:
                    entry = run_bench(part, scratch, minutes, device)
            except (OSError, ValueError, ET.ParseError) as error:
                entry = {"status": f"failed: {' '.join(str(error).split())[:200]}"}
            entries[part] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **entry}
            command = f"python -m loadtests.bench.gpu_check --parts {','.join(entries)} --minutes {minutes:g}"
            whole = {"date": date, "command": command, "machine": found, "parts": entries}
            write_json(file, whole)
            say(f"{part}: {entry['status']}")
    return file, not any(str(entries[part]["status"]).partition("failed")[1] for part in parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0 when nothing failed, 1 when something did or there is no GPU, 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of tests, {', '.join(PRESETS)}, tensorrt")
    parser.add_argument("--minutes", type=float, default=8, help="of each part; what is under way is finished")
    parser.add_argument("--device", default="auto", help="cpu rehearses it where there is no GPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the file")
    given = parser.parse_args(arguments)
    parts = [part for part in given.parts.split(",") if part]
    unknown = sorted(set(parts) - {"tests", "tensorrt", *PRESETS})
    if unknown or not parts or given.minutes <= 0:
        parser.error(f"no part {unknown[0]!r}" if unknown else "give at least one part and some minutes")
    if given.device != "cpu" and not device_here(given.device)["cuda_device"]:
        print("gpu-check: no CUDA device here; --device cpu --parts nano rehearses it", file=sys.stderr)
        return 1
    file, good = check(parts, given.minutes, given.out, given.device)
    print(file)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
