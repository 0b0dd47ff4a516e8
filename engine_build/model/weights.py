"""Checkpoints on disk: diffusers-format folders, local or from the Hugging Face hub, loaded strictly.

Only safetensors and JSON are read, so nothing in a checkpoint is ever executed. A missing, extra or
misshapen tensor is one CheckpointError that names it.
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine_build.config import CheckpointConfig, ModelConfig, ReferenceAttention, read_json
from engine_build.errors import CheckpointError
from engine_build.model.mmdit import MMDiT
from engine_build.model.tensor_files import TensorHeader, check_tensors, read_tensors, shapes_of, tensor_headers
from kernels import Kernels

NANO = Path(__file__).parents[1] / "checkpoints" / "nano"
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
HUB_PATTERNS = (
    "model_index.json",
    "changeroom.json",
    *(f"{part}/*.{suffix}" for part in PARTS for suffix in ("json", "safetensors")),
    "tokenizer/*.txt",
    "tokenizer/*.jinja",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class PartReport:
    """One folder of a checkpoint: what class it is, its parameters, stored dtypes and bytes of tensors."""

    name: str
    kind: str
    parameters: int
    dtypes: tuple[str, ...]
    bytes: int

    def __str__(self) -> str:
        size, dtypes = f"{self.bytes / 2**20:,.1f} MiB", "/".join(self.dtypes)
        return f"{self.name:<13} {self.kind}, {self.parameters:,} parameters, {dtypes}, {size}"


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint whose every tensor is there, named and shaped as its configuration says."""

    folder: Path
    model: ModelConfig
    config: CheckpointConfig
    parts: tuple[PartReport, ...]

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    def __str__(self) -> str:
        m, c = self.model, self.config
        width, height = c.default_size
        lines = [
            f"{self.folder}",
            f"{m.num_layers} double + {m.num_single_layers} single blocks, width {m.width}, "
            f"{m.num_attention_heads} heads; {c.reference_attention} reference attention, "
            f"up to {c.max_references} references, {width}x{height} in {c.default_steps} steps",
            *(str(part) for part in self.parts),
            *([c.note] if c.note else []),
            "every tensor is there and has its shape",
        ]
        return "\n".join(lines)


def locate(model: str | Path, *, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """The folder of `nano`, of a local path, or of a hub id, which is downloaded once, with progress bars.

    `cache` and `endpoint` replace the hub client's own. Raises CheckpointError when there is no such folder
    or the download fails.
    """
    if str(model) == "nano":
        model = NANO
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model} is neither a folder nor a hub id like owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(model, allow_patterns=list(HUB_PATTERNS), cache_dir=cache, endpoint=endpoint)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{model} cannot be downloaded: {' '.join(str(error).split())}") from error
    return Path(path)


def load_model(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    reference_attention: ReferenceAttention | None = None,
    kernels: Kernels | None = None,
) -> MMDiT:
    """The MMDiT of a checkpoint folder, in evaluation mode, without gradients.

    `reference_attention` other than the checkpoint's own is an approximation the caller answers for.
    Raises CheckpointError.
    """
    config = model_config(folder)
    if reference_attention is not None:
        config = replace(config, reference_attention=reference_attention)
    model = empty_model(config, kernels)
    headers = tensor_headers(folder / "transformer")
    check_tensors("transformer", shapes_of(model), headers)
    tensors = read_tensors(headers, torch.device(device), dtype)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def model_config(folder: Path) -> ModelConfig:
    """The shape of a checkpoint's MMDiT and the reference attention it was trained for."""
    mode = CheckpointConfig.load(folder).reference_attention
    return ModelConfig.from_diffusers(read_json(folder / "transformer" / "config.json"), mode)


def empty_model(config: ModelConfig, kernels: Kernels | None = None) -> MMDiT:
    """An MMDiT on the meta device: shapes without memory."""
    with torch.device("meta"):
        return MMDiT(config, kernels)


def check(model: str | Path) -> CheckpointReport:
    """Compares every tensor of a checkpoint (`nano`, path or hub id) with what its configuration asks for.

    Reads headers only. Raises CheckpointError with one line for the first part that does not fit.
    """
    folder = locate(model)
    for part in PARTS:
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder} has no folder {part}: not a diffusers-format checkpoint")
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder / 'tokenizer' / 'tokenizer.json'} is missing")
    return CheckpointReport(
        folder=folder,
        model=model_config(folder),
        config=CheckpointConfig.load(folder),
        parts=(_transformer(folder), _vae(folder), _text_encoder(folder)),
    )


def _transformer(folder: Path) -> PartReport:
    headers = tensor_headers(folder / "transformer")
    check_tensors("transformer", shapes_of(empty_model(model_config(folder))), headers)
    return _report("transformer", "Flux2Transformer2DModel", headers)


def _vae(folder: Path) -> PartReport:
    from diffusers import AutoencoderKLFlux2

    config = read_json(folder / "vae" / "config.json")
    if config.get("_class_name") != "AutoencoderKLFlux2":
        raise CheckpointError(f"vae is a {config.get('_class_name')}, only AutoencoderKLFlux2 is supported")
    with torch.device("meta"):
        expected = shapes_of(AutoencoderKLFlux2.from_config(config))
    headers = tensor_headers(folder / "vae")
    check_tensors("vae", expected, headers, integers=frozenset({"bn.num_batches_tracked"}))
    return _report("vae", "AutoencoderKLFlux2", headers)


def _text_encoder(folder: Path) -> PartReport:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    values = read_json(folder / "text_encoder" / "config.json")
    if values.get("model_type") != "qwen3":
        raise CheckpointError(f"text_encoder is {values.get('model_type')!r}, only 'qwen3' is supported")
    with torch.device("meta"):
        expected = shapes_of(Qwen3ForCausalLM(Qwen3Config(**values)))
    headers = tensor_headers(folder / "text_encoder", "model")
    if not any(name.startswith("model.") for name in headers):
        expected = {k.removeprefix("model."): v for k, v in expected.items()}
    if "lm_head.weight" not in headers:
        del expected["lm_head.weight"]  # tied to the embedding or left out; the hidden states do not use it
    check_tensors("text_encoder", expected, headers)
    return _report("text_encoder", "Qwen3", headers)


def _report(name: str, kind: str, headers: dict[str, TensorHeader]) -> PartReport:
    sizes = {k: math.prod(h.shape) for k, h in headers.items()}
    return PartReport(
        name=name,
        kind=kind,
        parameters=sum(sizes.values()),
        dtypes=tuple(sorted({h.dtype for h in headers.values()})),
        bytes=sum(sizes[k] * _WIDTHS.get(h.dtype, 8) for k, h in headers.items()),
    )
