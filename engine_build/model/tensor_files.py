"""Safetensors files of one part of a checkpoint: headers, shards, strict comparison, reading.

Nothing else is ever opened: a pickle in their place is refused, and a shard index cannot point elsewhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine_build.config import read_json
from engine_build.errors import CheckpointError

STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors header says of one tensor, and the file that holds it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def tensor_headers(part: Path, stem: str = "diffusion_pytorch_model") -> dict[str, TensorHeader]:
    """Every tensor of a part's folder, from one file or from an index of shards; reads headers only.

    Raises CheckpointError for missing, broken or pickled files, or an index that contradicts its shards.
    """
    single, index = part / f"{stem}.safetensors", part / f"{stem}.safetensors.index.json"
    if single.is_file():
        return _headers_of(single)
    if not index.is_file():
        pickled = sorted(p.name for p in part.glob("*") if p.suffix in _PICKLES)
        if pickled:
            raise CheckpointError(
                f"{part} holds only {pickled[0]}, a pickle that could run code: convert it to safetensors"
            )
        raise CheckpointError(f"{single} is missing")
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(f, str) for f in listed.values()):
        raise CheckpointError(f"{index} has no weight_map")
    found: dict[str, TensorHeader] = {}
    for name in sorted(set(listed.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name!r}, which is not a safetensors file beside it")
        found.update(_headers_of(part / name))
    misplaced = sorted(
        set(listed) ^ set(found) | {k for k in set(listed) & set(found) if found[k].file.name != listed[k]}
    )
    if misplaced:
        raise CheckpointError(f"{index} and its shards disagree on {listing(misplaced)}")
    return found


def check_tensors(
    part: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, TensorHeader],
    integers: frozenset[str] = frozenset(),
) -> None:
    """Raises CheckpointError naming every kind of difference: missing, unexpected, misshapen, odd dtype.

    All tensors are floating point but `integers`.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing {listing(missing)}")
    if extra := sorted(set(found) - set(expected)):
        problems.append(f"unexpected {listing(extra)}")
    both = sorted(set(expected) & set(found))
    if misshapen := [
        f"{k} {found[k].shape} instead of {tuple(expected[k])}"
        for k in both
        if found[k].shape != tuple(expected[k])
    ]:
        problems.append(f"misshapen {listing(misshapen)}")
    if odd := [
        f"{k} as {found[k].dtype}" for k in both if found[k].dtype not in STORED_DTYPES and k not in integers
    ]:
        problems.append(f"stored in an unsupported dtype {listing(odd)}")
    if problems:
        raise CheckpointError(f"{part}: tensors {'; '.join(problems)}")


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a module's state."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def read_tensors(
    headers: Mapping[str, TensorHeader], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Reads the tensors to a device, converted to `dtype`. Raises CheckpointError for a broken file."""
    tensors: dict[str, Tensor] = {}
    for file in sorted({header.file for header in headers.values()}):
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                for name, header in headers.items():
                    if header.file == file:
                        tensors[name] = opened.get_tensor(name).to(dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
    return tensors


def listing(names: Iterable[str], limit: int = 3) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _headers_of(file: Path) -> dict[str, TensorHeader]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {k: TensorHeader(file, tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error}") from error
