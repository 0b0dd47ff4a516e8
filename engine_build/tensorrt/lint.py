"""What can be known of an ONNX file without a GPU: that it is valid, that its shapes follow, that TensorRT takes it.

The operators and dtypes TensorRT's parser takes are in `supported_operators.json`, with where that list is from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, shape_inference

from engine_build.errors import EngineError
from engine_build.tensorrt.operators import DOMAIN, PACKED, PREFIXED, schema
from engine_build.tensorrt.ports import Port

LIST = Path(__file__).parent / "supported_operators.json"
_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.BOOL: "BOOL",
}
_CONSTANT_INPUTS = {"Squeeze": 1, "Unsqueeze": 1, "ReduceMean": 1, "ReduceSum": 1, "ReduceMax": 1, "ReduceMin": 1}


class LintError(EngineError):
    """An ONNX file that TensorRT could not take; the message names the first places."""


@dataclass(frozen=True)
class Supported:
    """The parser's list: operator to dtypes, for a version of TensorRT and a range of opsets."""

    tensorrt: str
    opsets: tuple[int, int]
    operators: dict[str, frozenset[str]]


@cache
def supported() -> Supported:
    """The checked-in list."""
    values = json.loads(LIST.read_text(encoding="utf-8"))
    operators = {name: frozenset(dtypes) for name, dtypes in values["operators"].items()}
    return Supported(values["tensorrt"], tuple(values["opsets"]), operators)


def check(path: Path, outputs: tuple[Port, ...] = ()) -> dict[str, int]:
    """Validates one file and returns its operators with their counts.

    ONNX's checker with full checks, strict shape inference, the expected rank of every output, then `lint`.
    Raises LintError for the first of these that does not hold.
    """
    _register_schemas()
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise LintError(f"{path}: {' '.join(str(error).split())}") from error
    found = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred.graph.output}
    for port in outputs:
        if found.get(port.name) != len(port.axes):
            raise LintError(f"{path}: output {port.name} has {found.get(port.name)} axes, not {len(port.axes)}")
    problems = lint(inferred)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise LintError(f"{path}: TensorRT {supported().tensorrt} cannot take it: {'; '.join(problems[:3])}{more}")
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def lint(model: ModelProto) -> list[str]:
    """One line for everything in a shape-inferred model that TensorRT's parser does not take."""
    known, problems = supported(), []
    for used in model.opset_import:
        if used.domain in ("", "ai.onnx") and not known.opsets[0] <= used.version <= known.opsets[1]:
            problems.append(f"opset {used.version} is outside {known.opsets[0]} to {known.opsets[1]}")
    if model.functions:
        problems.append("model-local functions would hide the plugins behind them")
    dtypes, constants = _dtypes(model.graph), _constants(model.graph)
    ranks = _ranks(model.graph)
    for node in _nodes(model.graph):
        label = f"{node.op_type} {node.name!r}"
        if node.domain == DOMAIN:
            if node.op_type not in (PACKED, PREFIXED):
                problems.append(f"{label}: there is no such plugin")
            continue
        if node.domain not in ("", "ai.onnx") or node.op_type not in known.operators:
            problems.append(f"{label}: operator {node.domain or 'ai.onnx'}.{node.op_type} is not supported")
            continue
        allowed = known.operators[node.op_type]
        first = dtypes.get(node.input[0]) if node.input else None
        if first is not None and _DTYPES.get(first, "?") not in allowed:
            problems.append(f"{label}: {TensorProto.DataType.Name(first)} is not among {', '.join(sorted(allowed))}")
        problems += [f"{label}: {text}" for text in _restrictions(node, constants, ranks)]
    return problems


def _restrictions(node: NodeProto, constants: set[str], ranks: dict[str, int]) -> Iterator[str]:
    """The parser's own conditions on operators that these graphs use."""
    given = [name for name in node.input if name]
    if node.op_type == "Attention":
        if len(given) > 4:
            yield "past keys and values are not supported"
        if any(ranks.get(name, 4) != 4 for name in given):
            yield "queries, keys, values and mask must have four axes"
        if len([name for name in node.output if name]) > 1:
            yield "only the first output is supported"
    if node.op_type == "LayerNormalization" and len([name for name in node.output if name]) > 1:
        yield "only the first output is supported"
    at = _CONSTANT_INPUTS.get(node.op_type)
    if at is not None and len(node.input) > at and node.input[at] not in constants:
        yield "its axes must be constant"
    if node.op_type == "Resize" and any(a.name == "antialias" and a.i for a in node.attribute):
        yield "antialiasing is not supported"


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _dtypes(graph: GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    return {x.name: x.data_type for x in graph.initializer} | {v.name: v.type.tensor_type.elem_type for v in values}


def _ranks(graph: GraphProto) -> dict[str, int]:
    values = [v for v in (*graph.input, *graph.output, *graph.value_info) if v.type.tensor_type.HasField("shape")]
    found = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
    return {x.name: len(x.dims) for x in graph.initializer} | found


def _constants(graph: GraphProto) -> set[str]:
    made = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return made | {x.name for x in graph.initializer}


@cache
def _register_schemas() -> None:
    """Tells onnx about our operators, so that its checker checks our nodes too."""
    for name in (PACKED, PREFIXED):
        onnx.defs.register_schema(schema(name))
