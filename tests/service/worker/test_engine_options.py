"""What operators may set of an engine's memory reaches the engine that a worker loads."""

from __future__ import annotations

from pathlib import Path

from engine_build.request.warm_sizes import WarmSize
from engine_build.runtime.torch_engine import TorchEngine
from service.settings import load_settings
from service.worker.main import load


def test_budgets_of_the_settings_reach_the_engine(tmp_path: Path) -> None:
    settings = load_settings(
        model="nano", device="cpu", data_dir=tmp_path, token_budget=700, graph_bytes=0, reference_cache_bytes=1 << 20,
        warm_buckets="72x96:2*3",
    )  # fmt: skip
    engine = load(settings)
    assert isinstance(engine, TorchEngine)
    assert engine.describe().token_budget == 700
    assert engine.options.warm == (WarmSize(72, 96, garments=2, requests=3),)
    assert (engine.options.graphs, engine.options.graph_bytes) == (False, 0)
    assert engine.pipeline.caches.reference_kv.max_bytes == 1 << 20
