"""Packed attention in Triton: many requests in one launch, keys and values read from two places.

FlashAttention-2's online softmax (Dao 2023, arXiv:2307.08691) over packed sequences. The keys of a
sequence are those of its prefix (cached references) and then its own, read where they lie. Which tokens
see which is a matter of segments alone: `joint` is one segment a request without a prefix, `shared` one
segment of references a request, `isolated` one a reference, each a prefix of the main pass.

The grid is a table, made on the host, of the query tiles that exist: padding costs nothing.
Letters as in `kernels.reference`: T tokens, P prefix tokens, N sequences, H heads, E head size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels import reference
from kernels.launch import INTERPRETED, row_stride, takes_kernel
from kernels.products import dot
from kernels.segments import Segments

HEAD_DIMS = (32, 64, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Tile:
    """Shape of a tile and of the program that works on it; every field is a compile-time choice."""

    queries: int
    keys: int
    warps: int
    stages: int
    tma: bool = False  # Hopper's tensor maps for keys and values; TensorRT plugins cannot pass them


def tile_for(head_dim: int, dtype: torch.dtype, tma: bool = False) -> Tile:
    """The tile for a head size. Two warp groups of 64 query rows each; more keys would spill registers."""
    if dtype == torch.float32:
        return Tile(queries=64, keys=32, warps=4, stages=1, tma=tma)
    return Tile(queries=128, keys=64 if head_dim == 128 else 128, warps=8, stages=3, tma=tma)


@triton.jit
def _fold(
    b_q: tl.tensor, b_k: tl.tensor, b_v: tl.tensor, m_n: tl.tensor,
    b_acc: tl.tensor, b_max: tl.tensor, b_sum: tl.tensor, scale: tl.tensor,
    MASKED: tl.constexpr, WIDE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Adds one block of keys and values to the running softmax."""
    # [BLOCK_M, BLOCK_N]
    b_s = dot(b_q, b_k, tl.zeros([b_q.shape[0], b_k.shape[1]], tl.float32), WIDE) * scale
    if MASKED:
        b_s = tl.where(m_n[None, :], b_s, float("-inf"))
    # [BLOCK_M]
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_decay = tl.exp2(b_max - b_new)
    # [BLOCK_M, BLOCK_N]
    b_p = tl.exp2(b_s - b_new[:, None])
    b_sum = b_sum * b_decay + tl.sum(b_p, 1)
    # [BLOCK_M, E]
    b_acc = dot(b_p.to(b_v.dtype), b_v, b_acc * b_decay[:, None], WIDE)
    return b_acc, b_new, b_sum


@triton.jit
def _attend_tma(
    b_q: tl.tensor, b_acc: tl.tensor, b_max: tl.tensor, b_sum: tl.tensor,
    d_k: tl.tensor_descriptor, d_v: tl.tensor_descriptor, start: tl.tensor, length: tl.tensor, i_h: tl.tensor,
    scale: tl.tensor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, WIDE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """`_attend_pointers` through tensor maps `(T, H E)`; a last block reads into neighbours, whose values it drops."""
    for i_n in range(0, length // BLOCK_N * BLOCK_N, BLOCK_N):
        # [BLOCK_N, E]
        b_k = d_k.load([start + i_n, i_h * E])
        b_v = d_v.load([start + i_n, i_h * E])
        m_n = i_n + tl.arange(0, BLOCK_N) < length
        b_acc, b_max, b_sum = _fold(b_q, tl.trans(b_k), b_v, m_n, b_acc, b_max, b_sum, scale, False, WIDE)
    left = length % BLOCK_N
    if left > 0:
        m_n = tl.arange(0, BLOCK_N) < left
        # [BLOCK_N, E]
        b_k = d_k.load([start + length - left, i_h * E])
        b_v = tl.where(m_n[:, None], d_v.load([start + length - left, i_h * E]), 0.0)
        b_acc, b_max, b_sum = _fold(b_q, tl.trans(b_k), b_v, m_n, b_acc, b_max, b_sum, scale, True, WIDE)
    return b_acc, b_max, b_sum


@triton.jit
def _attend_pointers(
    b_q: tl.tensor, b_acc: tl.tensor, b_max: tl.tensor, b_sum: tl.tensor,
    p_k: tl.tensor, p_v: tl.tensor, length: tl.tensor, stride_k: tl.tensor, stride_v: tl.tensor, scale: tl.tensor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, WIDE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Adds all keys and values of one segment, which start at p_k and p_v."""
    o_n = tl.arange(0, BLOCK_N)
    o_e = tl.arange(0, E)
    o_k = o_n[None, :] * stride_k + o_e[:, None]
    o_v = o_n[:, None] * stride_v + o_e[None, :]
    for _ in range(length // BLOCK_N):
        # [E, BLOCK_N]
        b_k = tl.load(p_k + o_k)
        # [BLOCK_N, E]
        b_v = tl.load(p_v + o_v)
        b_acc, b_max, b_sum = _fold(b_q, b_k, b_v, o_n >= 0, b_acc, b_max, b_sum, scale, False, WIDE)
        p_k += BLOCK_N * stride_k
        p_v += BLOCK_N * stride_v
    left = length % BLOCK_N
    if left > 0:
        m_n = o_n < left
        # [E, BLOCK_N]
        b_k = tl.load(p_k + o_k, mask=m_n[None, :], other=0.0)
        # [BLOCK_N, E]
        b_v = tl.load(p_v + o_v, mask=m_n[:, None], other=0.0)
        b_acc, b_max, b_sum = _fold(b_q, b_k, b_v, m_n, b_acc, b_max, b_sum, scale, True, WIDE)
    return b_acc, b_max, b_sum


@triton.jit
def _attend(
    b_q: tl.tensor, b_acc: tl.tensor, b_max: tl.tensor, b_sum: tl.tensor,
    p_k: tl.tensor, p_v: tl.tensor, start: tl.tensor, length: tl.tensor, i_h: tl.tensor,
    stride_k: tl.tensor, stride_v: tl.tensor, scale: tl.tensor,
    E: tl.constexpr, BLOCK_N: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Adds all keys and values of one segment, whose first row is `start`."""
    if TMA:
        b_acc, b_max, b_sum = _attend_tma(
            b_q, b_acc, b_max, b_sum, p_k, p_v, start.to(tl.int32), length, i_h, scale, E, BLOCK_N, WIDE
        )
    else:
        b_acc, b_max, b_sum = _attend_pointers(
            b_q, b_acc, b_max, b_sum, p_k + start * stride_k + i_h * E, p_v + start * stride_v + i_h * E,
            length, stride_k, stride_v, scale, E, BLOCK_N, WIDE,
        )  # fmt: skip
    return b_acc, b_max, b_sum


@triton.jit
def attention_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_o: tl.tensor, p_prefix_k: tl.tensor, p_prefix_v: tl.tensor,
    p_cu: tl.tensor, p_cu_keys: tl.tensor, p_cu_prefix: tl.tensor, p_tiles: tl.tensor,
    stride_q: tl.tensor, stride_k: tl.tensor, stride_v: tl.tensor,
    stride_prefix_k: tl.tensor, stride_prefix_v: tl.tensor, draws: tl.tensor, scale: tl.tensor,
    H: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PREFIX: tl.constexpr,
    TMA: tl.constexpr, WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """One program: one tile of queries of one sequence, one head. scale is log2(e) / sqrt(E).

    With TMA, the keys' and values' arguments are tensor maps instead of pointers.
    """
    i_t, i_h = tl.program_id(0), tl.program_id(1)
    i_s, i_m = tl.load(p_tiles + 2 * i_t), tl.load(p_tiles + 2 * i_t + 1)
    start = tl.load(p_cu + i_s).to(tl.int64)
    length = (tl.load(p_cu + i_s + 1) - start).to(tl.int32)

    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_e = tl.arange(0, E)
    m_m = o_m < length
    p_q += start * stride_q + i_h * E
    # [BLOCK_M, E]
    b_q = tl.load(p_q + o_m[:, None] * stride_q + o_e[None, :], mask=m_m[:, None], other=0.0)
    b_acc = tl.zeros([BLOCK_M, E], tl.float32)
    # [BLOCK_M]
    b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)

    if PREFIX:
        i_p = i_s // draws
        start_p = tl.load(p_cu_prefix + i_p).to(tl.int64)
        length_p = (tl.load(p_cu_prefix + i_p + 1) - start_p).to(tl.int32)
        b_acc, b_max, b_sum = _attend(
            b_q, b_acc, b_max, b_sum, p_prefix_k, p_prefix_v, start_p, length_p, i_h,
            stride_prefix_k, stride_prefix_v, scale, E, BLOCK_N, TMA, WIDE,
        )  # fmt: skip
    start_k = tl.load(p_cu_keys + i_s).to(tl.int64)
    length_k = (tl.load(p_cu_keys + i_s + 1) - start_k).to(tl.int32)
    b_acc, b_max, b_sum = _attend(
        b_q, b_acc, b_max, b_sum, p_k, p_v, start_k, length_k, i_h,
        stride_k, stride_v, scale, E, BLOCK_N, TMA, WIDE,
    )  # fmt: skip

    # [BLOCK_M, E]
    b_sum = tl.where(b_sum > 0.0, b_sum, 1.0)  # a tile beyond its sequence's end may have seen no keys
    b_o = (b_acc / b_sum[:, None]).to(p_o.dtype.element_ty)
    p_o += start * (H * E) + i_h * E
    tl.store(p_o + o_m[:, None] * (H * E) + o_e[None, :], b_o, mask=m_m[:, None])


@triton_op("changeroom::attention", mutates_args=())
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    cu_seqlens: Tensor,
    tiles: Tensor,
    key_lengths: list[int],
    key_cu_seqlens: Tensor,
    prefix_k: Tensor | None,
    prefix_v: Tensor | None,
    prefix_lengths: list[int],
    prefix_cu_seqlens: Tensor | None,
    draws: int,
) -> Tensor:
    """`attention` on tensors alone: lengths for the host, boundaries and the tile table for the device."""
    if not takes_kernel(q):
        return reference.attention(
            q, k, v, Segments(tuple(lengths)), key_segments=Segments(tuple(key_lengths)),
            prefix_k=prefix_k, prefix_v=prefix_v,
            prefix_segments=Segments(tuple(prefix_lengths)) if prefix_lengths else None, draws=draws,
        )  # fmt: skip
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _launch(
        wrap_triton(attention_kernel), out, q, k, v, cu_seqlens, key_cu_seqlens, tiles,
        prefix_k, prefix_v, prefix_cu_seqlens, draws, tile_for(q.shape[-1], q.dtype),
    )  # fmt: skip
    return out


@attention_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor,
    key_lengths: list[int], key_cu_seqlens: Tensor, prefix_k: Tensor | None, prefix_v: Tensor | None,
    prefix_lengths: list[int], prefix_cu_seqlens: Tensor | None, draws: int,
) -> Tensor:  # fmt: skip
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


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
    out: Tensor | None = None,
    tile: Tile | None = None,
    tma: bool = False,
) -> Tensor:
    """`kernels.reference.attention`: `(T, H, E)` in and out, scale 1/sqrt(E), no mask.

    k and v have the segments of q, or `key_segments` of their own where only some tokens ask.
    bf16, fp16, or (slowly, for checks) fp32; float32 inside. Rows may be any distance apart, so views into
    a wider projection need no copy. With `out`, a `tile` of one's own or `tma`, which reads keys and values
    through tensor maps, the kernel is launched directly rather than as an operator.
    Raises ValueError for a head size other than 32, 64 or 128, another dtype,
    tensors that disagree, rows that are not contiguous, or segments that do not fit.
    """
    if prefix_k is None or prefix_v is None or prefix_segments is None or prefix_segments.total == 0:
        prefix_k = prefix_v = prefix_segments = None
    keys = segments if key_segments is None else key_segments
    _check(q, k, v, segments, keys, prefix_k, prefix_v, prefix_segments, draws)
    chosen = tile or tile_for(q.shape[-1], q.dtype, tma)
    cu, tiles = segments.cu_seqlens(q.device), segments.tiles(chosen.queries, q.device)
    key_cu = keys.cu_seqlens(q.device)
    prefix_cu = prefix_segments.cu_seqlens(q.device) if prefix_segments else None
    if out is None and tile is None and not tma:
        prefix_lengths = list(prefix_segments.lengths) if prefix_segments else []
        attended: Tensor = attention_op(
            q, k, v, list(segments.lengths), cu, tiles, list(keys.lengths), key_cu,
            prefix_k, prefix_v, prefix_lengths, prefix_cu, draws,
        )  # fmt: skip
        return attended
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    if out.shape != q.shape or not out.is_contiguous():
        raise ValueError(f"out must be a contiguous {tuple(q.shape)}")
    _launch(attention_kernel, out, q, k, v, cu, key_cu, tiles, prefix_k, prefix_v, prefix_cu, draws, chosen)
    return out


def _launch(
    kernel: Any,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu: Tensor,
    key_cu: Tensor,
    tiles: Tensor,
    prefix_k: Tensor | None,
    prefix_v: Tensor | None,
    prefix_cu: Tensor | None,
    draws: int,
    tile: Tile,
) -> None:
    """Fills out `(T, H, E)`; an absent prefix hands the kernel tensors it never reads.

    `kernel` is wrapped inside an operator and bare outside of one: torch keeps what a wrapped kernel was given
    outside of its operators for as long as the process lives, tensor maps and the tensors behind them included.
    """
    _, heads, size = q.shape
    if tiles.shape[0] == 0:
        return
    given, pk, pv, pcu = False, k, v, cu
    if prefix_k is not None and prefix_v is not None and prefix_cu is not None:
        given, pk, pv, pcu = True, prefix_k, prefix_v, prefix_cu
    kernel[(tiles.shape[0], heads)](
        q, *_readable(tile, k, v), out, *_readable(tile, pk, pv), cu, key_cu, pcu, tiles,
        q.stride(0), k.stride(0), v.stride(0), pk.stride(0), pv.stride(0), draws,
        math.log2(math.e) / math.sqrt(size),
        H=heads, E=size, BLOCK_M=tile.queries, BLOCK_N=tile.keys, PREFIX=given, TMA=tile.tma, WIDE=INTERPRETED,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _readable(tile: Tile, *tensors: Tensor) -> list[Tensor | TensorDescriptor]:
    """`(T, H, E)` tensors as what the kernel takes: themselves, or tensor maps of one block of keys."""
    if not tile.tma:
        return list(tensors)
    return [TensorDescriptor(x, [x.shape[0], x[0].numel()], [x.stride(0), 1], [tile.keys, x.shape[2]]) for x in tensors]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    keys: Segments,
    prefix_k: Tensor | None,
    prefix_v: Tensor | None,
    prefix_segments: Segments | None,
    draws: int,
) -> None:
    if q.ndim != 3 or q.shape[-1] not in HEAD_DIMS:
        raise ValueError(f"q is {tuple(q.shape)}, not (T, H, E) with E one of {HEAD_DIMS}")
    if q.dtype not in DTYPES:
        raise ValueError(f"attention in {q.dtype} does not exist")
    if k.shape[1:] != q.shape[1:] or v.shape != k.shape:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} differ")
    if q.shape[0] != segments.total:
        raise ValueError(f"q has {q.shape[0]} tokens, its segments {segments.total}")
    if k.shape[0] != keys.total or len(keys) != len(segments):
        raise ValueError(f"k has {k.shape[0]} tokens, its {len(keys)} segments {keys.total}; q has {len(segments)}")
    named = {"q": q, "k": k, "v": v}
    if prefix_k is not None and prefix_v is not None and prefix_segments is not None:
        named |= {"prefix_k": prefix_k, "prefix_v": prefix_v}
        if prefix_k.shape != (prefix_segments.total, *q.shape[1:]) or prefix_v.shape != prefix_k.shape:
            raise ValueError(
                f"prefix_k {tuple(prefix_k.shape)} and prefix_v {tuple(prefix_v.shape)} must be "
                f"{(prefix_segments.total, *q.shape[1:])}"
            )
        if len(segments) != len(prefix_segments) * draws:
            raise ValueError(
                f"{len(segments)} sequences cannot share {len(prefix_segments)} prefixes in {draws} draws each"
            )
    for name, x in named.items():
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name} is {x.dtype} on {x.device}, q {q.dtype} on {q.device}")
        row_stride(x, name)
