"""A checkpoint folder to a pipeline on a device: every part read strictly, every choice made openly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from engine_build.config import CheckpointConfig, ReferenceAttention
from engine_build.errors import BackendError, CheckpointError, RequestError
from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.lora import LoraSet, read_lora
from engine_build.model.mmdit import MMDiT
from engine_build.model.text_encoder import TextEncoder
from engine_build.model.weights import DTYPES, load_model
from engine_build.options import GRAPH_BYTES, EngineOptions
from engine_build.runtime.caches import Caches
from engine_build.runtime.cuda_graphs import GraphSteps, capture_cuda
from engine_build.runtime.pipeline import Pipeline
from engine_build.runtime.sampling import Schedule
from kernels import BackendUnavailable, Kernels, select
from kernels.fp8 import convert


def load_pipeline(
    folder: Path,
    *,
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    caches: Caches,
    reference_attention: ReferenceAttention | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    fp8: bool = False,
    adapter_bytes: int = 0,
) -> Pipeline:
    """All parts of a checkpoint folder, its weights changed by LoRA files with their strengths.

    With fp8 the linears of the MMDiT's blocks are quantised to e4m3 afterwards (`kernels.fp8.KEPT` are not).
    `adapter_bytes` bound the bank of adapters; there is none where not even one fits.
    Raises CheckpointError for the first part or LoRA that does not fit.
    """
    config = CheckpointConfig.load(folder)
    model = load_model(folder, device=device, dtype=dtype, reference_attention=reference_attention, kernels=kernels)
    baked = LoraSet(model)
    for i, (path, strength) in enumerate(loras):
        baked.add(f"{i}:{path.name}", read_lora(path), strength)
    baked.bake()
    if fp8:
        convert(model)
    bank = AdapterBank(model, adapter_bytes)
    pipeline = Pipeline(
        model=model,
        autoencoder=Autoencoder.load(folder, device=device, dtype=dtype, kernels=kernels),
        text_encoder=TextEncoder.load(folder, config, device=device, dtype=dtype),
        schedule=Schedule.load(folder),
        caches=caches,
        checkpoint_id=fingerprint(folder, loras),
        bank=bank if bank.places else None,
    )
    side, canvas = pipeline.autoencoder.token_pixels, config.garment_canvas or (0, 0)
    if any(edge % side for edge in (*config.default_size, *canvas)):
        raise CheckpointError(f"{folder}: default_size and garment_canvas must be multiples of {side} pixels")
    return pipeline


def graphs_of(options: EngineOptions, model: MMDiT) -> GraphSteps | None:
    """CUDA graphs for the model's steps, or None where they are not wanted or not possible.

    Raises BackendError when they were asked for and are not possible: the reference kernels choose their way
    by lengths on the host, which a graph would never look at again.
    """
    possible = model.device.type == "cuda" and model.kernels.fused
    if options.graphs and not possible:
        raise BackendError("CUDA graphs need a GPU and the triton backend")
    if not possible or options.graphs is False:
        return None
    bound = GRAPH_BYTES if options.graph_bytes is None else options.graph_bytes
    return GraphSteps(model, capture_cuda, max_bytes=bound, prefix_tokens=options.graph_prefix_tokens)


def fingerprint(folder: Path, loras: Sequence[tuple[Path, float]] = ()) -> str:
    """A name for a checkpoint's weights: its configurations, sizes and dates of its tensor files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".json":
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            stat = path.stat()
            digest.update(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}".encode())
    for path, strength in loras:
        digest.update(f"{strength} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def pick_kernels(backend: str) -> Kernels:
    """The named kernels. Raises BackendError when there are none of that name or they cannot run here."""
    try:
        return select(backend)
    except BackendUnavailable as error:
        raise BackendError(str(error)) from error


def pick_device(device: str) -> torch.device:
    """`auto` is the first GPU when there is one. Raises BackendError for a device that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"{device!r} is not a device: use auto, cpu or cuda") from error
    if picked.type not in ("cpu", "cuda"):
        raise BackendError(f"{device!r} is not supported: use auto, cpu or cuda")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"there is no {device} here: {torch.cuda.device_count()} GPUs found")
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, `fp8` bfloat16 around FP8 linears.

    Raises RequestError for an unknown name, BackendError for fp8 on a GPU that cannot multiply it.
    """
    if dtype == "fp8":
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
            raise BackendError("FP8 needs a GPU of compute capability 8.9 or newer")
        return torch.bfloat16
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise RequestError(f"dtype {dtype!r} is not one of auto, fp8, {', '.join(DTYPES)}")
    return DTYPES[dtype]
