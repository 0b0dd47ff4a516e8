"""The memory plan: counted right, small enough for one H200, made to fit or refused in one line."""

from __future__ import annotations

import pytest
import torch
from tiny import count_parameters
from torch import nn
from typer.testing import CliRunner

from engine_build.config import PRESETS
from engine_build.errors import CheckpointError, MemoryShortage, RequestError
from engine_build.memory.activations import peak
from engine_build.memory.plan import H200, MemoryPlan, fit, make_plan
from engine_build.model.shapes import parts_of
from engine_build.options import GPU_TOKEN_BUDGET, EngineOptions
from engine_build.runtime import torch_engine
from service.cli import app

CATALOGUE = EngineOptions(reference_cache_bytes=32 << 30)


def planned(name: str, dtype: str, options: EngineOptions | None = None) -> MemoryPlan:
    return make_plan(parts_of(name), dtype=dtype, backend="triton", options=options or EngineOptions())


@pytest.mark.parametrize("name", ["klein-4b", "tstars-5b"])
@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
def test_one_h200_holds_it(name: str, dtype: str) -> None:
    plan = planned(name, dtype, CATALOGUE)
    assert 20 << 30 < plan.bytes < H200
    weights = plan.rows[0].bytes
    parameters = count_parameters(PRESETS[name])
    if dtype == "bfloat16":
        assert weights == 2 * parameters
    else:
        assert parameters < weights < 1.1 * parameters
    names = {row.name for row in plan.rows}
    assert ("reference KV cache" in names) == (name == "tstars-5b")


def test_fewer_tokens_fewer_activations() -> None:
    plans = (planned("klein-4b", "bfloat16", EngineOptions(token_budget=n)) for n in (14_336, 49_152))
    small, large = (row.bytes for plan in plans for row in plan.rows if row.name == "activations")
    assert 2 < large / small < 6


def test_the_peak_is_of_what_lives_at_once() -> None:
    layer = nn.Linear(4, 4, bias=False, device="meta")

    def work() -> None:
        x = torch.empty(1000, 4, device="meta")  # 16,000 bytes
        for _ in range(3):
            x = layer(x)
        del x
        torch.empty(100, device="meta")

    assert peak(layer, work) == 32_000


def test_it_is_made_to_fit_or_refused() -> None:
    options, plan = fit("klein-4b", dtype="bfloat16", backend="triton", options=EngineOptions(), free=24 << 30)
    assert options.token_budget < GPU_TOKEN_BUDGET
    assert plan.bytes <= 24 << 30
    roomy, _ = fit("klein-4b", dtype="bfloat16", backend="triton", options=EngineOptions(), free=H200)
    assert roomy.token_budget == GPU_TOKEN_BUDGET
    with pytest.raises(MemoryShortage, match=r"klein-4b needs .* GiB .* 8\.0 are free .*text encoder") as caught:
        fit("klein-4b", dtype="bfloat16", backend="triton", options=EngineOptions(), free=8 << 30)
    assert "\n" not in str(caught.value)
    with pytest.raises(MemoryShortage):
        fit("klein-4b", dtype="auto", backend="triton", options=EngineOptions(token_budget=49_152), free=24 << 30)


def test_an_engine_asks_the_plan_before_it_loads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 29, 1 << 30))
    monkeypatch.setattr(torch_engine, "load_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(MemoryShortage, match=r"nano needs .* GiB .* 0\.5 are free"):
        torch_engine.load("nano", device="cuda")


def test_the_command_prints_it() -> None:
    printed = CliRunner().invoke(app, ["weights", "plan", "nano", "--memory", "40"])
    assert printed.exit_code == 0, printed.output
    for word in ("MMDiT", "CUDA graphs", "activations", "together", "of 40 GiB", "tokens to a forward"):
        assert word in printed.output


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(RequestError, match="int4"):
        planned("klein-4b", "int4")
    with pytest.raises(CheckpointError, match="nowhere"):
        planned("nowhere", "auto")
