"""What an engine will hold on its device, worked out on the meta device before anything is loaded.

Weights are counted tensor by tensor, activations by following one forward at the token budget and one decode
with shapes alone, and remembering how many bytes were alive at once. Kernels with a pass of their own are stood in
for by what they allocate. Allocators keep more than they hand out, so `SLACK` of the working memory is added.

Sizes are in bytes. Source of the text encoders' shapes: Qwen3-4B and Qwen3-8B `config.json` (Apache-2.0).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import Qwen3Config, Qwen3Model

from engine_build.config import PRESETS, CheckpointConfig, ModelConfig, read_json
from engine_build.errors import CheckpointError, MemoryShortage, RequestError
from engine_build.model import MMDiT
from engine_build.options import GPU_TOKEN_BUDGET, GRAPH_BYTES, EngineOptions
from engine_build.packing import Reference, Sequence, grid_ids, pack
from engine_build.stage import ReferenceKV
from engine_build.tensor_files import tensor_headers
from engine_build.weights import DTYPES, empty_model, locate, model_config
from kernels import Kernels, Segments
from kernels.fp8 import Quantised, convert
from kernels.segments import Heads, Interleaved

CONTEXT = 1 << 30  # of CUDA itself and its libraries' workspaces
SLACK = 0.15
H200 = 140 << 30  # what is sold as 141 GB
BUDGETS = (GPU_TOKEN_BUDGET, 32_768, 20_480, 14_336)
_QWEN3 = {
    2560: {"intermediate_size": 9728, "num_attention_heads": 32},
    4096: {"intermediate_size": 12288, "num_attention_heads": 32},
}
_TEXT_LAYERS = (9, 18, 27)


@dataclass(frozen=True)
class Row:
    """One thing that takes memory: how much, and why."""

    name: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Plan:
    """All of it, for one checkpoint on one device."""

    name: str
    rows: tuple[Row, ...]

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def table(self, available: int | None = None) -> str:
        """The rows as text, with what is left of `available`."""
        lines = [f"{self.name}: memory on the device"]
        lines += [f"{row.name:<22}{row.bytes / 2**30:>8.2f} GiB  {row.why}" for row in self.rows]
        lines.append(f"{'together':<22}{self.bytes / 2**30:>8.2f} GiB")
        if available is not None:
            left = available - self.bytes
            said = "left" if left >= 0 else "missing"
            lines.append(f"{said:<22}{abs(left) / 2**30:>8.2f} GiB  of {available / 2**30:.0f} GiB")
        return "\n".join(lines)


@dataclass(frozen=True)
class Parts:
    """The shapes of a checkpoint's parts, all on the meta device."""

    name: str
    model: ModelConfig
    config: CheckpointConfig
    text: nn.Module
    vae: AutoencoderKLFlux2


def plan_checkpoint(
    model: str | Path, *, dtype: str = "auto", backend: str = "triton", options: EngineOptions | None = None
) -> Plan:
    """The plan of a preset, a folder or a hub id on a GPU. dtype `auto` is bfloat16.

    Raises CheckpointError for a checkpoint that cannot be read, RequestError for an unknown dtype.
    """
    if dtype not in ("auto", "fp8", *DTYPES):
        raise RequestError(f"dtype {dtype!r} is not one of auto, fp8, {', '.join(DTYPES)}")
    return make_plan(_parts(model), dtype=dtype, backend=backend, options=options or EngineOptions())


def make_plan(parts: Parts, *, dtype: str, backend: str, options: EngineOptions) -> Plan:
    """The plan of parts whose shapes are known."""
    number = DTYPES.get(dtype, torch.bfloat16)
    config = replace(parts.model, reference_attention=options.reference_attention or parts.model.reference_attention)
    fused = backend.startswith("triton")
    model = empty_model(config, shapes_only() if fused else None).to(number).eval().requires_grad_(False)
    if dtype == "fp8":
        convert(model)
    budget = options.token_budget or GPU_TOKEN_BUDGET
    joint = config.reference_attention == "joint"
    kept = 0 if joint else 2 * config.layers * config.width * number.itemsize  # keys and values of one token
    shown = f"{dtype if dtype != 'auto' else 'bfloat16'}, {config.num_layers} + {config.num_single_layers} blocks"
    width, height = parts.config.default_size
    rows = [
        Row("MMDiT", held(model), shown),
        Row("text encoder", held(parts.text) // 2 * number.itemsize, "the layers that are used"),
        Row("autoencoder", held(parts.vae) // 4 * number.itemsize, ""),
        Row("text cache", options.text_cache_bytes, "bound"),
        Row("latents cache", options.latent_cache_bytes, "bound"),
    ]
    if not joint:
        rows.append(Row("reference KV cache", options.reference_cache_bytes, f"bound; {kept} bytes a token"))
    if fused and options.graphs is not False:
        rows.append(Row("CUDA graphs", GRAPH_BYTES if options.graph_bytes is None else options.graph_bytes, "bound"))
        if kept:
            rows.append(Row("their references", options.graph_prefix_tokens * kept, "one arena"))
    if kept:
        in_use = 2 * _reference_share(parts) * budget // 100 * kept
        rows.append(Row("references in use", in_use, "of a full pack, and each request's own"))
    working = max(
        forward_peak(model, parts.config, budget),
        decode_peak(parts.vae, width, height) // 4 * number.itemsize,
    )
    rows.append(Row("activations", int(working * (1 + SLACK)), f"{budget} tokens, or a decode of {width}x{height}"))
    rows.append(Row("CUDA", CONTEXT, "context and workspaces"))
    return Plan(parts.name, tuple(rows))


def fit(
    model: str | Path, *, dtype: str, backend: str, options: EngineOptions, free: int
) -> tuple[EngineOptions, Plan]:
    """The options with which the plan fits `free` bytes: a token budget and graphs left open are made smaller.

    Raises MemoryShortage, with the parts of the smallest plan, when it does not fit even then.
    """
    parts = _parts(model)
    budgets = [options.token_budget] if options.token_budget else BUDGETS
    for budget in budgets:
        graphs = options.graph_bytes if options.graph_bytes is not None else min(GRAPH_BYTES, free // 8)
        tried = replace(options, token_budget=budget, graph_bytes=graphs)
        plan = make_plan(parts, dtype=dtype, backend=backend, options=tried)
        if plan.bytes <= free:
            return tried, plan
    parts_of_it = ", ".join(f"{row.name} {row.bytes / 2**30:.1f}" for row in plan.rows)
    raise MemoryShortage(
        f"{plan.name} needs {plan.bytes / 2**30:.1f} GiB on the device and {free / 2**30:.1f} are free "
        f"({parts_of_it}): use dtype fp8, smaller caches or another device"
    )


def held(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))


class Alive(TorchDispatchMode):
    """Follows operations on the meta device and remembers the most bytes alive at once, a module's own apart."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen = {x.untyped_storage()._cdata for x in (*module.parameters(), *module.buffers())}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for x in tree_iter(result):
            if isinstance(x, Tensor) and x.device.type == "meta":
                self._note(x.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._seen:
            self._seen.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak(module: nn.Module, work: Callable[[], object]) -> int:
    """The most bytes on the meta device that `work` with a module has alive at once, besides the module's own."""
    with Alive(module) as alive, torch.no_grad():
        work()
    return alive.peak


def forward_peak(model: MMDiT, config: CheckpointConfig, tokens: int) -> int:
    """Bytes of activations of one step over about `tokens` tokens, keys and values of references apart."""
    c = model.config
    side = 16
    rows, columns = config.default_size[1] // side or 1, config.default_size[0] // side or 1
    target, text = rows * columns, config.max_text_tokens
    joint = c.reference_attention == "joint"
    each = text + target + (2 * target if joint else 0)
    meta = {"device": "meta"}
    references = (Reference(torch.empty(2 * target, c.in_channels, **meta), torch.zeros(2 * target, 4, **meta)),)
    sequence = Sequence(
        text=torch.empty(text, c.joint_attention_dim, dtype=model.dtype, **meta),
        target=torch.empty(target, c.in_channels, **meta),
        target_ids=grid_ids(rows, columns).to("meta"),
        sigma=torch.empty((), **meta),
        references=references if joint else (),
    )
    batch = pack([sequence] * max(1, tokens // each))
    return peak(model, lambda: model(batch, _no_references(model, len(batch)) if not joint else None))


def decode_peak(vae: AutoencoderKLFlux2, width: int, height: int) -> int:
    """Bytes of activations of one decode in float32."""
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.empty(1, vae.config.latent_channels, height // scale, width // scale, device="meta")
    return peak(vae, lambda: vae.decode(latents))


def shapes_only() -> Kernels:
    """Kernels that allocate what the Triton ones do and compute nothing."""

    def like(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def quantised(x: Tensor) -> Quantised:
        values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
        return Quantised(values, torch.empty(x.shape[0], device=x.device))

    def heads(first: Heads, second: Heads, joined: Interleaved, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        tokens = joined.first.total + joined.second.total
        q, k, v = (first.q.new_empty(tokens, *first.q.shape[1:]) for _ in range(3))
        return q, k, v

    def swiglu(x: Tensor, lead: Tensor | None = None) -> Tensor:
        return x.new_empty(x.shape[0], x.shape[1] // 2 + (0 if lead is None else lead.shape[1]))

    return Kernels(
        "shapes",
        attention=lambda q, *_, **__: like(q),
        qk_norm_rope=lambda q, k, *_: (like(q), like(k)),
        joint_qkv=heads,
        cached_qkv=lambda heads, eps: (like(heads.q), like(heads.k), like(heads.v)),
        rope=lambda x, *_: like(x),
        adaln=lambda x, *_: like(x),
        adaln_fp8=lambda x, *_: quantised(x),
        gated_residual=lambda x, *_: like(x),
        residual_adaln=lambda x, *_: (like(x), like(x)),
        residual_adaln_fp8=lambda x, *_: (like(x), quantised(x)),
        swiglu=swiglu,
        swiglu_fp8=lambda x, lead=None: quantised(swiglu(x, lead)),
        quantise=quantised,
    )


def _no_references(model: MMDiT, sequences: int) -> ReferenceKV:
    """Keys and values of no token, so that a step runs in its cached form."""
    c = model.config
    nothing = torch.empty(0, c.num_attention_heads, c.attention_head_dim, dtype=model.dtype, device="meta")
    layers = (nothing,) * c.layers
    return ReferenceKV(layers, layers, Segments((0,) * sequences), (1,) * sequences, torch.empty(0, device="meta"))


def _reference_share(parts: Parts) -> int:
    """Percent of a request's tokens that are references, with as many as it can have."""
    width, height = parts.config.default_size
    canvas = parts.config.garment_canvas
    each = canvas[0] * canvas[1] if canvas else parts.config.garment_area
    references = width * height + each * max(1, parts.config.max_references - 1)
    return 100 * references // (references + width * height)


def _parts(model: str | Path) -> Parts:
    return _preset(model) if isinstance(model, str) and model in PRESETS and model != "nano" else _folder(model)


def _preset(name: str) -> Parts:
    """klein's autoencoder and Qwen3, at the preset's shape."""
    model = PRESETS[name]
    hidden = model.joint_attention_dim // len(_TEXT_LAYERS)
    if hidden not in _QWEN3:
        raise CheckpointError(f"the preset {name} has no known text encoder of width {hidden}")
    text = Qwen3Config(
        hidden_size=hidden, num_hidden_layers=max(_TEXT_LAYERS), num_key_value_heads=8, head_dim=128,
        vocab_size=151_936, **_QWEN3[hidden],
    )  # fmt: skip
    with torch.device("meta"):
        vae = AutoencoderKLFlux2()
    isolated = model.reference_attention == "isolated"
    config = CheckpointConfig(model.reference_attention, max_references=7 if isolated else 4)
    return Parts(name, model, config, _text(text), vae)


def _folder(model: str | Path) -> Parts:
    folder = locate(model)
    config = CheckpointConfig.load(folder)
    text = Qwen3Config(**read_json(folder / "text_encoder" / "config.json"))
    text.num_hidden_layers = min(text.num_hidden_layers, max(config.text_layers))
    text.layer_types = text.layer_types[: text.num_hidden_layers] if text.layer_types else None
    tensor_headers(folder / "transformer")  # a folder without weights is no checkpoint
    with torch.device("meta"):
        vae = AutoencoderKLFlux2.from_config(read_json(folder / "vae" / "config.json"))
    return Parts(folder.name, model_config(folder), config, _text(text), vae)


def _text(config: Qwen3Config) -> nn.Module:
    with torch.device("meta"):
        return Qwen3Model(config).to(torch.bfloat16)
