"""The truth of every kernel, in plain torch, differentiable, on any device and dtype.

Shapes: T tokens of all packed sequences, N sequences, H heads, E head size, D width.
Equal lengths run as one batched call; unequal ones group by length. No masks are built.
"""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.segments import Segments


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    *,
    prefix_k: Tensor | None = None,
    prefix_v: Tensor | None = None,
    prefix_segments: Segments | None = None,
    draws: int = 1,
) -> Tensor:
    """Softmax attention inside each packed sequence, scale 1/sqrt(E), no mask.

    q, k, v: `(T, H, E)` over `segments` (N sequences). With a prefix `(P, H, E)` over
    `prefix_segments` (N / draws sequences), sequence i also attends prefix i // draws.
    Returns `(T, H, E)`. Raises ValueError when the segments do not fit the tensors or each other.
    """
    _check_segments(q, segments, "q")
    if prefix_k is None or prefix_v is None or prefix_segments is None or prefix_segments.total == 0:
        return _attend_by_length(q, k, v, segments)
    _check_segments(prefix_k, prefix_segments, "prefix_k")
    n, groups = len(segments), len(prefix_segments)
    if n != groups * draws:
        raise ValueError(f"{n} sequences cannot share {groups} prefixes in {draws} draws each")
    length, prefix = segments.uniform, prefix_segments.uniform
    if length is not None and prefix is not None:
        k = _prepend(prefix_k, k, groups, draws, prefix, length)
        v = _prepend(prefix_v, v, groups, draws, prefix, length)
        return _sdpa(q.view(n, length, *q.shape[1:]), k, v).flatten(0, 1)
    lengths = [prefix_segments.lengths[i // draws] for i in range(n)]
    own_k, own_v = k.split(segments.lengths), v.split(segments.lengths)
    shared_k, shared_v = prefix_k.split(prefix_segments.lengths), prefix_v.split(prefix_segments.lengths)
    members = defaultdict(list)
    for i, shape in enumerate(zip(segments.lengths, lengths, strict=True)):
        members[shape].append(i)
    queries = q.split(segments.lengths)
    outputs: list[Tensor] = [q[:0]] * n
    for group in members.values():
        batch = _sdpa(
            torch.stack([queries[i] for i in group]),
            torch.stack([torch.cat((shared_k[i // draws], own_k[i])) for i in group]),
            torch.stack([torch.cat((shared_v[i // draws], own_v[i])) for i in group]),
        )
        for row, i in enumerate(group):
            outputs[i] = batch[row]
    return torch.cat(outputs)


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """RMSNorm over E then RoPE. q, k `(T, H, E)`, weights `(E,)`, cos and sin `(T, E/2)` float32."""
    size = q.shape[-1:]
    q = F.rms_norm(q, size, q_weight.to(q.dtype), eps)
    k = F.rms_norm(k, size, k_weight.to(k.dtype), eps)
    return rope(q, cos, sin), rope(k, cos, sin)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the interleaved pairs of x `(T, H, E)` by cos, sin `(T, E/2)`; float32 inside."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos, sin)[:, None]).flatten(-2).to(x.dtype)


def adaln(x: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float) -> Tensor:
    """LayerNorm without affine, then `(1 + scale) x + shift`; x `(T, D)`, shift and scale `(N, D)`."""
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    if segments.uniform is None:
        return (1 + segments.per_token(scale)) * normed + segments.per_token(shift)
    normed = normed.view(len(segments), segments.uniform, x.shape[-1])
    return ((1 + scale[:, None]) * normed + shift[:, None]).flatten(0, 1)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor, segments: Segments) -> Tensor:
    """`x + gate y`; x, y `(T, D)`, gate `(N, D)`. float16 saturates instead of overflowing."""
    if segments.uniform is None:
        out = x + segments.per_token(gate) * y
    else:
        out = x + (gate[:, None] * y.view(len(segments), segments.uniform, y.shape[-1])).flatten(0, 1)
    return out.clip(-65504, 65504) if out.dtype == torch.float16 else out


def swiglu(x: Tensor) -> Tensor:
    """`silu(first half) * second half` of the last axis: `(T, 2M) -> (T, M)`."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def _attend_by_length(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    n, length = len(segments), segments.uniform
    if length is not None:
        q, k, v = (x.view(n, length, *x.shape[1:]) for x in (q, k, v))
        return _sdpa(q, k, v).flatten(0, 1)
    pieces = list(zip(*(x.split(segments.lengths) for x in (q, k, v)), strict=True))
    members = defaultdict(list)
    for i, size in enumerate(segments.lengths):
        members[size].append(i)
    outputs: list[Tensor] = [q[:0]] * n
    for size, group in members.items():
        if size == 0:
            continue
        batch = _sdpa(*(torch.stack([pieces[i][part] for i in group]) for part in range(3)))
        for row, i in enumerate(group):
            outputs[i] = batch[row]
    return torch.cat(outputs)


def _prepend(prefix: Tensor, own: Tensor, groups: int, draws: int, prefix_length: int, length: int) -> Tensor:
    shared = prefix.view(groups, 1, prefix_length, *prefix.shape[1:]).expand(-1, draws, -1, -1, -1)
    return torch.cat((shared, own.view(groups, draws, length, *own.shape[1:])), dim=2).flatten(0, 1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`(N, L, H, E)` in and out."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _check_segments(x: Tensor, segments: Segments, name: str) -> None:
    if x.shape[0] != segments.total:
        raise ValueError(f"{name} has {x.shape[0]} tokens, its segments {segments.total}")
