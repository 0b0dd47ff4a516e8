"""LayerNorm and AdaLN modulation in one pass, each request with its own shift and scale.

A program takes a few rows of one sequence, so a sequence's shift and scale are read once for all of them
and no `(T, D)` copy of either is made. Float32 from load to store. With FP8 output the row that was just
normalised is quantised before it leaves the registers.
Letters as in `kernels.reference`: T tokens, N sequences, D width.
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


@triton.jit
def adaln_kernel(
    p_x, p_shift, p_scale, p_o, p_row_scales, p_cu, p_tiles, stride_x, stride_shift, stride_scale, width, eps,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One program: up to ROWS rows of one sequence."""
    i_g = tl.program_id(0)
    i_s, i_b = tl.load(p_tiles + 2 * i_g), tl.load(p_tiles + 2 * i_g + 1)
    start = tl.load(p_cu + i_s).to(tl.int64) + i_b * ROWS
    count = tl.minimum(ROWS, tl.load(p_cu + i_s + 1) - start)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < width
    # [BLOCK_D]
    b_shift = tl.load(p_shift + i_s.to(tl.int64) * stride_shift + o_d, mask=m_d, other=0.0).to(tl.float32)
    b_scale = tl.load(p_scale + i_s.to(tl.int64) * stride_scale + o_d, mask=m_d, other=0.0).to(tl.float32)
    for i_r in range(count):
        i_t = start + i_r
        # [BLOCK_D]
        b_x = tl.load(p_x + i_t * stride_x + o_d, mask=m_d, other=0.0).to(tl.float32)
        b_c = tl.where(m_d, b_x - tl.sum(b_x, 0) / width, 0.0)
        b_n = b_c * tl.rsqrt(tl.sum(b_c * b_c, 0) / width + eps)
        b_y = (1.0 + b_scale) * b_n + b_shift
        p_y = p_o + i_t * width + o_d
        if FP8:
            store_quantised(b_y, m_d, p_y, p_row_scales + i_t)
        else:
            tl.store(p_y, b_y.to(p_o.dtype.element_ty), mask=m_d)


@triton_op("changeroom::adaln", mutates_args=())
def adaln_op(
    x: Tensor, shift: Tensor, scale: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor, eps: float
) -> Tensor:
    """`adaln` on tensors alone: lengths for the host, boundaries and the tile table for the device."""
    if not takes_kernel(x):
        return reference.adaln(x, shift, scale, Segments(tuple(lengths)), eps)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, shift, scale, cu_seqlens, tiles, eps, out, None)
    return out


@adaln_op.register_fake
def _(x, shift, scale, lengths, cu_seqlens, tiles, eps):  # type: ignore[no-untyped-def]
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@triton_op("changeroom::adaln_fp8", mutates_args=())
def adaln_fp8_op(
    x: Tensor, shift: Tensor, scale: Tensor, lengths: list[int], cu_seqlens: Tensor, tiles: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`adaln_fp8` on tensors alone."""
    if not takes_kernel(x):
        return quantise_twin(reference.adaln(x.float(), shift.float(), scale.float(), Segments(tuple(lengths)), eps))
    values, scales = empty_quantised(*x.shape, x.device)
    _launch(x, shift, scale, cu_seqlens, tiles, eps, values, scales)
    return values, scales


@adaln_fp8_op.register_fake
def _(x, shift, scale, lengths, cu_seqlens, tiles, eps):  # type: ignore[no-untyped-def]
    return empty_quantised(*x.shape, x.device)


def adaln(x: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float) -> Tensor:
    """LayerNorm without affine, then `(1 + scale) x + shift`; x `(T, D)`, shift and scale `(N, D)`.

    Rows may be any distance apart. Raises ValueError when shapes do not fit or rows are not contiguous.
    """
    return adaln_op(*_checked(x, shift, scale, segments), eps)


def adaln_fp8(x: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float) -> Quantised:
    """`adaln`, row-wise quantised to e4m3."""
    return Quantised(*adaln_fp8_op(*_checked(x, shift, scale, segments), eps))


def _checked(
    x: Tensor, shift: Tensor, scale: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor, list[int], Tensor, Tensor]:
    if x.ndim != 2 or x.shape[0] != segments.total:
        raise ValueError(f"x is {tuple(x.shape)}, its segments have {segments.total} tokens")
    for name, rows in (("shift", shift), ("scale", scale)):
        if rows.shape != (len(segments), x.shape[1]):
            raise ValueError(f"{name} is {tuple(rows.shape)}, not {(len(segments), x.shape[1])}")
        row_stride(rows, name)
    row_stride(x, "x")
    tables = segments.cu_seqlens(x.device), segments.tiles(ROWS_PER_PROGRAM, x.device)
    return x, shift, scale, list(segments.lengths), *tables


def _launch(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor,
    eps: float,
    out: Tensor,
    row_scales: Tensor | None,
) -> None:
    """Fills out `(T, D)`, and row_scales `(T,)` when out is e4m3."""
    if tiles.shape[0] == 0:
        return
    width = x.shape[1]
    wrap_triton(adaln_kernel)[(tiles.shape[0],)](
        x, shift, scale, out, out if row_scales is None else row_scales, cu_seqlens, tiles,
        x.stride(0), shift.stride(0), scale.stride(0), width, eps,
        ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(width), FP8=row_scales is not None,
        num_warps=warps_for(width),
    )  # fmt: skip
