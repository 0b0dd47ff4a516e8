"""The machine that a figure was measured on: what every file of results tells of processor, GPU and versions.

Importing this loads no torch: a process that only starts others can ask for `host` without taking GPU memory.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "triton", "diffusers", "transformers")  # that compute


def processor() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def host() -> dict[str, object]:
    """Processor, cores, operating system and Python."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def accelerator(device: str) -> dict[str, object]:
    """What torch sees of `device` (auto, cpu, cuda, cuda:N): its name, memory in bytes, CUDA, cuDNN and driver.

    Where there is no GPU, `device` is "cpu" and the architecture. Raises what torch raises for a GPU that is not here.
    """
    import torch

    there = device != "cpu" and torch.cuda.is_available()
    asked = torch.device("cuda" if device == "auto" else device)
    return {
        "device": torch.cuda.get_device_name(asked) if there else "cpu " + platform.machine(),
        "cuda_device": there,
        "memory_bytes": torch.cuda.get_device_properties(asked).total_memory if there else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if there else None,
        "driver": _driver(),
    }


def machine(device: str) -> dict[str, object]:
    """All that a bench's results tell of where they are from: `device` as `accelerator` takes it, CPU, versions.

    `threads` are torch's, None where a GPU does the work.
    """
    import torch

    found, here = accelerator(device), host()
    return {
        "device": found["device"],
        "memory_bytes": found["memory_bytes"],
        "processor": here["processor"],
        "cores": here["cores"],
        "threads": None if found["cuda_device"] else torch.get_num_threads(),
        "versions": {
            "python": here["python"],
            **versions(PACKAGES),
            **{name: found[name] for name in ("cuda", "cudnn", "driver")},
        },
    }


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
