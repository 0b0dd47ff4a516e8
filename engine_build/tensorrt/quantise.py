"""FP8 in a strongly typed network: explicit Quantise/Dequantise pairs around the linears of the blocks.

TensorRT has no FP8 mode to switch on; it runs a product in e4m3 where both factors come out of a DequantizeLinear. A
weight is stored in e4m3 with a scale a row; an activation gets one scale, from the largest value seen while a
few pictures were made. What stays in the model's dtype is `kernels.fp8.KEPT`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engine_build.errors import EngineError
from engine_build.model.mmdit import MMDiT
from kernels.fp8 import E4M3_MAX, KEPT, SMALLEST

_PREFIX = "model."
_FLOATS: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}


def activation_peaks(model: MMDiT, exercise: Callable[[], object]) -> dict[str, float]:
    """The largest magnitude that enters each linear to be quantised, by module name, while `exercise` runs.

    Raises EngineError when a linear saw nothing.
    """
    peaks: dict[str, Tensor] = {}
    hooks = []
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not kept(name)]
    for name in names:

        def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            peak = inputs[0].detach().abs().amax().float()
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        hooks.append(model.get_submodule(name).register_forward_pre_hook(note))
    try:
        exercise()
    finally:
        for hook in hooks:
            hook.remove()
    unseen = [name for name in names if name not in peaks]
    if unseen:
        raise EngineError(f"{len(unseen)} linears saw no activations, {unseen[0]} first: calibrate with references")
    return {name: float(peak) for name, peak in peaks.items()}


def kept(name: str) -> bool:
    """Whether a module stays in the model's dtype."""
    return name.startswith(tuple(beginning for beginning, _ in KEPT))


def quantise_file(path: Path, peaks: Mapping[str, float]) -> int:
    """Rewrites an exported DiT graph in place; returns how many products are FP8 now.

    Raises EngineError for a graph without any linear that was calibrated.
    """
    model = onnx.load(path)
    graph = model.graph
    weights = {x.name: x for x in graph.initializer}
    nodes: list[NodeProto] = []
    seen: dict[str, str] = {}
    done = 0
    for node in graph.node:
        name = _linear(node)
        if name is not None and name in peaks:
            activation, weight = node.input[0], weights.pop(node.input[1], None)
            if weight is None:
                raise EngineError(f"{path}: {name} is used twice")
            scaled = _quantised_weight(weight)
            graph.initializer.remove(weight)
            graph.initializer.extend(scaled)
            nodes.append(_dequantise(weight.name, [x.name for x in scaled]))
            key = f"{activation}@{peaks[name]:.9g}"
            if key not in seen:
                seen[key] = f"{activation}_fp8_{len(seen)}"
                nodes += _round_trip(activation, seen[key], peaks[name], weight.data_type, graph)
            node.input[0], node.input[1] = seen[key], f"{weight.name}_dequantised"
            done += 1
        nodes.append(node)
    if not done:
        raise EngineError(f"{path} has no linear to quantise")
    del graph.node[:]
    graph.node.extend(nodes)
    data = path.with_suffix(".onnx.data")
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    return done


def _linear(node: NodeProto) -> str | None:
    """The module of a product with a weight, or None for any other node."""
    if node.op_type != "Gemm" or not node.input[1].startswith(_PREFIX):
        return None
    weight: str = node.input[1]
    return weight.removeprefix(_PREFIX).removesuffix(".weight")


def _quantised_weight(weight: TensorProto) -> list[TensorProto]:
    """`(M, D)` as e4m3 and a scale for each of M rows in the weight's own dtype."""
    values = torch.from_numpy(np.array(numpy_helper.to_array(weight), dtype=np.float32))
    scales = values.abs().amax(dim=1).clamp(min=SMALLEST) / E4M3_MAX
    rounded = (values / scales[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    stored = helper.make_tensor(
        f"{weight.name}_fp8", TensorProto.FLOAT8E4M3FN, list(values.shape), rounded.view(torch.uint8).numpy().tobytes(),
        raw=True,
    )  # fmt: skip
    return [stored, _floats(f"{weight.name}_scale", scales, weight.data_type)]


def _dequantise(name: str, inputs: list[str]) -> NodeProto:
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantised"], name=f"dequantise_{name}", axis=0)


def _round_trip(source: str, target: str, peak: float, dtype: int, graph: onnx.GraphProto) -> list[NodeProto]:
    """An activation through e4m3 and back, at one scale."""
    scale = _floats(f"{target}_scale", torch.tensor(max(peak, SMALLEST) / E4M3_MAX), dtype)
    zero = helper.make_tensor(f"{target}_zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    graph.initializer.extend([scale, zero])
    return [
        helper.make_node("QuantizeLinear", [source, scale.name, zero.name], [f"{target}_q"], name=f"quantise_{target}"),
        helper.make_node("DequantizeLinear", [f"{target}_q", scale.name], [target], name=f"dequantise_{target}"),
    ]


def _floats(name: str, values: Tensor, dtype: int) -> TensorProto:
    """A constant in FLOAT, FLOAT16 or BFLOAT16."""
    stored = values.to(_FLOATS[dtype]).contiguous()
    words = stored if dtype == TensorProto.FLOAT else stored.view(torch.int16)
    return helper.make_tensor(name, dtype, list(values.shape), words.numpy().tobytes(), raw=True)
