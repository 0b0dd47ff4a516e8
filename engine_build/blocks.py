"""The blocks of the MMDiT, whose maths goes through the `Kernels` they are given.

Parameter names are those of diffusers. Letters as in `engine_build.model`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.config import ModelConfig
from engine_build.stage import Rope, Stage
from kernels import Kernels, Segments
from kernels.fp8 import Fp8Linear, Quantised
from kernels.segments import Heads


class DoubleBlock(nn.Module):
    """Text and image with their own weights, one attention over both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = JointAttention(config)
        self.ff = FeedForward(config)
        self.ff_context = FeedForward(config)

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        text_mod: tuple[Tensor, ...],
        image_mod: tuple[Tensor, ...],
        stage: Stage,
        k: Kernels,
        prefix: dict[str, object],
    ) -> tuple[Tensor, Tensor]:
        text_s, image_s = stage.joint.first, stage.joint.second
        text_in = k.adaln(text, *text_mod[:2], text_s, self.eps)
        image_in = k.adaln(image, *image_mod[:2], image_s, self.eps)
        heads = self.attn.text_heads(text_in, stage.text_rope), self.attn.image_heads(image_in, stage.image_rope)
        q, key, v = k.joint_qkv(*heads, stage.joint, self.eps)  # (T, H, E)
        out = k.attention(q, key, v, stage.joint.segments, **prefix).flatten(1)  # (T, D)
        text_out, image_out = stage.joint.split(out)
        text = self._finish(text, self.attn.to_add_out(k.feed(text_out)), text_mod, text_s, self.ff_context, k)
        image = self._finish(image, self.attn.to_out[0](k.feed(image_out)), image_mod, image_s, self.ff, k)
        return text, image  # (Tt, D), (Ti, D)

    def references(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: Rope,
        modulated: Segments,
        attended: Segments,
        k: Kernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The image stream alone: new `(P, D)`, and the keys and values `(P, H, E)` it attended."""
        normed = k.adaln(x, *modulation[:2], modulated, self.eps)
        q, key, v = k.cached_qkv(self.attn.image_heads(normed, rope), self.eps)
        out = self.attn.to_out[0](k.feed(k.attention(q, key, v, attended).flatten(1)))
        return self._finish(x, out, modulation, modulated, self.ff, k), key, v

    def _finish(
        self,
        x: Tensor,
        attended: Tensor,
        modulation: tuple[Tensor, ...],
        segments: Segments,
        ff: FeedForward,
        k: Kernels,
    ) -> Tensor:
        """A stream after its attention: gate, MLP, gate."""
        _, _, gate, shift, scale, gate_ff = modulation
        x, normed = k.residual_adaln(x, attended, gate, shift, scale, segments, self.eps)
        return k.gated_residual(x, ff(normed, k), gate_ff, segments)


class SingleBlock(nn.Module):
    """One stream; attention and MLP in parallel from one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = ParallelAttention(config)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: Rope,
        segments: Segments,
        k: Kernels,
        prefix: dict[str, object],
    ) -> Tensor:
        shift, scale, gate = modulation
        heads, mlp = self.attn.project(k.adaln(x, shift, scale, segments, self.eps), rope)
        q, key = k.qk_norm_rope(*heads.to_norm, self.eps)  # (T, H, E)
        out = k.attention(q, key, heads.v, segments, **prefix).flatten(1)  # (T, D)
        return k.gated_residual(x, self.attn.to_out(k.swiglu(mlp, out)), gate, segments)  # (T, D)

    def targets(
        self, x: Tensor, modulation: tuple[Tensor, ...], stage: Stage, k: Kernels, prefix: dict[str, object]
    ) -> Tensor:
        """`forward` for the target's tokens only, `(T, D)` to `(sum L, D)`: the others give keys and values."""
        shift, scale, gate = modulation
        joint_s, target_s = stage.joint.segments, stage.image.first
        normed = k.adaln(x, shift, scale, joint_s, self.eps)
        mlp = self.attn.mlp(normed.moved(stage.targets) if isinstance(normed, Quantised) else stage.targets(normed))
        heads = self.attn.heads(normed, stage.joint_rope)
        q, key = k.qk_norm_rope(*heads.to_norm, self.eps)  # (T, H, E)
        q = stage.targets(q)  # (sum L, H, E)
        out = k.attention(q, key, heads.v, target_s, key_segments=joint_s, **prefix).flatten(1)  # (sum L, D)
        return k.gated_residual(stage.targets(x), self.attn.to_out(k.swiglu(mlp, out)), gate, target_s)

    def references(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: Rope,
        modulated: Segments,
        attended: Segments,
        k: Kernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New `(P, D)`, and the keys and values `(P, H, E)` it attended."""
        shift, scale, gate = modulation
        heads, mlp = self.attn.project(k.adaln(x, shift, scale, modulated, self.eps), rope)
        q, key, v = k.cached_qkv(heads, self.eps)
        out = k.attention(q, key, v, attended).flatten(1)
        return k.gated_residual(x, self.attn.to_out(k.swiglu(mlp, out)), gate, modulated), key, v

    def keys_values(
        self, x: Tensor, modulation: tuple[Tensor, ...], rope: Rope, modulated: Segments, k: Kernels
    ) -> tuple[Tensor, Tensor]:
        """All that a last block is asked of references: keys and values `(P, H, E)`."""
        shift, scale, _ = modulation
        heads = self.attn.heads(k.adaln(x, shift, scale, modulated, self.eps), rope)
        _, key, v = k.cached_qkv(heads, self.eps)
        return key, v


class JointAttention(nn.Module):
    """Projections of a double block: plain names for the image, `add` names for the text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, e = config.width, config.attention_head_dim
        self.head_dim = e
        self.to_q = nn.Linear(d, d, bias=False)
        self.to_k = nn.Linear(d, d, bias=False)
        self.to_v = nn.Linear(d, d, bias=False)
        self.norm_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_k = nn.RMSNorm(e, eps=config.eps)
        self.to_out = nn.ModuleList([nn.Linear(d, d, bias=False)])
        self.norm_added_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_added_k = nn.RMSNorm(e, eps=config.eps)
        self.add_q_proj = nn.Linear(d, d, bias=False)
        self.add_k_proj = nn.Linear(d, d, bias=False)
        self.add_v_proj = nn.Linear(d, d, bias=False)
        self.to_add_out = nn.Linear(d, d, bias=False)

    def image_heads(self, x: Tensor, rope: Rope) -> Heads:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.to_q, self.to_k, self.to_v))
        return Heads(q, k, v, self.norm_q.weight, self.norm_k.weight, *rope)

    def text_heads(self, x: Tensor, rope: Rope) -> Heads:
        projections = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in projections)
        return Heads(q, k, v, self.norm_added_q.weight, self.norm_added_k.weight, *rope)


class ParallelAttention(nn.Module):
    """Projections of a single block: q, k, v and both MLP halves in one, attention and MLP out in one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, m, e = config.width, config.mlp_width, config.attention_head_dim
        self.widths, self.head_dim = (d, d, d, 2 * m), e
        self.to_qkv_mlp_proj = nn.Linear(d, 3 * d + 2 * m, bias=False)
        self.norm_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_k = nn.RMSNorm(e, eps=config.eps)
        self.to_out = nn.Linear(d + m, d, bias=False)

    def project(self, x: Tensor, rope: Rope) -> tuple[Heads, Tensor]:
        """q, k, v `(T, H, E)` and the MLP's input `(T, 2M)`."""
        *qkv, mlp = self.to_qkv_mlp_proj(x).split(self.widths, dim=-1)
        return self._heads(qkv, rope), mlp

    def heads(self, x: Tensor, rope: Rope) -> Heads:
        """`project` without the MLP's input."""
        qkv = _some(self.to_qkv_mlp_proj, x, slice(0, sum(self.widths[:3])))
        return self._heads(qkv.chunk(3, dim=-1), rope)

    def mlp(self, x: Tensor) -> Tensor:
        """`project` without q, k and v."""
        return _some(self.to_qkv_mlp_proj, x, slice(sum(self.widths[:3]), None))

    def _heads(self, qkv: Iterable[Tensor], rope: Rope) -> Heads:
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in qkv)
        return Heads(q, k, v, self.norm_q.weight, self.norm_k.weight, *rope)


def _some(linear: nn.Module, x: Tensor, rows: slice) -> Tensor:
    """Some of a linear's outputs. A linear with adapters beside its weights computes all of them."""
    if isinstance(linear, Fp8Linear):
        return linear.rows(x, rows)
    return F.linear(x, linear.weight[rows]) if type(linear) is nn.Linear else linear(x)[:, rows]


class FeedForward(nn.Module):
    """SwiGLU MLP with both halves in one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_in = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.linear_out = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, k: Kernels) -> Tensor:
        return self.linear_out(k.swiglu(self.linear_in(x)))
