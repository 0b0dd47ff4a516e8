"""Low-rank adapters beside a linear, each packed sequence with its own, in two Triton kernels.

The SGMV of Punica (Chen et al. 2023, arXiv 2310.18547) and S-LoRA (Sheng et al. 2023, arXiv 2311.03285) over our
tables of tiles: `shrink` takes rows of one sequence down to the rank of one of its adapters, `expand` adds all of them
to what the linear made, in place. A program of a sequence without adapters ends at once. FP8 rows are taken as they
are, and their scales applied to the small result.

Letters as in `kernels.reference`: T tokens, N sequences, D width in, M width out, A places, R rank, K adapters at most.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels import reference
from kernels.fp8 import Quantised, Rows
from kernels.launch import INTERPRETED, row_stride, takes_kernel
from kernels.products import dot
from kernels.routes import Route
from kernels.segments import Segments

ROWS_PER_PROGRAM = 64
COLUMNS_IN = 128  # of x in one step of a shrink
COLUMNS_OUT = 64  # of y in one program of an expand; with these, ranks up to 64 spill nothing
WARPS = 4


@triton.jit
def shrink_kernel(
    p_x: tl.tensor, p_x_scales: tl.tensor, p_down: tl.tensor, p_h: tl.tensor, p_slots: tl.tensor,
    p_strengths: tl.tensor, p_cu: tl.tensor, p_tiles: tl.tensor, stride_x: tl.tensor, stride_place: tl.tensor,
    width: tl.tensor, rank: tl.tensor,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, FP8: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """One program: up to ROWS rows of one sequence down to the rank of its adapter i_k, times that one's scale."""
    i_g, i_k = tl.program_id(0), tl.program_id(1)
    i_s, i_b = tl.load(p_tiles + 2 * i_g).to(tl.int64), tl.load(p_tiles + 2 * i_g + 1)
    i_a = tl.load(p_slots + i_s * K + i_k).to(tl.int64)
    if i_a >= 0:
        o_t = tl.load(p_cu + i_s).to(tl.int64) + i_b * ROWS + tl.arange(0, ROWS)
        m_t = o_t < tl.load(p_cu + i_s + 1)
        o_r = tl.arange(0, BLOCK_R)
        m_r = o_r < rank
        p_down += i_a * stride_place
        # [ROWS, BLOCK_R]
        b_h = tl.zeros([ROWS, BLOCK_R], tl.float32)
        for i_d in range(0, width, BLOCK_D):
            o_d = i_d + tl.arange(0, BLOCK_D)
            m_d = o_d < width
            # [ROWS, BLOCK_D]
            m_x = m_t[:, None] & m_d[None, :]
            if FP8:
                b_x = tl.load(p_x + o_t[:, None] * stride_x + o_d[None, :], mask=m_x).to(tl.float32)
                b_x = tl.where(m_x, b_x, 0.0).to(p_down.dtype.element_ty)
            else:
                b_x = tl.load(p_x + o_t[:, None] * stride_x + o_d[None, :], mask=m_x, other=0.0)
            # [BLOCK_D, BLOCK_R]
            m_a = m_d[:, None] & m_r[None, :]
            b_a = tl.load(p_down + o_r[None, :] * width + o_d[:, None], mask=m_a, other=0.0)
            b_h = dot(b_x, b_a, b_h, WIDE)
        b_h *= tl.load(p_strengths + i_s * K + i_k)
        if FP8:
            b_h *= tl.load(p_x_scales + o_t, mask=m_t, other=0.0)[:, None]
        tl.store(p_h + (o_t * K + i_k)[:, None] * rank + o_r[None, :], b_h, mask=m_t[:, None] & m_r[None, :])


@triton.jit
def expand_kernel(
    p_h: tl.tensor, p_up: tl.tensor, p_y: tl.tensor, p_slots: tl.tensor, p_cu: tl.tensor, p_tiles: tl.tensor,
    stride_y: tl.tensor, stride_place: tl.tensor, width: tl.tensor, rank: tl.tensor,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """One program: adds what the adapters of one sequence make, to up to ROWS rows and BLOCK_M columns of p_y."""
    i_g, i_m = tl.program_id(0), tl.program_id(1)
    i_s, i_b = tl.load(p_tiles + 2 * i_g).to(tl.int64), tl.load(p_tiles + 2 * i_g + 1)
    if tl.load(p_slots + i_s * K) >= 0:
        o_t = tl.load(p_cu + i_s).to(tl.int64) + i_b * ROWS + tl.arange(0, ROWS)
        m_t = o_t < tl.load(p_cu + i_s + 1)
        o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
        m_m = o_m < width
        o_r = tl.arange(0, BLOCK_R)
        m_r = o_r < rank
        # [ROWS, BLOCK_M]
        b_o = tl.zeros([ROWS, BLOCK_M], tl.float32)
        for i_k in range(K):
            i_a = tl.load(p_slots + i_s * K + i_k).to(tl.int64)
            there = i_a >= 0
            # [ROWS, BLOCK_R]
            m_h = m_t[:, None] & m_r[None, :] & there
            b_h = tl.load(p_h + (o_t * K + i_k)[:, None] * rank + o_r[None, :], mask=m_h, other=0.0)
            # [BLOCK_R, BLOCK_M]
            m_u = m_r[:, None] & m_m[None, :] & there
            b_u = tl.load(p_up + i_a * stride_place + o_m[None, :] * rank + o_r[:, None], mask=m_u, other=0.0)
            b_o = dot(b_h.to(b_u.dtype), b_u, b_o, WIDE)
        m_y = m_t[:, None] & m_m[None, :]
        p_o = p_y + o_t[:, None] * stride_y + o_m[None, :]
        b_o += tl.load(p_o, mask=m_y, other=0.0).to(tl.float32)
        tl.store(p_o, b_o.to(p_y.dtype.element_ty), mask=m_y)


@triton_op("changeroom::add_low_rank", mutates_args={"y"})
def add_low_rank_op(
    y: Tensor,
    x: Tensor,
    x_scales: Tensor | None,
    down: Tensor,
    up: Tensor,
    slots: list[int],
    strengths: list[float],
    slot_table: Tensor,
    strength_table: Tensor,
    lengths: list[int],
    cu_seqlens: Tensor,
    tiles: Tensor,
) -> None:
    """`add_low_rank` in place on tensors alone: lists for the host, tables for the device."""
    if not takes_kernel(y):
        width = slot_table.shape[1]
        pairs = [(slot, strength) for slot, strength in zip(slots, strengths, strict=True)]
        rows = (pairs[i : i + width] for i in range(0, len(pairs), width))
        route = Route(tuple(tuple(pair for pair in row if pair[0] >= 0) for row in rows), width)
        given = x if x_scales is None else Quantised(x, x_scales)
        reference.add_low_rank(y, given, down, up, route, Segments(tuple(lengths)))
        return
    (rank, width_in), width_out, most = down.shape[1:], y.shape[1], slot_table.shape[1]
    low = torch.empty(y.shape[0], most, rank, dtype=torch.float32, device=y.device)
    block = max(16, triton.next_power_of_2(rank))
    wrap_triton(shrink_kernel)[(tiles.shape[0], most)](
        x, strength_table if x_scales is None else x_scales, down, low, slot_table, strength_table, cu_seqlens, tiles,
        x.stride(0), down.stride(0), width_in, rank,
        K=most, ROWS=ROWS_PER_PROGRAM, BLOCK_D=COLUMNS_IN, BLOCK_R=block, FP8=x_scales is not None, WIDE=INTERPRETED,
        num_warps=WARPS,
    )  # fmt: skip
    wrap_triton(expand_kernel)[(tiles.shape[0], triton.cdiv(width_out, COLUMNS_OUT))](
        low, up, y, slot_table, cu_seqlens, tiles, y.stride(0), up.stride(0), width_out, rank,
        K=most, ROWS=ROWS_PER_PROGRAM, BLOCK_M=COLUMNS_OUT, BLOCK_R=block, WIDE=INTERPRETED, num_warps=WARPS,
    )  # fmt: skip


@add_low_rank_op.register_fake
def _(
    y: Tensor, x: Tensor, x_scales: Tensor | None, down: Tensor, up: Tensor, slots: list[int], strengths: list[float],
    slot_table: Tensor, strength_table: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor,
) -> None:  # fmt: skip
    return None


def add_low_rank(y: Tensor, x: Rows, down: Tensor, up: Tensor, route: Route, segments: Segments) -> Tensor:
    """`kernels.reference.add_low_rank`. Raises ValueError as that does.

    Rows of x and y may be any distance apart, adapters of down and up too. x, y, down and up have one dtype, but for
    Quantised x.
    """
    reference.check_low_rank(y, x, down, up, route, segments)
    values, scales = (x, None) if isinstance(x, Tensor) else (x.values, x.scales)
    for name, rows in (("y", y), ("x", values), ("down", down), ("up", up)):
        row_stride(rows, name)
        if rows.dtype != y.dtype and rows.dtype != torch.float8_e4m3fn:
            raise ValueError(f"{name} is {rows.dtype}, y {y.dtype}")
    if route.width and segments.total:
        slots, strengths = route.tables(y.device)
        add_low_rank_op(
            y, values, scales, down, up,
            [slot for row in route.rows for slot, _ in row], [scale for row in route.rows for _, scale in row],
            slots, strengths,
            list(segments.lengths), segments.cu_seqlens(y.device), segments.tiles(ROWS_PER_PROGRAM, y.device),
        )  # fmt: skip
    return y
