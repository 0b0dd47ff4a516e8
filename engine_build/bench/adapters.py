"""What distinct adapters in a stream of requests cost: `make bench-adapters`.

A stream is requests of several sizes and numbers of garments, in batches as a worker forms them, each with pictures of
its own, so that no cache helps anybody. It is run without adapters and with 1, 4, 16 and 64 distinct ones, request by
request another, in one process and in turns; a figure is the median of its ratios to the run without in the same turn.
Adapters change every linear that an adapter can change: no real one costs more.

On a CPU time is that of the processor, of one thread, so that others on the machine count for little; on a GPU it is
the clock's.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from engine_build.bench.machine import machine
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import EngineError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.model.adapters import PageLayout
from engine_build.options import EngineOptions
from engine_build.runtime.torch_engine import TorchEngine, load

DISTINCT = (0, 1, 4, 16, 64)
SCALE = 0.1
Progress = Callable[[str], None]


@dataclass(frozen=True)
class AdapterBench:
    """What to run: `requests` in batches of `batch`, `steps` each, with LoRAs of `rank`, in `repeats` turns."""

    model: str = "nano"
    backend: str = "torch"
    device: str = "auto"
    dtype: str = "auto"
    requests: int = 64
    batch: int = 8
    steps: int = 2
    rank: int = 16
    repeats: int = 3
    adapter_bytes: int = 1 << 30


@dataclass(frozen=True)
class AdapterRow:
    """A stream with so many distinct adapters.

    `seconds` is its median, `throughput` its share of the try-ons a second without adapters; `loads` are copies to the
    device in the last turn.
    """

    adapters: int
    seconds: float
    tryons_per_second: float
    throughput: float
    loads: int


def run(plan: AdapterBench, progress: Progress) -> list[AdapterRow]:
    """One row a number of adapters that the stream has requests for. Raises EngineError when a try-on fails."""
    threads = torch.get_num_threads()
    engine = _engine(plan)
    on_gpu = engine.pipeline.device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="changeroom-loras-") as folder:
            counts = [n for n in DISTINCT if n <= plan.requests]
            names = _register(engine, Path(folder), max(counts), plan.rank)
            taken: dict[int, list[float]] = {n: [] for n in counts}
            loads: dict[int, int] = {}
            stream = _stream(engine, plan)
            _seconds(
                engine, [replace(one, adapters=((names[0], SCALE),)) for one in stream[: plan.batch]], plan, on_gpu
            )
            for turn in range(plan.repeats):
                for n in random.Random(turn).sample(counts, len(counts)):
                    asked = [
                        replace(one, adapters=((names[i % n], SCALE),)) if n else one for i, one in enumerate(stream)
                    ]
                    before = engine.pipeline.bank.loads if engine.pipeline.bank else 0
                    taken[n].append(_seconds(engine, asked, plan, on_gpu))
                    loads[n] = (engine.pipeline.bank.loads if engine.pipeline.bank else 0) - before
                    progress(f"turn {turn + 1}, {n} adapters: {taken[n][-1]:.2f} s")
    finally:
        torch.set_num_threads(threads)
    return [
        AdapterRow(
            adapters=n,
            seconds=median(taken[n]),
            tryons_per_second=plan.requests / median(taken[n]),
            throughput=median(none / mine for none, mine in zip(taken[0], taken[n], strict=True)),
            loads=loads[n],
        )
        for n in counts
    ]


def as_dict(plan: AdapterBench, rows: Sequence[AdapterRow], command: str) -> dict[str, Any]:
    """Everything, with the machine, versions, date and command."""
    here = machine(plan.device)
    on_gpu = here["threads"] is None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        **here,
        "threads": None if on_gpu else 1,
        "clock": "wall" if on_gpu else "processor time of one thread",
        "plan": asdict(plan),
        "rows": [asdict(row) for row in rows],
    }


def table(rows: Sequence[AdapterRow]) -> str:
    """The rows in Markdown."""
    lines = ["| distinct adapters | try-ons/s | throughput | loads |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row.adapters or 'none'} | {row.tryons_per_second:.3g} | {row.throughput:.3f} | {row.loads} |"
        for row in rows
    ]
    return "\n".join(lines)


def _engine(plan: AdapterBench) -> TorchEngine:
    options = EngineOptions(
        previews=False, latent_cache_bytes=0, reference_cache_bytes=0, adapter_bytes=plan.adapter_bytes
    )
    return load(plan.model, backend=plan.backend, device=plan.device, dtype=plan.dtype, options=options)


def _register(engine: TorchEngine, folder: Path, count: int, rank: int) -> list[str]:
    """So many random LoRAs of every linear that adapters can change, as files, registered."""
    sizes = PageLayout.of(engine.pipeline.model).sizes
    names = []
    for number in range(count):
        g = torch.Generator().manual_seed(number)
        tensors = {}
        for layer, (made, width) in sizes.items():
            tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(rank, width, generator=g) / width**0.5
            tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(made, rank, generator=g) / rank**0.5
        path = folder / f"{number}.safetensors"
        save_file(tensors, path)
        engine.register_adapter(f"adapter {number}", path)
        names.append(f"adapter {number}")
        path.unlink()
    return names


def _stream(engine: TorchEngine, plan: AdapterBench) -> list[TryOnRequest]:
    """Requests of one to three garments, drawn, by turns at the default size and at that turned on its side."""
    width, height = engine.config.default_size
    places = max(1, min(3, engine.config.max_references - 1))
    draw = random.Random(0)
    requests = []
    for number in range(plan.requests):
        garments, size = 1 + draw.randrange(places), (width, height) if number % 2 else (height, width)
        person, *worn = (_picture(size, f"{number} {i}") for i in range(1 + garments))
        told = compose([GarmentPhrase("tops")] * garments)
        dressed = tuple(replace(one, category="tops") for one in worn)
        requests.append(TryOnRequest(f"{number}", person, dressed, told, number, plan.steps, size))
    return requests


def _picture(size: tuple[int, int], name: str) -> ImageInput:
    pixels = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return ImageInput(Image.fromarray(pixels), name)


def _seconds(engine: TorchEngine, stream: Sequence[TryOnRequest], plan: AdapterBench, on_gpu: bool) -> float:
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    for i in range(0, len(stream), plan.batch):
        for outcome in engine.run(stream[i : i + plan.batch]):
            if outcome.error is not None:
                raise EngineError(f"a try-on failed: {outcome.error}") from outcome.error
    if on_gpu:
        torch.cuda.synchronize(engine.pipeline.device)
    return clock() - started
