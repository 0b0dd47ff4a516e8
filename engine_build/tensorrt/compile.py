"""ONNX to TensorRT engines: strongly typed, one optimisation profile a bucket, with a timing cache and a manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from engine_build.config import CheckpointConfig
from engine_build.errors import BackendError
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.weights import DTYPES, locate, model_config
from engine_build.request.warm_sizes import WarmSize
from engine_build.tensorrt.calibrate import calibrate
from engine_build.tensorrt.export import Exported, export_checkpoint
from engine_build.tensorrt.graphs import kinds_of
from engine_build.tensorrt.library import driver_version, gpu_arch, tensorrt
from engine_build.tensorrt.lint import check
from engine_build.tensorrt.manifest import EngineFile, Manifest, digest_checkpoint, digest_file
from engine_build.tensorrt.ports import Attention
from engine_build.tensorrt.profiles import Shape, profile, spans
from engine_build.tensorrt.quantise import quantise_file

TIMING_CACHE = "timing.cache"
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_log = logging.getLogger(__name__)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    `workspace_bytes` bounds a tactic's scratch memory, None leaves it to TensorRT; `level` is its optimisation
    effort, 0 to 5. `refit` keeps weights replaceable, for LoRA. `same_family` lets engines run on every GPU of
    the same compute capability, `version_compatible` with later TensorRT of the same major version, both
    slower.
    """

    attention: Attention = "plugin"
    dtype: str = "bfloat16"
    level: int = 3
    workspace_bytes: int | None = None
    refit: bool = False
    same_family: bool = False
    version_compatible: bool = False
    fp8: bool = False

    def __post_init__(self) -> None:
        if self.fp8 and self.refit:
            raise BackendError("FP8 weights cannot be replaced: choose --fp8 or --refit")


def build(
    model: str,
    out: Path,
    buckets: Sequence[WarmSize],
    options: BuildOptions | None = None,
    progress: Progress = _log.info,
) -> Manifest:
    """Exports, checks and builds every engine of a checkpoint into `out`, and writes its manifest.

    Raises BackendError without TensorRT or a GPU and for a graph TensorRT refuses, CheckpointError, LintError.
    """
    options = options or BuildOptions()
    trt = tensorrt()
    if not torch.cuda.is_available():
        raise BackendError("building engines needs an NVIDIA GPU; `changeroom engine verify` needs none")
    if not buckets:
        raise BackendError("no buckets were given")
    folder = locate(model)
    config, dtype = CheckpointConfig.load(folder), DTYPES[options.dtype]
    side = Autoencoder.load(folder, device=torch.device("cpu"), dtype=torch.float32).token_pixels
    sizes = [spans(bucket, config, side, dtype) for bucket in buckets]
    progress("exporting to ONNX")
    exported = export_checkpoint(folder, out / "onnx", attention=options.attention, dtype=dtype)
    if options.fp8:
        progress("calibrating FP8")
        peaks = calibrate(folder)
        for graph in exported:
            if graph.name in kinds_of(model_config(folder)):
                quantise_file(graph.path, peaks)
    engines = {}
    for graph in exported:
        check(graph.path, graph.outputs)
        profiles = [profile(graph.inputs, size) for size in sizes]
        progress(f"building {graph.name}, {len(profiles)} profiles")
        plan = out / f"{graph.name}.plan"
        plan.write_bytes(_build_plan(trt, graph, profiles, options, out / TIMING_CACHE))
        plain = [{name: [list(s) for s in shapes] for name, shapes in p.items()} for p in profiles]
        engines[graph.name] = EngineFile(plan.name, digest_file(plan), plain)
    manifest = Manifest(
        model=str(model),
        checkpoint=digest_checkpoint(folder),
        tensorrt=trt.__version__,
        driver=driver_version(),
        gpu=torch.cuda.get_device_name(),
        arch=gpu_arch(),
        attention=options.attention,
        precision=options.dtype,
        plugin=_plugin_digest(folder, options),
        buckets=[str(bucket) for bucket in buckets],
        engines=engines,
        fp8=options.fp8,
        refit=options.refit,
    )
    manifest.save(out)
    return manifest


def _build_plan(
    trt: ModuleType,
    graph: Exported,
    profiles: Sequence[dict[str, tuple[Shape, Shape, Shape]]],
    options: BuildOptions,
    timing_cache: Path,
) -> bytes:
    """One engine's bytes. Raises BackendError with the parser's first complaint, or when the build fails."""
    if options.attention == "plugin":
        from engine_build.tensorrt.plugin import register_plugins

        register_plugins()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    wanted = [trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED]
    if options.attention == "plugin":
        wanted.append(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
    network = builder.create_network(sum(1 << int(flag) for flag in wanted))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph.path)):
        first = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise BackendError(f"TensorRT does not take {graph.path}: {' '.join(first.split())}")
    config = builder.create_builder_config()
    _configure(trt, config, options)
    cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    for shapes in profiles:
        made = builder.create_optimization_profile()
        for name, (least, usual, most) in shapes.items():
            made.set_shape(name, least, usual, most)
        if config.add_optimization_profile(made) < 0:
            raise BackendError(f"TensorRT refuses a profile of {graph.name}: {shapes}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT could not build {graph.name}; its messages are above")
    timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _configure(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.same_family:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def _plugin_digest(folder: Path, options: BuildOptions) -> str | None:
    if options.attention != "plugin":
        return None
    from engine_build.tensorrt.ptx import plugin_digest

    shape = model_config(folder)
    return plugin_digest(_PRECISIONS[options.dtype], shape.num_attention_heads, shape.attention_head_dim, gpu_arch())
