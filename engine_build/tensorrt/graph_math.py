"""The maths of the MMDiT's blocks on plain tensors, modulation already given to each token.

The same as `kernels.reference` and `engine_build.model.mmdit`, written with operators that ONNX has by name. Letters as
in `graphs`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.model.mmdit import DoubleBlock, FeedForward, SingleBlock

Parts = tuple[Tensor, ...]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def adaln(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=eps) + shift


def feed_forward(block: FeedForward, x: Tensor) -> Tensor:
    out: Tensor = block.linear_out(swiglu(block.linear_in(x)))
    return out


def swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def heads(size: int, *parts: Tensor) -> Parts:
    return tuple(part.unflatten(-1, (-1, size)) for part in parts)


def norm_rope(qkv: Parts, norm_q: nn.RMSNorm, norm_k: nn.RMSNorm, rope: Parts) -> Parts:
    q, key, value = qkv
    return rotate(norm_q(q), *rope), rotate(norm_k(key), *rope), value


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs `(T, H, E)` turned by cos, sin `(T, E/2)`, in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def attention(q: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """One sequence `(T, H, E)`."""
    q, key, value = (x.transpose(0, 1)[None] for x in (q, key, value))
    return F.scaled_dot_product_attention(q, key, value, attn_mask=mask)[0].transpose(0, 1)


def image_alone(block: DoubleBlock, x: Tensor, modulation: Parts, rope: Parts, attend: Attend) -> Tensor:
    """The image stream of a double block, for references."""
    attn, eps = block.attn, block.eps
    shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation
    y = adaln(x, shift, scale, eps)
    qkv = norm_rope(heads(attn.head_dim, attn.to_q(y), attn.to_k(y), attn.to_v(y)), attn.norm_q, attn.norm_k, rope)
    x = x + gate * attn.to_out[0](attend(*qkv).flatten(1))
    return x + gate_ff * feed_forward(block.ff, adaln(x, shift_ff, scale_ff, eps))


def single(
    block: SingleBlock,
    x: Tensor,
    modulation: Parts,
    rope: Parts,
    attend: Attend,
    asked: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Tensor:
    """A single block; `asked` takes the rows whose queries, MLP and output are wanted.

    Modulation is a row for each token, or one `(1, D)` for all of them.
    """
    attn = block.attn
    shift, scale, gate = modulation
    projected = attn.to_qkv_mlp_proj(adaln(x, shift, scale, block.eps))
    width = attn.to_out.out_features
    *qkv, mlp = projected.split((width, width, width, projected.shape[-1] - 3 * width), dim=-1)
    q, key, value = norm_rope(heads(attn.head_dim, *qkv), attn.norm_q, attn.norm_k, rope)
    out = attend(asked(q), key, value).flatten(1)
    gate = asked(gate) if gate.shape[0] == x.shape[0] else gate
    made: Tensor = asked(x) + gate * attn.to_out(torch.cat((out, swiglu(asked(mlp))), dim=-1))
    return made
