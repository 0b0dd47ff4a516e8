"""LoRA files on an MMDiT: several at once, each with a weight, beside the weights or baked into them.

Reads diffusers/PEFT names (`transformer.….lora_A.weight`, `lora_B`, optional `alpha`) and the original
FLUX.2 names (`diffusion_model.double_blocks.…`). A file that touches anything else is refused.

Source: Hu et al., LoRA, arXiv 2106.09685: y = W x + (alpha / r) B A x.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine_build.errors import CheckpointError
from engine_build.model.mmdit import MMDiT
from engine_build.model.tensor_files import listing


@dataclass(frozen=True)
class LowRank:
    """One linear layer's change `scale * up @ down`; down `(r, in)`, up `(out, r)`."""

    down: Tensor
    up: Tensor
    scale: float

    def delta(self) -> Tensor:
        """The change `(out, in)` in float32."""
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True)
class Lora:
    """A LoRA file: changes by the name of the linear layer they belong to."""

    path: Path
    layers: dict[str, LowRank]


class LoraLinear(nn.Linear):
    """A linear layer, sharing the weight of the one it replaces, with low-rank paths beside it.

    Its state is the weight alone, so names in a state dict stay what they were.
    """

    def __init__(self, replaced: nn.Linear) -> None:
        super().__init__(replaced.in_features, replaced.out_features, bias=False, device="meta")
        self.weight = replaced.weight
        self.training = replaced.training
        self.paths: dict[str, tuple[LowRank, float]] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for low_rank, weight in self.paths.values():
            y = y + weight * low_rank.scale * F.linear(F.linear(x, low_rank.down), low_rank.up)
        return y


class LoraSet:
    """The LoRAs of one model, put beside its weights one after the other, then perhaps baked into them."""

    def __init__(self, model: MMDiT) -> None:
        self.model = model
        self.names: set[str] = set()

    def add(self, name: str, lora: Lora, weight: float = 1.0) -> None:
        """Puts a LoRA beside the weights. Raises CheckpointError when it does not fit, ValueError for a name taken."""
        if name in self.names:
            raise ValueError(f"there is already a LoRA named {name!r}")
        linears = {k: m for k, m in self.model.named_modules() if isinstance(m, nn.Linear)}
        self._check(lora, linears)
        for layer, low_rank in lora.layers.items():
            linear = linears[layer]
            if not isinstance(linear, LoraLinear):
                linear = LoraLinear(linear)
                self._replace(layer, linear)
            placed = LowRank(low_rank.down.to(linear.weight), low_rank.up.to(linear.weight), low_rank.scale)
            linear.paths[name] = (placed, weight)
        self.names.add(name)

    @torch.no_grad()
    def bake(self) -> None:
        """Adds all changes to the weights for good, summed in float32; the layers are plain again, the set is empty.

        One layer at a time: nothing but that layer is ever held twice.
        """
        layers = {k: m for k, m in self.model.named_modules() if isinstance(m, LoraLinear)}
        for layer, linear in layers.items():
            total = linear.weight.float()
            for low_rank, weight in linear.paths.values():
                total = total + weight * low_rank.delta()
            linear.weight.copy_(total)
            plain = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
            plain.weight = linear.weight
            self._replace(layer, plain.train(linear.training))
        self.names.clear()

    def _replace(self, layer: str, linear: nn.Linear) -> None:
        parent, _, child = layer.rpartition(".")
        setattr(self.model.get_submodule(parent), child, linear)

    @staticmethod
    def _check(lora: Lora, linears: dict[str, nn.Linear]) -> None:
        if unknown := sorted(set(lora.layers) - set(linears)):
            raise CheckpointError(f"{lora.path} changes layers the model does not have: {listing(unknown)}")
        for layer, low_rank in lora.layers.items():
            linear = linears[layer]
            wanted = (linear.out_features, linear.in_features)
            found = (low_rank.up.shape[0], low_rank.down.shape[1])
            if found != wanted:
                raise CheckpointError(f"{lora.path} changes {layer} as {found}, the model has {wanted}")


def read_lora(path: Path) -> Lora:
    """Reads a LoRA file. Raises CheckpointError for another format, a pickle, or a half of a pair."""
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} is not a .safetensors file; other formats could run code and are not read"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = _split_name(name, path)
        parts.setdefault(layer, {})[part] = tensor
    if not parts:
        raise CheckpointError(f"{path} holds no LoRA")
    scales = _PeftScale.read(metadata, path)
    layers: dict[str, LowRank] = {}
    for layer, pair in parts.items():
        if missing := {"lora_A", "lora_B"} - set(pair):
            raise CheckpointError(f"{path}: {layer} has no {missing.pop()}")
        down, up = pair["lora_A"], pair["lora_B"]
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise CheckpointError(f"{path}: {layer} has lora_A and lora_B of {shapes}, which do not multiply")
        rank = down.shape[0]
        scale = float(pair["alpha"]) / rank if "alpha" in pair else scales.of(layer, rank)
        for target, rows in _targets(layer, up):
            layers[target] = LowRank(down, rows, scale)
    return Lora(path, layers)


@dataclass(frozen=True)
class _PeftScale:
    """Scales from the PEFT configuration diffusers writes into a file's metadata; 1 without it."""

    alpha: float | None
    alphas: dict[str, float]
    rank_stabilised: bool

    @classmethod
    def read(cls, metadata: dict[str, str], path: Path) -> "_PeftScale":
        try:
            raw = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except ValueError as error:
            raise CheckpointError(f"{path} has unreadable adapter metadata: {error}") from error
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path} has unreadable adapter metadata")
        config = {k.removeprefix("transformer."): v for k, v in raw.items()}
        if config.get("use_dora"):
            raise CheckpointError(f"{path} is a DoRA, which is not supported")
        alphas = config.get("alpha_pattern") or {}
        return cls(config.get("lora_alpha"), alphas, bool(config.get("use_rslora")))

    def of(self, layer: str, rank: int) -> float:
        """PEFT matches the end of a layer's name."""
        alpha = self.alpha
        for pattern, value in self.alphas.items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = value
                break
        if alpha is None:
            return 1.0
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


_NAME = re.compile(
    r"(?:(?:transformer|diffusion_model|base_model\.model)\.)?(?P<layer>.+?)\."
    r"(?:(?P<part>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|(?P<alpha>alpha))"
)
_PARTS = {"lora_down": "lora_A", "lora_up": "lora_B"}
_ORIGINAL = {
    r"double_blocks\.(\d+)\.img_attn\.proj": r"transformer_blocks.\1.attn.to_out.0",
    r"double_blocks\.(\d+)\.txt_attn\.proj": r"transformer_blocks.\1.attn.to_add_out",
    r"double_blocks\.(\d+)\.img_mlp\.0": r"transformer_blocks.\1.ff.linear_in",
    r"double_blocks\.(\d+)\.img_mlp\.2": r"transformer_blocks.\1.ff.linear_out",
    r"double_blocks\.(\d+)\.txt_mlp\.0": r"transformer_blocks.\1.ff_context.linear_in",
    r"double_blocks\.(\d+)\.txt_mlp\.2": r"transformer_blocks.\1.ff_context.linear_out",
    r"single_blocks\.(\d+)\.linear1": r"single_transformer_blocks.\1.attn.to_qkv_mlp_proj",
    r"single_blocks\.(\d+)\.linear2": r"single_transformer_blocks.\1.attn.to_out",
    r"img_in": "x_embedder",
    r"txt_in": "context_embedder",
    r"final_layer\.linear": "proj_out",
    r"((?:single|double)_stream_modulation(?:_img|_txt)?)\.lin": r"\1.linear",
}
_FUSED = re.compile(r"double_blocks\.(\d+)\.(img|txt)_attn\.qkv")
_SPLIT = {"img": ("to_q", "to_k", "to_v"), "txt": ("add_q_proj", "add_k_proj", "add_v_proj")}


def _split_name(name: str, path: Path) -> tuple[str, str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise CheckpointError(f"{path} holds {name!r}, which is not a LoRA of the transformer")
    part = found["alpha"] or found["part"]
    return found["layer"], _PARTS.get(part, part)


def _targets(layer: str, up: Tensor) -> list[tuple[str, Tensor]]:
    """The layers of our model a named layer stands for, with the rows of `up` that belong to each."""
    fused = _FUSED.fullmatch(layer)
    if fused:
        names = (f"transformer_blocks.{fused[1]}.attn.{name}" for name in _SPLIT[fused[2]])
        return list(zip(names, up.chunk(3), strict=True))
    for pattern, replacement in _ORIGINAL.items():
        if re.fullmatch(pattern, layer):
            return [(re.sub(pattern, replacement, layer), up)]
    return [(layer, up)]
