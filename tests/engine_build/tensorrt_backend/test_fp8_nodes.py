"""FP8 by explicit Q/DQ: which products are quantised, that TensorRT takes the file, and what it costs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from graph_parity import onnx_initialisers, tiny_batch, tiny_model

from engine_build.errors import BackendError, EngineError
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.weights import NANO, load_model
from engine_build.tensorrt.calibrate import calibrate
from engine_build.tensorrt.compile import BuildOptions
from engine_build.tensorrt.export import export_dit
from engine_build.tensorrt.feeds import Feeder
from engine_build.tensorrt.graphs import DitGraph
from engine_build.tensorrt.lint import check
from engine_build.tensorrt.model import GraphMMDiT
from engine_build.tensorrt.onnx_runner import OnnxRunner
from engine_build.tensorrt.quantise import activation_peaks, kept, quantise_file

BATCH = ((7, (3, 4), ((2, 3), (4, 4))), (12, (5, 2), ((3, 3),)))
VELOCITY_BUDGET = 0.1  # relative L2; 3 mantissa bits in both factors of every product


def in_torch(model: MMDiT, batch: PackedBatch) -> torch.Tensor:
    """The velocity by the graph that is exported, before it is."""
    graph = DitGraph(model, "joint", "plugin")
    (feeds,) = Feeder(model.config, model.dtype, packed=True).pass_feeds(batch, None).steps(batch.target, batch.sigma)
    return graph(*(feeds[port.name] for port in graph.inputs))[0]


@pytest.mark.timeout(300)
def test_quantised_products_stay_within_their_budget(tmp_path: Path) -> None:
    model, batch = tiny_model("joint"), tiny_batch(*BATCH)
    graph = export_dit(model, "joint", "standard", tmp_path)
    with torch.inference_mode():
        peaks = activation_peaks(model, lambda: in_torch(model, batch))
        want = model(batch)
    linears = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not kept(n)}
    assert set(peaks) == linears
    assert quantise_file(graph.path, peaks) == len(linears)
    counts = check(graph.path, graph.outputs)
    assert counts["DequantizeLinear"] == len(linears) + counts["QuantizeLinear"]
    assert counts["QuantizeLinear"] <= len(linears)  # q, k and v read one activation
    stored = onnx.load(graph.path, load_external_data=False).graph.initializer
    eight_bits = [x for x in stored if x.data_type == onnx.TensorProto.FLOAT8E4M3FN and x.name.endswith("weight_fp8")]
    assert len(eight_bits) == len(linears)
    with torch.inference_mode():
        got = GraphMMDiT(model.config, OnnxRunner(tmp_path), "standard")(batch)
    error = float((got - want).norm() / want.norm())
    assert 1e-4 < error < VELOCITY_BUDGET


def test_bfloat16_weights_and_scales_keep_the_graph_strongly_typed(tmp_path: Path) -> None:
    model = tiny_model("joint")
    with torch.inference_mode():
        peaks = activation_peaks(model, lambda: in_torch(model, tiny_batch(*BATCH)))
    graph = export_dit(model.to(torch.bfloat16), "joint", "plugin", tmp_path)
    weights = {dtype for name, dtype in onnx_initialisers(graph.path).items() if name.startswith("model.")}
    assert weights == {onnx.TensorProto.BFLOAT16}
    quantise_file(graph.path, peaks)
    check(graph.path, graph.outputs)
    scales = [x for x in onnx.load(graph.path, load_external_data=False).graph.initializer if x.name.endswith("_scale")]
    assert {x.data_type for x in scales} == {onnx.TensorProto.BFLOAT16}


def test_drawn_people_reach_every_linear_of_nano() -> None:
    peaks = calibrate(NANO, device="cpu", people=1)
    model = load_model(NANO)
    linears = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not kept(n)}
    assert set(peaks) == linears
    assert all(0 < peak < 1e4 for peak in peaks.values())


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(EngineError, match="saw no activations"):
        activation_peaks(tiny_model("joint"), lambda: None)
    with pytest.raises(BackendError, match="--fp8 or --refit"):
        BuildOptions(fp8=True, refit=True)
