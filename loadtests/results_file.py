"""Files of results: where they lie, what each carries of the machine it was measured on, how one is written."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("changeroom", "torch", "fastapi", "uvicorn", "redis", "httpx", "pillow")


def machine(packages: Iterable[str] = PACKAGES) -> dict[str, object]:
    """Processor, cores, system, Python, versions of `packages` (None: not installed), and the load at this moment.

    Call it before a measurement: `load_before` is the machine's other work (its load average of one minute).
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "load_before": round(os.getloadavg()[0], 2),
    }


def write_json(path: Path, found: object) -> None:
    """Write `found` for people and programs, making the folders above. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown CPU"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
