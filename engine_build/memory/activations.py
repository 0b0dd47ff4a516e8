"""How many bytes of activations a forward or a decode has alive at once, followed with shapes alone on the meta device.

Kernels with a pass of their own are stood in for by what they allocate. Sizes are in bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from engine_build.config import CheckpointConfig
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from engine_build.model.reference_kv import ReferenceKV
from kernels import Kernels, Segments
from kernels.fp8 import Quantised
from kernels.segments import Heads, Interleaved


class Alive(TorchDispatchMode):
    """Follows operations on the meta device and remembers the most bytes alive at once, a module's own apart."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.now = 0
        self.peak: int = 0
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
    most: int = alive.peak
    return most


def forward_peak(model: MMDiT, config: CheckpointConfig, tokens: int) -> int:
    """Bytes of activations of one step over about `tokens` tokens, keys and values of references apart."""
    c = model.config
    side = 16
    rows, columns = config.default_size[1] // side or 1, config.default_size[0] // side or 1
    target, text = rows * columns, config.max_text_tokens
    joint = c.reference_attention == "joint"
    each = text + target + (2 * target if joint else 0)
    meta = torch.device("meta")
    shown = Reference(
        torch.empty(2 * target, c.in_channels, device=meta), torch.zeros(2 * target, 4, device=meta)
    )
    sequence = Sequence(
        text=torch.empty(text, c.joint_attention_dim, dtype=model.dtype, device=meta),
        target=torch.empty(target, c.in_channels, device=meta),
        target_ids=grid_ids(rows, columns).to("meta"),
        sigma=torch.empty((), device=meta),
        references=(shown,) if joint else (),
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
