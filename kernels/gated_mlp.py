"""The pointwise steps around a block's MLP: SwiGLU, and the gated residual after it.

SwiGLU: Shazeer 2020 (arXiv:2002.05202). Both read each input once, work in float32 and can leave an FP8
copy of their row for the next linear. Letters as in `kernels.reference`: T tokens, N sequences, D width,
M width of the MLP.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels import reference
from kernels.fp8 import Quantised, empty_quantised, quantise_twin, store_quantised, warps_for
from kernels.launch import row_stride, takes_kernel
from kernels.segments import Segments

ROWS_PER_PROGRAM = 4
FLOAT16_MAX = 65504.0


@triton.jit
def swiglu_kernel(
    p_x, p_o, p_row_scales, stride_x, width,
    BLOCK_M: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One program: one row, gate half and value half."""
    i_t = tl.program_id(0).to(tl.int64)
    o_m = tl.arange(0, BLOCK_M)
    m_m = o_m < width
    p_x += i_t * stride_x
    # [BLOCK_M]
    b_gate = tl.load(p_x + o_m, mask=m_m, other=0.0).to(tl.float32)
    b_value = tl.load(p_x + width + o_m, mask=m_m, other=0.0).to(tl.float32)
    b_y = b_gate / (1.0 + tl.exp(-b_gate)) * b_value
    p_y = p_o + i_t * width + o_m
    if FP8:
        store_quantised(b_y, m_m, p_y, p_row_scales + i_t)
    else:
        tl.store(p_y, b_y.to(p_o.dtype.element_ty), mask=m_m)


@triton.jit
def gated_residual_kernel(
    p_x, p_y, p_gate, p_o, p_values, p_row_scales, p_cu, p_tiles, stride_x, stride_y, stride_gate, width,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, SATURATE: tl.constexpr, FP8: tl.constexpr,
    BOUND: tl.constexpr,
):  # fmt: skip
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
        if FP8:
            store_quantised(b_o, m_d, p_values + i_t * width + o_d, p_row_scales + i_t)


@triton_op("changeroom::swiglu", mutates_args=())
def swiglu_op(x: Tensor) -> Tensor:
    """`swiglu` as an operator."""
    if not takes_kernel(x):
        return reference.swiglu(x)
    out = torch.empty(x.shape[0], x.shape[1] // 2, dtype=x.dtype, device=x.device)
    _launch_swiglu(x, out, None)
    return out


@swiglu_op.register_fake
def _(x):  # type: ignore[no-untyped-def]
    return torch.empty(x.shape[0], x.shape[1] // 2, dtype=x.dtype, device=x.device)


@triton_op("changeroom::swiglu_fp8", mutates_args=())
def swiglu_fp8_op(x: Tensor) -> tuple[Tensor, Tensor]:
    """`swiglu_fp8` as an operator."""
    if not takes_kernel(x):
        return quantise_twin(reference.swiglu(x.float()))
    values, scales = empty_quantised(x.shape[0], x.shape[1] // 2, x.device)
    _launch_swiglu(x, values, scales)
    return values, scales


@swiglu_fp8_op.register_fake
def _(x):  # type: ignore[no-untyped-def]
    return empty_quantised(x.shape[0], x.shape[1] // 2, x.device)


@triton_op("changeroom::gated_residual", mutates_args=())
def gated_residual_op(
    x: Tensor, y: Tensor, gate: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor
) -> Tensor:
    """`gated_residual` on tensors alone: lengths for the host, the tables for the device."""
    if not takes_kernel(x):
        return reference.gated_residual(x, y, gate, Segments(tuple(lengths)))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch_residual(x, y, gate, cu_seqlens, tiles, out, None)
    return out


@gated_residual_op.register_fake
def _(x, y, gate, lengths, cu_seqlens, tiles):  # type: ignore[no-untyped-def]
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@triton_op("changeroom::gated_residual_fp8", mutates_args=())
def gated_residual_fp8_op(
    x: Tensor, y: Tensor, gate: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`gated_residual_fp8` on tensors alone."""
    if not takes_kernel(x):
        segments = Segments(tuple(lengths))
        exact = reference.gated_residual(x.float(), y.float(), gate.float(), segments)
        if x.dtype == torch.float16:
            exact = exact.clip(-FLOAT16_MAX, FLOAT16_MAX)
        return exact.to(x.dtype), *quantise_twin(exact)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    quantised = empty_quantised(*x.shape, x.device)
    _launch_residual(x, y, gate, cu_seqlens, tiles, out, quantised)
    return out, *quantised


@gated_residual_fp8_op.register_fake
def _(x, y, gate, lengths, cu_seqlens, tiles):  # type: ignore[no-untyped-def]
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), *empty_quantised(*x.shape, x.device)


def swiglu(x: Tensor) -> Tensor:
    """`silu(first half) * second half` of the last axis: `(T, 2M) -> (T, M)`.

    Rows may be any distance apart. Raises ValueError when they are not contiguous or their width is odd.
    """
    return swiglu_op(_halves(x))


def swiglu_fp8(x: Tensor) -> Quantised:
    """`swiglu`, row-wise quantised to e4m3."""
    return Quantised(*swiglu_fp8_op(_halves(x)))


def gated_residual(x: Tensor, y: Tensor, gate: Tensor, segments: Segments) -> Tensor:
    """`x + gate y`; x, y `(T, D)`, gate `(N, D)`. float16 saturates instead of overflowing.

    Raises ValueError when shapes do not fit or rows are not contiguous.
    """
    return gated_residual_op(*_residual_args(x, y, gate, segments))


def gated_residual_fp8(x: Tensor, y: Tensor, gate: Tensor, segments: Segments) -> tuple[Tensor, Quantised]:
    """`gated_residual`, and the same rows quantised to e4m3 from their float32 sums."""
    out, values, scales = gated_residual_fp8_op(*_residual_args(x, y, gate, segments))
    return out, Quantised(values, scales)


def _halves(x: Tensor) -> Tensor:
    if x.ndim != 2 or x.shape[1] % 2:
        raise ValueError(f"x is {tuple(x.shape)}, not (T, 2M)")
    row_stride(x, "x")
    return x


def _residual_args(
    x: Tensor, y: Tensor, gate: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor, list[int], Tensor, Tensor]:
    if x.ndim != 2 or x.shape[0] != segments.total or y.shape != x.shape:
        raise ValueError(f"x {tuple(x.shape)}, y {tuple(y.shape)} and segments of {segments.total} tokens differ")
    if gate.shape != (len(segments), x.shape[1]):
        raise ValueError(f"gate is {tuple(gate.shape)}, not {(len(segments), x.shape[1])}")
    for name, rows in (("x", x), ("y", y), ("gate", gate)):
        row_stride(rows, name)
    tables = segments.cu_seqlens(x.device), segments.tiles(ROWS_PER_PROGRAM, x.device)
    return x, y, gate, list(segments.lengths), *tables


def _launch_swiglu(x: Tensor, out: Tensor, row_scales: Tensor | None) -> None:
    """Fills out `(T, M)`, and row_scales `(T,)` when out is e4m3."""
    tokens, width = out.shape
    if tokens == 0:
        return
    wrap_triton(swiglu_kernel)[(tokens,)](
        x, out, out if row_scales is None else row_scales, x.stride(0), width,
        BLOCK_M=triton.next_power_of_2(width), FP8=row_scales is not None,
        num_warps=warps_for(width),
    )  # fmt: skip


def _launch_residual(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor,
    out: Tensor,
    quantised: tuple[Tensor, Tensor] | None,
) -> None:
    """Fills out `(T, D)`, and the e4m3 values and scales when they are given."""
    if tiles.shape[0] == 0:
        return
    width = x.shape[1]
    wrap_triton(gated_residual_kernel)[(tiles.shape[0],)](
        x, y, gate, out, *(quantised or (out, out)), cu_seqlens, tiles,
        x.stride(0), y.stride(0), gate.stride(0), width,
        ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(width),
        SATURATE=x.dtype == torch.float16, FP8=quantised is not None,
        BOUND=FLOAT16_MAX, num_warps=warps_for(width),
    )  # fmt: skip
