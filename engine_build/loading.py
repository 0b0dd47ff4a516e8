"""A checkpoint folder to a pipeline on a device: every part read strictly, every choice made openly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from engine_build.autoencoder import Autoencoder
from engine_build.config import CheckpointConfig, ReferenceAttention
from engine_build.errors import BackendError, CheckpointError, RequestError
from engine_build.lora import LoraSet, read_lora
from engine_build.pipeline import Pipeline
from engine_build.reference_cache import Caches
from engine_build.sampling import Schedule
from engine_build.text_encoder import TextEncoder
from engine_build.weights import DTYPES, load_model
from kernels import BackendUnavailable, Kernels, select


def load_pipeline(
    folder: Path,
    *,
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    caches: Caches,
    reference_attention: ReferenceAttention | None = None,
    loras: Sequence[tuple[Path, float]] = (),
) -> Pipeline:
    """All parts of a checkpoint folder, its weights changed by LoRA files with their strengths.

    Raises CheckpointError for the first part or LoRA that does not fit.
    """
    config = CheckpointConfig.load(folder)
    model = load_model(folder, device=device, dtype=dtype, reference_attention=reference_attention, kernels=kernels)
    adapters = LoraSet(model)
    for i, (path, strength) in enumerate(loras):
        adapters.add(f"{i}:{path.name}", read_lora(path), strength)
    if loras:
        adapters.merge()
    pipeline = Pipeline(
        model=model,
        autoencoder=Autoencoder.load(folder, device=device, dtype=dtype),
        text_encoder=TextEncoder.load(folder, config, device=device, dtype=dtype),
        schedule=Schedule.load(folder),
        caches=caches,
        checkpoint_id=fingerprint(folder, loras),
    )
    side, canvas = pipeline.autoencoder.token_pixels, config.garment_canvas or (0, 0)
    if any(edge % side for edge in (*config.default_size, *canvas)):
        raise CheckpointError(f"{folder}: default_size and garment_canvas must be multiples of {side} pixels")
    return pipeline


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
    """`auto` is bfloat16 on a GPU and float32 on a CPU. Raises RequestError for an unknown name."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise RequestError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]
