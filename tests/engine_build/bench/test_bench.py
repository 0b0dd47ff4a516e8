"""The bench, end to end at nano's size on the CPU, and the arithmetic of its floors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from engine_build.bench import floors, subjects
from engine_build.bench.goals import goals_of
from engine_build.bench.plan import BenchPlan
from engine_build.bench.report import table
from engine_build.bench.rows import AttentionRow, Results, Row, percentiles
from engine_build.config import PRESETS, ReferenceAttention
from engine_build.errors import RequestError
from engine_build.model.autoencoder import NormSilu
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, pack
from kernels import select
from service.cli import app

MODES = ["diffusers", "diffusers + torch.compile", "torch", "triton", "torch + cached references"]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_one_command_measures_and_writes_everything(tmp_path: Path) -> None:
    chosen = [word for mode in MODES for word in ("--mode", mode)]
    command = [
        "engine",
        "bench",
        "--preset",
        "nano",
        "--device",
        "cpu",
        "--repeats",
        "2",
        "--json",
        str(tmp_path),
        *chosen,
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.glob("gpu-nano-*.json")
    found = json.loads(file.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == found
    assert found["weights"] == "nano shapes, random weights"
    assert "--device cpu" in found["command"]
    assert found["versions"]["torch"] == torch.__version__
    said = done.stderr.splitlines()
    turns = [said.index(turn) for turn in ("attention alone", *MODES[:1], *MODES[2:], "packing", MODES[1])]
    assert turns == sorted(turns)  # what compiles has its turn last
    assert list(dict.fromkeys(row["mode"] for row in found["end_to_end"])) == MODES
    rows = {(row["mode"], row["garments"]): row for row in found["end_to_end"]}
    assert set(rows) == {(mode, garments) for mode in MODES for garments in (1, 3)}
    for mode in ("diffusers", "torch", "torch + cached references"):
        for garments in (1, 3):
            row = rows[mode, garments]
            assert row["status"] == "ok"
            assert 0 < row["p20"] <= row["p50"] <= row["p80"]
            assert row["times_faster"] == pytest.approx(rows["diffusers", garments]["p50"] / row["p50"])
            assert 0 < row["floor"] < row["p50"]
    assert set(rows["torch", 1]["stages"]) == {"text", "vae_encode", "denoise", "vae_decode", "encode"}
    assert "GPU only" in rows["diffusers + torch.compile", 1]["status"]
    if not torch.cuda.is_available():
        assert rows["triton", 1]["status"].startswith("skipped: the triton kernels need")
    assert rows["torch + cached references", 3]["floor"] < rows["torch", 3]["floor"]
    assert [row["tokens"] for row in found["attention"]] == sorted({row["tokens"] for row in found["attention"]})
    for row in found["attention"]:
        assert (row["sdpa"], row["times_floor"]) == ("torch", None)  # the floor's rates are a GPU's
        assert 0 < row["floor_ms"] < row["ours_ms"]
    assert {row["requests"] for row in found["packed"]} == {1, 2}
    assert found["goals"] == []
    assert set(found["versions"]) >= {"torch", "triton", "diffusers", "transformers", "cuda", "cudnn", "driver"}
    assert all(row["images_per_second"] > 0 for row in found["packed"])


@pytest.mark.filterwarnings("ignore")
def test_backends_of_a_checkpoint_side_by_side() -> None:
    command = ["engine", "bench", "--device", "cpu", "--repeats", "1"]
    done = CliRunner().invoke(app, [*command, "--backend", "torch", "--backend", "triton"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["weights"] == "nano"
    torch_rows, triton_rows = found["end_to_end"][:2], found["end_to_end"][2:]
    assert [row["garments"] for row in torch_rows] == [1, 3]
    assert all(row["times_faster"] == 1 and row["p50"] > 0 for row in torch_rows)
    if not torch.cuda.is_available():
        assert all(row["status"].startswith("skipped: the triton kernels need") for row in triton_rows)


@pytest.mark.parametrize("mode", ["joint", "shared", "isolated"])
def test_floors_count_what_the_model_does(mode: ReferenceAttention) -> None:
    """Against torch's own count on the model, whose ends and modulation the floor leaves out."""
    shape = replace(PRESETS["nano"], reference_attention=mode)
    with torch.device("meta"):
        model = MMDiT(shape)
        shown = tuple(Reference(torch.empty(n * n, 64), torch.empty(n * n, 4, dtype=torch.long)) for n in (20, 16))
        ids = torch.empty(400, 4, dtype=torch.long)
        batch = pack([Sequence(torch.empty(112, 192), torch.empty(400, 64), ids, 1.0, shown)])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    work = floors.denoise(shape, mode, text=112, target=400, references=(400, 256), steps=1)
    counted = counter.get_total_flops()
    assert counted == pytest.approx(work.linear + work.attention, rel=0.04)


def test_floors_of_klein_at_one_megapixel() -> None:
    """4 steps at 1024x1024 with one garment of 512x512: the published shape's totals."""
    klein = PRESETS["klein-4b"]
    stock = floors.denoise(klein, "joint", text=512, target=4096, references=(4096, 1024), steps=4)
    assert stock.linear + stock.attention == pytest.approx(355e12, rel=0.05)
    known = floors.denoise(klein, "isolated", text=512, target=4096, references=(4096, 1024), steps=4, cached=True)
    assert known.seconds(floors.H200, fp8=True) < known.seconds(floors.H200) < stock.seconds(floors.H200)
    assert stock.times(2).linear == 2 * stock.linear


def test_goals_are_reached_missed_or_not_measured() -> None:
    results = Results(BenchPlan(), "klein-4b shapes, random weights")
    assert {goal.reached for goal in goals_of(results)} == {None}
    for mode, garments, p50 in (
        ("diffusers", 1, 1500.0),
        ("diffusers + torch.compile", 1, 700.0),
        ("triton", 1, 620.0),
        ("triton-tma", 1, 590.0),
        ("triton + reference KV + FP8", 1, 310.0),
        ("triton + cached references + FP8", 5, 275.0),
        ("torch", 5, 100.0),  # no goal is about it
    ):
        results.rows.append(Row(mode, 1024, 1024, garments, 9728, p50=p50))
    results.rows.append(Row("triton", 768, 1024, 1, 7680, p50=1.0))
    results.attention.append(AttentionRow(9728, "triton", 1.0, 480.0, "cuDNN", 0.8, 600.0, 0.7, 1.4))
    found = {goal.name: (goal.measured, goal.reached) for goal in goals_of(results)}
    assert found["ms, like for like, bf16, 1 garments"] == (590.0, True)
    assert found["ms, like for like, bf16, 5 garments"] == (None, None)
    assert found["ms, reference KV and FP8, 1 garments"] == (310.0, False)
    assert found["ms, cached references, 5 garments"] == (275.0, True)
    assert found["times faster than torch.compile of diffusers, like for like, 1 garments"] == (700 / 590, False)
    assert found["times faster than diffusers eager, fastest exact mode, 1 garments"] == (1500 / 590, False)
    assert found["TFLOP/s of attention alone"] == (480.0, False)
    assert "| 500 | 480 | no |" in table(results)
    other = Results(BenchPlan(preset="tstars-5b"), "tstars-5b shapes, random weights")
    other.rows.append(Row("triton + cached references", 1024, 1024, 1, 9728, p50=391.0))
    assert [goal.reached for goal in goals_of(other)] == [True, None, None]
    assert goals_of(Results(BenchPlan(), "./klein")) == []


def test_the_fast_modes_measure_the_fast_autoencoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels get an autoencoder with fused norms of its own; what diffusers is given stays as it is."""
    fused = replace(select("torch"), name="triton")
    monkeypatch.setattr(subjects, "pick_kernels", lambda _: fused)
    weights = subjects.Weights("nano", torch.device("cpu"), torch.float32)
    engine = weights.engine("isolated", "triton", fp8=False, cached=False)
    norms = [isinstance(m, NormSilu) for vae in (engine.pipeline.autoencoder.vae, weights.vae) for m in vae.modules()]
    assert sum(norms) > 10
    assert not any(isinstance(module, NormSilu) for module in weights.vae.modules())


def test_percentiles_of_few_runs() -> None:
    assert percentiles([0.004]) == (4.0, 4.0, 4.0)
    assert percentiles([0.001, 0.002, 0.003]) == pytest.approx((1.4, 2.0, 2.6))


def test_unknown_presets_and_modes_are_named() -> None:
    with pytest.raises(RequestError, match="klein-4b"):
        BenchPlan.of("klein", "cpu", 1, ())
    with pytest.raises(RequestError, match="torch \\+ cached references"):
        BenchPlan.of("nano", "cpu", 1, ("fast",))
