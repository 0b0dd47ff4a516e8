"""The lint refuses what TensorRT's parser would, and names it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, shape_inference

from engine_build.tensorrt.lint import LintError, check, lint, supported
from engine_build.tensorrt.onnx_runner import with_reference_attention
from engine_build.tensorrt.operators import PLUGIN


def model_of(*nodes: onnx.NodeProto, dtype: int = TensorProto.FLOAT, opset: int = 23) -> onnx.ModelProto:
    axes = ["T", 2, 4]
    graph = helper.make_graph(
        list(nodes), "graph",
        [helper.make_tensor_value_info("x", dtype, axes), helper.make_tensor_value_info("i", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", dtype, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid(domain, n) for domain, n in (("", opset), ("changeroom", 1), ("com.example", 1))]
    return shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def test_the_list_says_where_it_is_from_and_knows_what_is_used() -> None:
    known = supported()
    assert known.tensorrt == "10.15"
    assert known.opsets == (9, 24)
    assert {"Attention", "RMSNormalization", "GroupNormalization", "Gemm"} <= set(known.operators)
    assert "BitwiseAnd" not in known.operators


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (model_of(helper.make_node("Det", ["x"], ["y"])), "ai.onnx.Det is not supported"),
        (model_of(helper.make_node("Relu", ["x"], ["y"]), dtype=TensorProto.DOUBLE), "DOUBLE is not among"),
        (model_of(helper.make_node("Squeeze", ["x", "i"], ["y"])), "axes must be constant"),
        (model_of(helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=1, kv_num_heads=1)), "four axes"),
        (model_of(helper.make_node("Relu", ["x"], ["y"]), opset=25), "opset 25"),
        (model_of(helper.make_node("other", ["x"], ["y"], domain="changeroom")), "no such plugin"),
        (model_of(helper.make_node("Relu", ["x"], ["y"], domain="com.example")), "com.example.Relu is not supported"),
    ],
)
def test_what_tensorrt_does_not_take(model: onnx.ModelProto, complaint: str) -> None:
    problems = lint(model)
    assert len(problems) == 1
    assert complaint in problems[0]


def test_a_good_graph_passes() -> None:
    assert lint(model_of(helper.make_node("Relu", ["x"], ["y"]))) == []


def test_bodies_of_plugins_do_not_reach_tensorrt() -> None:
    node = helper.make_node("packed_attention", ["x", "x", "x", "c", "c", "t"], ["y"], domain="changeroom", **PLUGIN)
    model = with_reference_attention(model_of(node))
    assert any("model-local functions" in problem for problem in lint(model))


def test_a_file_that_onnx_refuses(tmp_path: Path) -> None:
    node = helper.make_node("packed_attention", ["x", "x"], ["y"], domain="changeroom")
    onnx.save(model_of(node), tmp_path / "wrong.onnx")
    with pytest.raises(LintError, match=r"wrong\.onnx"):
        check(tmp_path / "wrong.onnx")
