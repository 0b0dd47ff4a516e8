"""TensorRT engines at work: one execution context a bucket, addresses bound, launches captured as CUDA graphs.

Tensors that stay the same from step to step (keys, values, RoPE tables) are copied into a capture's own
buffers only when another tensor is given, so a step costs one small copy and one graph launch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine_build.errors import BackendError, RequestError
from engine_build.model.weights import DTYPES
from engine_build.tensorrt.library import driver_version, gpu_arch, tensorrt
from engine_build.tensorrt.manifest import Manifest, digest_checkpoint
from engine_build.tensorrt.profiles import Shape, fits

CAPTURES = 16
_MOVING = frozenset({"target", "sigma"})  # other tensors, or the same ones with other values, at every step
_DTYPES = {
    "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16,
    "INT32": torch.int32, "INT64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass
class _Capture:
    """One graph of one engine at fixed shapes, with buffers of its own."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    given: dict[str, Tensor]


@dataclass
class _Loaded:
    """One engine and its contexts, one a profile."""

    engine: Any
    contexts: list[Any]
    profiles: list[dict[str, tuple[Shape, Shape, Shape]]]
    outputs: tuple[str, ...]


class EngineRunner:
    """Runs the engines of a folder. Not thread-safe; at most `CAPTURES` shapes keep their graphs and buffers."""

    def __init__(
        self, folder: Path, checkpoint: Path, device: torch.device, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Engines of `folder` for a checkpoint; `weights` of its MMDiT, by name, replace those they were built with.

        Raises BackendError for engines that do not belong here, or cannot take other weights.
        """
        self._trt = tensorrt()
        if device.type != "cuda" or not torch.cuda.is_available():
            raise BackendError("TensorRT engines need an NVIDIA GPU")
        self.folder, self.device = folder, device
        self.manifest = Manifest.load(folder)
        self.manifest.require(
            checkpoint=digest_checkpoint(checkpoint),
            tensorrt=self._trt.__version__,
            driver=driver_version(),
            arch=gpu_arch(),
        )
        if weights and not self.manifest.refit:
            raise BackendError("these engines cannot take other weights; run: changeroom engine build --refit")
        self.dtype = DTYPES[self.manifest.precision]
        self._weights = weights or {}
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        self._stream = torch.cuda.Stream(device)
        self._engines: dict[str, _Loaded] = {}
        self._captures: OrderedDict[object, _Capture] = OrderedDict()

    def run(self, graph: str, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, in memory of their own. Raises RequestError for shapes outside every bucket."""
        loaded = self._load(graph)
        given = {name: x.to(self.device).contiguous() for name, x in feeds.items()}
        shapes = {name: tuple(x.shape) for name, x in given.items()}
        key = (graph, tuple(shapes.items()))
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            if key not in self._captures:
                self._captures[key] = self._capture(graph, loaded, given, shapes)
                if len(self._captures) > CAPTURES:
                    self._captures.popitem(last=False)
            self._captures.move_to_end(key)
            capture = self._captures[key]
            for name, tensor in feeds.items():
                if name in _MOVING or capture.given.get(name) is not tensor:
                    capture.inputs[name].copy_(given[name], non_blocking=True)
                    capture.given[name] = tensor
            capture.graph.replay()
            outputs = {name: x.clone() for name, x in capture.outputs.items()}
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        for tensor in (*given.values(), *outputs.values()):
            tensor.record_stream(self._stream)
        return outputs

    def _load(self, graph: str) -> _Loaded:
        if graph not in self._engines:
            plan = self.manifest.plan(self.folder, graph).read_bytes()
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise BackendError(f"TensorRT does not load the engine {graph}; run: changeroom engine build")
            self._refit(graph, engine)
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            outputs = tuple(n for n in names if engine.get_tensor_mode(n) == self._trt.TensorIOMode.OUTPUT)
            contexts = []
            for i in range(engine.num_optimization_profiles):
                context = engine.create_execution_context()
                context.set_optimization_profile_async(i, self._stream.cuda_stream)
                contexts.append(context)
            profiles = [
                {name: (tuple(least), tuple(usual), tuple(most)) for name, (least, usual, most) in one.items()}
                for one in self.manifest.engines[graph].profiles
            ]
            self._engines[graph] = _Loaded(engine, contexts, profiles, outputs)
        return self._engines[graph]

    def _refit(self, graph: str, engine: Any) -> None:
        """Replaces the engine's weights by those of the same names, in the engine's dtype, on the host."""
        if not self._weights or not engine.refittable:
            return
        refitter = self._trt.Refitter(engine, self._logger)
        replaceable, held = set(refitter.get_all_weights()), []
        for name, tensor in self._weights.items():
            if f"model.{name}" in replaceable:
                held.append(tensor.detach().to("cpu", self.dtype).contiguous())
                kind = getattr(self._trt.DataType, _NAMES[self.dtype])
                given = self._trt.Weights(kind, held[-1].data_ptr(), held[-1].numel())
                if not refitter.set_named_weights(f"model.{name}", given):
                    raise BackendError(f"the engine {graph} does not take {name}")
        if held and not refitter.refit_cuda_engine():
            raise BackendError(f"TensorRT could not replace the weights of {graph}")

    def _capture(self, graph: str, loaded: _Loaded, given: dict[str, Tensor], shapes: dict[str, Shape]) -> _Capture:
        """Binds buffers of these shapes, runs once to settle, and records the second run."""
        suited = [i for i, profile in enumerate(loaded.profiles) if fits(shapes, profile)]
        if not suited:
            raise RequestError(
                f"no bucket of these engines ({', '.join(self.manifest.buckets)}) takes this request's sizes"
            )
        context = loaded.contexts[suited[0]]
        inputs = {name: x.clone() for name, x in given.items()}
        for name, x in inputs.items():
            if not context.set_input_shape(name, shapes[name]):
                raise BackendError(f"{graph} refuses {name} of shape {shapes[name]}")
            context.set_tensor_address(name, x.data_ptr())
        outputs = {}
        for name in loaded.outputs:
            dtype = _DTYPES[loaded.engine.get_tensor_dtype(name).name]
            outputs[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device=self.device)
            context.set_tensor_address(name, outputs[name].data_ptr())
        self._enqueue(graph, context)
        self._stream.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=self._stream):
            self._enqueue(graph, context)
        return _Capture(captured, inputs, outputs, {})

    def _enqueue(self, graph: str, context: Any) -> None:
        if not context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise BackendError(f"TensorRT could not run {graph}")
