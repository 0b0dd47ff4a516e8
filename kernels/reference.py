"""The truth of every kernel, in plain torch, differentiable, on any device and dtype.

Shapes: T tokens of all packed sequences, N sequences, H heads, E head size, D width.
Equal lengths run as one batched call; unequal ones group by length. No masks are built.
"""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fp8 import Quantised, Rows, quantise_twin
from kernels.routes import Route
from kernels.segments import Heads, Interleaved, Segments


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    *,
    key_segments: Segments | None = None,
    prefix_k: Tensor | None = None,
    prefix_v: Tensor | None = None,
    prefix_segments: Segments | None = None,
    draws: int = 1,
) -> Tensor:
    """Softmax attention inside each packed sequence, scale 1/sqrt(E), no mask.

    q `(T, H, E)` over `segments` (N sequences); k, v likewise, or over `key_segments` where only some of a
    sequence's tokens ask. With a prefix `(P, H, E)` over `prefix_segments` (N / draws sequences), sequence i
    also attends prefix i // draws. Returns `(T, H, E)`. Raises ValueError when the segments do not fit the
    tensors or each other.
    """
    keys = segments if key_segments is None else key_segments
    _check_segments(q, segments, "q")
    _check_segments(k, keys, "k")
    n = len(segments)
    if len(keys) != n:
        raise ValueError(f"{len(keys)} segments of keys for {n} of queries")
    if prefix_k is None or prefix_v is None or prefix_segments is None or prefix_segments.total == 0:
        prefix_k, prefix_v, prefix_segments, draws = k[:0], v[:0], Segments((0,) * n), 1
    _check_segments(prefix_k, prefix_segments, "prefix_k")
    groups = len(prefix_segments)
    if n != groups * draws:
        raise ValueError(f"{n} sequences cannot share {groups} prefixes in {draws} draws each")
    asking, own, shared = segments.uniform, keys.uniform, prefix_segments.uniform
    if asking is not None and own is not None and shared is not None:
        k = _prepend(prefix_k, k, groups, draws, shared, own)
        v = _prepend(prefix_v, v, groups, draws, shared, own)
        return _sdpa(q.view(n, asking, *q.shape[1:]), k, v).flatten(0, 1)
    queries, own_k, own_v = q.split(segments.lengths), k.split(keys.lengths), v.split(keys.lengths)
    shared_k, shared_v = prefix_k.split(prefix_segments.lengths), prefix_v.split(prefix_segments.lengths)
    members = defaultdict(list)
    for i in range(n):
        members[segments.lengths[i], keys.lengths[i], prefix_segments.lengths[i // draws]].append(i)
    outputs: list[Tensor] = [q[:0]] * n
    for (size, *_), group in members.items():
        if size == 0:
            continue
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


def swiglu(x: Tensor, lead: Tensor | None = None) -> Tensor:
    """`silu(first half) * second half` of the last axis, `(T, 2M) -> (T, M)`; `lead (T, D)` goes in front."""
    gate, value = x.chunk(2, dim=-1)
    out = F.silu(gate) * value
    return out if lead is None else torch.cat((lead, out), dim=-1)


def residual_adaln(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float
) -> tuple[Tensor, Tensor]:
    """`gated_residual`, and `adaln` of its result: the end of one sub-layer and the start of the next."""
    x = gated_residual(x, y, gate, segments)
    return x, adaln(x, shift, scale, segments, eps)


def joint_qkv(first: Heads, second: Heads, joined: Interleaved, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`qk_norm_rope` of two streams' heads, joined sequence by sequence: q, k, v `(T, H, E)` of `joined`."""
    a, b = ((*qk_norm_rope(*heads.to_norm, eps), heads.v) for heads in (first, second))
    q, k, v = (joined.join(x, y) for x, y in zip(a, b, strict=True))
    return q, k, v


def cached_qkv(heads: Heads, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`qk_norm_rope` of q and k, and v; k and v own exactly their bytes, to be kept."""
    q, k = qk_norm_rope(*heads.to_norm, eps)
    return q, k, heads.v.contiguous()


def adaln_fp8(x: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float) -> Quantised:
    """`adaln` in float32, row-wise quantised to e4m3."""
    return quantise(adaln(x.float(), shift.float(), scale.float(), segments, eps))


def residual_adaln_fp8(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float
) -> tuple[Tensor, Quantised]:
    """`residual_adaln` with its second result row-wise quantised to e4m3."""
    x = gated_residual(x, y, gate, segments)
    return x, adaln_fp8(x, shift, scale, segments, eps)


def swiglu_fp8(x: Tensor, lead: Tensor | None = None) -> Quantised:
    """`swiglu` in float32, row-wise quantised to e4m3, `lead` included."""
    return quantise(swiglu(x.float(), None if lead is None else lead.float()))


def quantise(x: Tensor) -> Quantised:
    """x `(T, D)` row-wise quantised to e4m3."""
    return Quantised(*quantise_twin(x))


def group_norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`silu(group_norm(x))` of pictures `(B, C, H, W)`; weight and bias `(C,)`."""
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def add_low_rank(y: Tensor, x: Rows, down: Tensor, up: Tensor, route: Route, segments: Segments) -> Tensor:
    """What a linear made of x, and beside it the low-rank paths of each sequence's own adapters.

    The rows of a sequence become `y + sum of scale * up[place] @ down[place] @ x` over the (place, scale) that the
    route gives it, in float32; those of a sequence without any stay as they are. y `(T, M)` is changed and returned,
    x `(T, D)`, down `(A, R, D)`, up `(A, M, R)`. Raises ValueError when shapes do not fit.

    Source: SGMV of Punica, Chen et al. 2023, arXiv 2310.18547; S-LoRA, Sheng et al. 2023, arXiv 2311.03285.
    """
    check_low_rank(y, x, down, up, route, segments)
    wide = torch.promote_types(y.dtype, torch.float32)
    for start, stop, pairs in route.runs(segments):
        if not pairs:
            continue
        given = x[start:stop].to(wide) if isinstance(x, Tensor) else _dense(x, start, stop)
        rows = y[start:stop]
        total = rows if y.dtype == wide else rows.to(wide)
        for place, scale in pairs:
            low = scale * F.linear(given, down[place].to(wide))  # (rows, R)
            total.addmm_(low, up[place].to(wide).T)
        if total is not rows:
            rows.copy_(total)
    return y


def check_low_rank(y: Tensor, x: Rows, down: Tensor, up: Tensor, route: Route, segments: Segments) -> None:
    """Raises ValueError when the arguments of `add_low_rank` do not fit each other."""
    shape = x.shape if isinstance(x, Tensor) else x.values.shape
    _check_segments(y, segments, "y")
    if len(route) != len(segments):
        raise ValueError(f"a route of {len(route)} sequences for {len(segments)} segments")
    (tokens, width), (places, rank, made) = shape, (down.shape[0], down.shape[1], y.shape[1])
    if tokens != y.shape[0] or down.shape != (places, rank, width) or up.shape != (places, made, rank):
        raise ValueError(
            f"x {tuple(shape)} through down {tuple(down.shape)} and up {tuple(up.shape)} does not make {tuple(y.shape)}"
        )
    if used := [place for pairs in route.pairs for place, _ in pairs if not 0 <= place < places]:
        raise ValueError(f"there is no place {used[0]} among {places}")


def feed(x: Tensor) -> Tensor:
    """What a linear is given that no other kernel precedes: x itself, or `quantise` of it for an FP8 linear."""
    return x


def _dense(x: Quantised, start: int, stop: int) -> Tensor:
    return x.values[start:stop].float() * x.scales[start:stop, None]


def _prepend(prefix: Tensor, own: Tensor, groups: int, draws: int, prefix_length: int, length: int) -> Tensor:
    if prefix_length == 0:
        return own.view(groups * draws, length, *own.shape[1:])
    shared = prefix.view(groups, 1, prefix_length, *prefix.shape[1:]).expand(-1, draws, -1, -1, -1)
    return torch.cat((shared, own.view(groups, draws, length, *own.shape[1:])), dim=2).flatten(0, 1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`(N, L, H, E)` in and out."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if learning and q.device.type == "cpu" and q.dtype == k.dtype == v.dtype == torch.bfloat16:
        return _in_three_products(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _in_three_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`softmax(q k^T / sqrt(E)) v` for bf16 on a CPU that learns, `(N, H, L, E)` in and out.

    torch's fused attention there takes three times as long forward and backward as these products (torch 2.13, heads of
    32, 138 queries, 321 to 440 keys); autocast would compute the softmax, and its gradient, in float32.
    """
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return torch.softmax(scores, -1) @ v


def _check_segments(x: Tensor, segments: Segments, name: str) -> None:
    if x.shape[0] != segments.total:
        raise ValueError(f"{name} has {x.shape[0]} tokens, its segments {segments.total}")
