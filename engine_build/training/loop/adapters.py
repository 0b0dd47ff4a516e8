"""LoRA weights that train: low-rank paths of engine_build.model.lora whose tensors are parameters.

The file `write` leaves is what `changeroom tryon --lora` loads. Frozen base weights are shared by every copy
`twin` makes, so a student, its teacher and its old policy cost one model and a few small matrices.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine_build.errors import RequestError
from engine_build.model.lora import Lora, LoraLinear, LoraSet, LowRank, read_lora
from engine_build.model.mmdit import MMDiT
from engine_build.training.loop.sharding import settle

NAME = "training"


def attach(dit: MMDiT, rank: int, alpha: float, layers: Sequence[str] = ("transformer_blocks",), seed: int = 0) -> None:
    """Freeze a model and lay a trainable path, `up` zero, beside each linear layer whose name holds one of `layers`.

    Raises RequestError when no layer's name does, or for a rank below 1.
    """
    if rank < 1:
        raise RequestError(f"a LoRA has a rank of at least 1, not {rank}")
    dit.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    paths = {}
    for name, linear in dit.named_modules():
        if not isinstance(linear, nn.Linear) or not any(part in name for part in layers):
            continue
        down = torch.randn(rank, linear.in_features, generator=generator) / math.sqrt(linear.in_features)
        up = torch.zeros(linear.out_features, rank)
        pair = (nn.Parameter(x.to(linear.weight)) for x in (down, up))
        paths[name] = LowRank(*pair, scale=alpha / rank)
    if not paths:
        raise RequestError(f"no linear layer's name holds any of {', '.join(layers)}")
    LoraSet(dit).add(NAME, Lora(Path(NAME), paths))


class LoraWeights(nn.Module):
    """The trainable paths of a model as a module of their own: what is optimised, averaged and saved."""

    def __init__(self, dit: MMDiT) -> None:
        super().__init__()
        self.scales: dict[str, float] = {}
        for layer, low_rank in trainable_paths(dit).items():
            self.scales[layer] = low_rank.scale
            for part, value in (("lora_A", low_rank.down), ("lora_B", low_rank.up)):
                self.register_parameter(_flat(f"{layer}.{part}"), value)


def trainable_paths(dit: MMDiT) -> dict[str, LowRank]:
    """The paths `attach` laid, by the name of their layer."""
    layers = {name: module for name, module in dit.named_modules() if isinstance(module, LoraLinear)}
    return {name: layer.paths[NAME][0] for name, layer in layers.items() if NAME in layer.paths}


def twin(network: MMDiT) -> MMDiT:
    """A frozen copy that shares every parameter that was frozen already."""
    shared = {id(p): p for p in network.parameters() if not p.requires_grad}
    copied = copy.deepcopy(network, shared).requires_grad_(False).eval()
    for tensor in tensors_of(copied).values():
        tensor.requires_grad_(False)
    return copied


def tensors_of(network: MMDiT) -> dict[str, Tensor]:
    """What distinguishes two copies of a model: its LoRA's tensors where it has one, else all its parameters."""
    paths = trainable_paths(network)
    if not paths:
        settle(network)
        return dict(network.named_parameters())
    parts = {f"{layer}.lora_A": path.down for layer, path in paths.items()}
    return parts | {f"{layer}.lora_B": path.up for layer, path in paths.items()}


@torch.no_grad()
def blend(kept: MMDiT, new: MMDiT, share: float) -> None:
    """`kept <- share kept + (1 - share) new`, tensor by tensor."""
    others = tensors_of(new)
    for name, tensor in tensors_of(kept).items():
        tensor.lerp_(others[name].detach(), 1 - share)


def write(path: Path, weights: LoraWeights, values: dict[str, Tensor] | None = None) -> Path:
    """The LoRA as diffusers/PEFT names it, scale folded into `up`; `values` replaces the weights (an average)."""
    values = weights.state_dict() if values is None else values
    tensors = {}
    for layer, scale in weights.scales.items():
        down, up = (values[_flat(f"{layer}.{part}")].detach().cpu() for part in ("lora_A", "lora_B"))
        tensors[f"transformer.{layer}.lora_A.weight"] = down.contiguous()
        tensors[f"transformer.{layer}.lora_B.weight"] = (scale * up).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def merge_files(dit: MMDiT, files: Sequence[Path]) -> None:
    """Add LoRA files to a model's weights for good. Raises CheckpointError for one that does not fit."""
    for path in files:
        adapters = LoraSet(dit)
        adapters.add(path.name, read_lora(path))
        adapters.bake()


def _flat(name: str) -> str:
    return name.replace(".", "/")
