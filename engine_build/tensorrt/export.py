"""Checkpoints to ONNX: every graph a backend needs, with sizes that vary, weights under their own names.

Weights keep their names in the checkpoint, behind the part's module name, so that a LoRA can be refitted into a
built engine by name. Graphs are strongly typed: what is bfloat16 in the file is bfloat16 in the engine.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx_ir
import torch
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass
from onnxscript.optimizer import fold_constants
from torch import Tensor
from torch.export import ExportedProgram

from engine_build.config import CheckpointConfig
from engine_build.errors import EngineError
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.mmdit import MMDiT
from engine_build.model.text_encoder import TextEncoder
from engine_build.model.weights import load_model
from engine_build.tensorrt.graphs import DitGraph, kinds_of
from engine_build.tensorrt.operators import translations
from engine_build.tensorrt.part_graphs import TextGraph, VaeDecoderGraph, VaeEncoderGraph
from engine_build.tensorrt.ports import Attention, Graph, Kind, Port

OPSET = 23
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """One ONNX file and what goes in and out of it."""

    name: str
    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def export_checkpoint(
    folder: Path, out: Path, *, attention: Attention = "plugin", dtype: torch.dtype = torch.float32
) -> list[Exported]:
    """Writes `NAME.onnx` for the graphs of a checkpoint: its DiT kinds, text, vae_encoder, vae_decoder.

    Raises CheckpointError for a checkpoint that does not load.
    """
    out.mkdir(parents=True, exist_ok=True)
    config, cpu = CheckpointConfig.load(folder), torch.device("cpu")
    model = load_model(folder, dtype=dtype)
    exported = [export_dit(model, kind, attention, out) for kind in kinds_of(model.config)]
    del model
    text = TextEncoder.load(folder, config, device=cpu, dtype=dtype)
    exported.append(export_graph("text", TextGraph(text.model, config.text_layers), out, dtype))
    del text
    vae = Autoencoder.load(folder, device=cpu, dtype=dtype).vae
    exported.append(export_graph("vae_encoder", VaeEncoderGraph(vae), out, dtype))
    exported.append(export_graph("vae_decoder", VaeDecoderGraph(vae), out, dtype))
    return exported


def export_dit(model: MMDiT, kind: Kind, attention: Attention, out: Path) -> Exported:
    """One graph of an MMDiT on the CPU, in its own dtype."""
    return export_graph(kind, DitGraph(model, kind, attention), out, model.dtype)


def export_graph(name: str, graph: Graph, out: Path, dtype: torch.dtype) -> Exported:
    """`out/NAME.onnx`, with weights of more than 1 MiB altogether in `NAME.onnx.data` beside it.

    Raises EngineError for a graph that holds for the sizes of its example alone.
    """
    path = out / f"{name}.onnx"
    example = _example(graph.inputs, dtype)
    dynamic = tuple(
        {i: torch.export.Dim.AUTO for i, axis in enumerate(port.axes) if isinstance(axis, str)} for port in graph.inputs
    )
    named = isinstance(graph, DitGraph)
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        traced = torch.export.export(
            graph.eval(), example, dynamic_shapes=(dynamic,) if named else dynamic, strict=False
        )
        require_varying(name, traced, graph.inputs, graph.outputs)
        exported = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            verbose=False,
            optimize=False,
        )
        program = cast("torch.onnx.ONNXProgram", exported)  # None without dynamo
        _tidy(program.model)
    for port, value in zip(
        (*graph.inputs, *graph.outputs), (*program.model.graph.inputs, *program.model.graph.outputs), strict=True
    ):
        value.shape = _ir_shape(port)
    program.model.producer_name = "changeroom"
    size = sum(x.numel() * x.element_size() for x in graph.parameters())
    program.save(path, external_data=size > 1 << 20)
    _log.info("exported %s", path)
    return Exported(name, path, graph.inputs, graph.outputs)


def require_varying(name: str, traced: ExportedProgram, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
    """Raises EngineError for an axis that ought to vary and was traced as a number, or as the same as another.

    `Dim.AUTO` takes what a trace assumed without a word, and the names in the file would still say that it varies.
    """
    nodes = {node.name: node for node in traced.graph.nodes}
    symbols: dict[object, str] = {}
    given = ((True, inputs, traced.graph_signature.user_inputs), (False, outputs, traced.graph_signature.user_outputs))
    for is_input, ports, names in given:
        for port, node in zip(ports, names, strict=True):
            for axis, size in zip(port.axes, nodes[node].meta["val"].shape, strict=True):
                if not isinstance(axis, str):
                    continue
                if not isinstance(size, torch.SymInt) or size.node.maybe_as_int() is not None:
                    raise EngineError(f"{name}: axis {axis} of {port.name} was traced as {size}, not as a size")
                symbol = size.node.expr
                if is_input and symbols.setdefault(symbol, axis) != axis:
                    raise EngineError(f"{name}: axis {axis} of {port.name} was traced as equal to {symbols[symbol]}")


def _example(ports: tuple[Port, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Inputs that fit each other: two sequences of unequal lengths where a graph takes several."""
    dtypes = {"float32": torch.float32, "model": dtype, "int32": torch.int32, "int64": torch.int64, "bool": torch.bool}
    sizes = _SIZES | {"Ti": _SIZES["L"] + _SIZES["P"]}
    if not any(port.name == "references" for port in ports):
        sizes["Ti"] = sizes["L"]
    sizes["T"] = sizes["Lt"] + sizes["Ti"]
    made = []
    for port in ports:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes]
        if port.name in _BOUNDS:
            last = {"cu_seqlens": sizes["T"], "target_cu": sizes["L"]}.get(port.name, sizes["P"])
            made.append(torch.tensor([*_BOUNDS[port.name], last], dtype=torch.int32))
        else:
            made.append(torch.ones(shape, dtype=dtypes[port.dtype]))
    return tuple(made)


_SIZES = {
    "L": 21, "Lt": 13, "P": 18, "N": 2, "N1": 3, "M1": 3, "R1": 4, "G": 5, "Gt": 4, "Gr": 6,
    "B": 2, "Y": 64, "X": 96, "y": 16, "x": 24,
}  # fmt: skip
_BOUNDS = {"cu_seqlens": (0, 10), "target_cu": (0, 8), "prefix_cu": (0, 7), "reference_cu": (0, 7, 11)}


def _ir_shape(port: Port) -> onnx_ir.Shape:
    return onnx_ir.Shape(port.axes)


def _tidy(model: onnx_ir.Model) -> None:
    """Folds constants and drops what is left over; TensorRT does the rest, and rewriting patterns takes longest."""
    fold_constants(model, onnx_shape_inference=False)
    for tidy in (RemoveUnusedNodesPass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass):
        tidy()(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about operators of packages that are not installed, which nobody asked for."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
