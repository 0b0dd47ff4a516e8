"""The pointwise steps around a block's MLP: SwiGLU, and the gated residual after it.

SwiGLU: Shazeer 2020 (arXiv:2002.05202). Both read each input once and work in float32. SwiGLU can put the
attention's output in front of its own, as a single-stream block's last linear wants it, and leave its rows quantised
to FP8.
Letters as in `kernels.reference`: T tokens, N sequences, D width, M width of the MLP.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels import reference
from kernels.fp8 import Quantised
from kernels.launch import row_stride, takes_kernel
from kernels.quantise import e4m3_rows, empty_rows, scale_of, warps_for
from kernels.segments import Segments

ROWS_PER_PROGRAM = 4
FLOAT16_MAX = 65504.0


@triton.jit
def swiglu_kernel(
    p_x: tl.tensor, p_lead: tl.tensor, p_o: tl.tensor, p_row_scales: tl.tensor,
    stride_x: tl.tensor, stride_lead: tl.tensor, width: tl.tensor, width_lead: tl.tensor,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, LEAD: tl.constexpr, FP8: tl.constexpr,
) -> None:  # fmt: skip
    """One program: one row, gate half and value half, after the row of p_lead if there is one."""
    i_t = tl.program_id(0).to(tl.int64)
    o_m = tl.arange(0, BLOCK_M)
    m_m = o_m < width
    p_x += i_t * stride_x
    # [BLOCK_M]
    b_gate = tl.load(p_x + o_m, mask=m_m, other=0.0).to(tl.float32)
    b_value = tl.load(p_x + width + o_m, mask=m_m, other=0.0).to(tl.float32)
    b_y = b_gate / (1.0 + tl.exp(-b_gate)) * b_value
    p_o += i_t * (width + width_lead)
    if LEAD:
        o_d = tl.arange(0, BLOCK_D)
        m_d = o_d < width_lead
        # [BLOCK_D]
        b_lead = tl.load(p_lead + i_t * stride_lead + o_d, mask=m_d, other=0.0).to(tl.float32)
    if FP8:
        largest = tl.max(tl.abs(b_y), 0)
        if LEAD:
            largest = tl.maximum(largest, tl.max(tl.abs(b_lead), 0))
        scale = scale_of(largest)
        tl.store(p_row_scales + i_t, scale)
        tl.store(p_o + width_lead + o_m, e4m3_rows(b_y, scale), mask=m_m)
        if LEAD:
            tl.store(p_o + o_d, e4m3_rows(b_lead, scale), mask=m_d)
    else:
        tl.store(p_o + width_lead + o_m, b_y.to(p_o.dtype.element_ty), mask=m_m)
        if LEAD:
            tl.store(p_o + o_d, b_lead.to(p_o.dtype.element_ty), mask=m_d)


@triton.jit
def gated_residual_kernel(
    p_x: tl.tensor, p_y: tl.tensor, p_gate: tl.tensor, p_o: tl.tensor, p_cu: tl.tensor, p_tiles: tl.tensor,
    stride_x: tl.tensor, stride_y: tl.tensor, stride_gate: tl.tensor, width: tl.tensor,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, SATURATE: tl.constexpr, BOUND: tl.constexpr,
) -> None:  # fmt: skip
    """One program: up to ROWS rows of one sequence."""
    i_g = tl.program_id(0)
    i_s, i_b = tl.load(p_tiles + 2 * i_g), tl.load(p_tiles + 2 * i_g + 1)
    start = tl.load(p_cu + i_s).to(tl.int64) + i_b * ROWS
    count = tl.minimum(ROWS, tl.load(p_cu + i_s + 1) - start)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < width
    # [BLOCK_D]
    b_gate = tl.load(p_gate + i_s.to(tl.int64) * stride_gate + o_d, mask=m_d, other=0.0).to(tl.float32)
    for i_r in range(count):
        i_t = start + i_r
        # [BLOCK_D]
        b_x = tl.load(p_x + i_t * stride_x + o_d, mask=m_d, other=0.0).to(tl.float32)
        b_y = tl.load(p_y + i_t * stride_y + o_d, mask=m_d, other=0.0).to(tl.float32)
        b_o = b_x + b_gate * b_y
        if SATURATE:
            b_o = tl.minimum(tl.maximum(b_o, -BOUND), BOUND)
        tl.store(p_o + i_t * width + o_d, b_o.to(p_o.dtype.element_ty), mask=m_d)


@triton_op("changeroom::swiglu", mutates_args=())
def swiglu_op(x: Tensor, lead: Tensor | None, fp8: bool) -> list[Tensor]:
    """`swiglu` or `swiglu_fp8` as an operator."""
    if not takes_kernel(x):
        if not fp8:
            return [reference.swiglu(x, lead)]
        quantised = reference.swiglu_fp8(x, lead)
        return [quantised.values, quantised.scales]
    outs = _empty_swiglu(x, lead, fp8)
    width, ahead = x.shape[1] // 2, 0 if lead is None else lead.shape[1]
    if x.shape[0]:
        given = x if lead is None else lead
        wrap_triton(swiglu_kernel)[(x.shape[0],)](
            x, given, outs[0], outs[-1], x.stride(0), given.stride(0), width, ahead,
            BLOCK_M=triton.next_power_of_2(width), BLOCK_D=triton.next_power_of_2(max(ahead, 1)),
            LEAD=lead is not None, FP8=fp8, num_warps=warps_for(width),
        )  # fmt: skip
    return outs


@swiglu_op.register_fake
def _(x: Tensor, lead: Tensor | None, fp8: bool) -> list[Tensor]:
    return _empty_swiglu(x, lead, fp8)


@triton_op("changeroom::gated_residual", mutates_args=())
def gated_residual_op(
    x: Tensor, y: Tensor, gate: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor
) -> Tensor:
    """`gated_residual` on tensors alone: lengths for the host, the tables for the device."""
    if not takes_kernel(x):
        return reference.gated_residual(x, y, gate, Segments(tuple(lengths)))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if tiles.shape[0]:
        width = x.shape[1]
        wrap_triton(gated_residual_kernel)[(tiles.shape[0],)](
            x, y, gate, out, cu_seqlens, tiles, x.stride(0), y.stride(0), gate.stride(0), width,
            ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(width),
            SATURATE=x.dtype == torch.float16, BOUND=FLOAT16_MAX, num_warps=warps_for(width),
        )  # fmt: skip
    return out


@gated_residual_op.register_fake
def _(x: Tensor, y: Tensor, gate: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def swiglu(x: Tensor, lead: Tensor | None = None) -> Tensor:
    """`silu(first half) * second half` of the last axis, `(T, 2M) -> (T, M)`; `lead (T, D)` goes in front.

    Rows may be any distance apart. Raises ValueError when they are not contiguous or their width is odd.
    """
    rows: Tensor = swiglu_op(*_halves(x, lead), False)[0]
    return rows


def swiglu_fp8(x: Tensor, lead: Tensor | None = None) -> Quantised:
    """`swiglu`, row-wise quantised to e4m3, `lead` included."""
    return Quantised(*swiglu_op(*_halves(x, lead), True))


def gated_residual(x: Tensor, y: Tensor, gate: Tensor, segments: Segments) -> Tensor:
    """`x + gate y`; x, y `(T, D)`, gate `(N, D)`. float16 saturates instead of overflowing.

    Raises ValueError when shapes do not fit or rows are not contiguous.
    """
    total: Tensor = gated_residual_op(x, y, gate, *_tables(x, y, gate, segments))
    return total


def _tables(x: Tensor, y: Tensor, gate: Tensor, segments: Segments) -> tuple[list[int], Tensor, Tensor]:
    if x.ndim != 2 or x.shape[0] != segments.total or y.shape != x.shape:
        raise ValueError(f"x {tuple(x.shape)}, y {tuple(y.shape)} and segments of {segments.total} tokens differ")
    if gate.shape != (len(segments), x.shape[1]):
        raise ValueError(f"gate is {tuple(gate.shape)}, not {(len(segments), x.shape[1])}")
    for name, rows in (("x", x), ("y", y), ("gate", gate)):
        row_stride(rows, name)
    return list(segments.lengths), segments.cu_seqlens(x.device), segments.tiles(ROWS_PER_PROGRAM, x.device)


def _halves(x: Tensor, lead: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if x.ndim != 2 or x.shape[1] % 2:
        raise ValueError(f"x is {tuple(x.shape)}, not (T, 2M)")
    row_stride(x, "x")
    if lead is not None:
        if lead.ndim != 2 or lead.shape[0] != x.shape[0] or lead.dtype != x.dtype:
            raise ValueError(f"lead is {lead.dtype} {tuple(lead.shape)} beside {x.dtype} {tuple(x.shape)}")
        row_stride(lead, "lead")
    return x, lead


def _empty_swiglu(x: Tensor, lead: Tensor | None, fp8: bool) -> list[Tensor]:
    width = x.shape[1] // 2 + (0 if lead is None else lead.shape[1])
    return empty_rows(x, width, fp8)
