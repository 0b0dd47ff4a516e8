"""Row-wise quantisation to e4m3 in Triton: the end of every kernel with an FP8 output, and a pass of its own.

The twin is `kernels.fp8.quantise_twin`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels.fp8 import E4M3_MAX, SMALLEST, Quantised, quantise_twin
from kernels.launch import INTERPRETED, row_stride, takes_kernel

_LIMIT = tl.constexpr(E4M3_MAX)
_LEAST = tl.constexpr(SMALLEST)
_ROUNDING = tl.constexpr("rtz" if INTERPRETED else "rtne")  # the interpreter's rtne loses the carry


@triton.jit
def scale_of(largest: tl.tensor) -> tl.tensor:
    """The scale of a row whose largest magnitude is given."""
    return tl.maximum(largest, _LEAST) / _LIMIT


@triton.jit
def e4m3_rows(b_y: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """b_y (float32) as e4m3 values under the scale."""
    b_v = tl.minimum(tl.maximum(b_y / scale, -_LIMIT), _LIMIT)
    return b_v.to(tl.float8e4nv, fp_downcast_rounding=_ROUNDING)


@triton.jit
def store_quantised(b_y: tl.tensor, m_y: tl.tensor, p_values: tl.tensor, p_scale: tl.tensor) -> None:
    """Stores one row b_y (float32, zero outside its mask) as e4m3 values and one scale."""
    scale = scale_of(tl.max(tl.abs(b_y), 0))
    tl.store(p_values, e4m3_rows(b_y, scale), mask=m_y)
    tl.store(p_scale, scale)


@triton.jit
def quantise_kernel(
    p_x: tl.tensor, p_values: tl.tensor, p_scales: tl.tensor, stride_x: tl.tensor, width: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """One program: one row."""
    i_t = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < width
    # [BLOCK_D]
    b_x = tl.load(p_x + i_t * stride_x + o_d, mask=m_d, other=0.0).to(tl.float32)
    store_quantised(b_x, m_d, p_values + i_t * width + o_d, p_scales + i_t)


def empty_rows(x: Tensor, width: int, fp8: bool) -> list[Tensor]:
    """Room for a kernel's rows, as many as x `(T, D)` has: `[(T, width)]` in its dtype, or e4m3 values and scales."""
    if fp8:
        return [*empty_quantised(x.shape[0], width, x.device)]
    return [torch.empty(x.shape[0], width, dtype=x.dtype, device=x.device)]


def empty_quantised(rows: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Room for values `(rows, width)` and scales `(rows,)`."""
    values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=device)
    return values, torch.empty(rows, dtype=torch.float32, device=device)


def warps_for(width: int) -> int:
    """Warps of a program that holds a whole row: at most 32 float32 of it a thread, up to 16 warps."""
    warps: int = triton.next_power_of_2(width) // 1024
    return min(16, max(4, warps))


@triton_op("changeroom::quantise_rows", mutates_args=())
def quantise_rows_op(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantise_rows` as an operator."""
    if not takes_kernel(x):
        return quantise_twin(x)
    rows, width = x.shape
    values, scales = empty_quantised(rows, width, x.device)
    if rows:
        wrap_triton(quantise_kernel)[(rows,)](
            x, values, scales, x.stride(0), width,
            BLOCK_D=triton.next_power_of_2(width), num_warps=warps_for(width),
        )  # fmt: skip
    return values, scales


@quantise_rows_op.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return empty_quantised(x.shape[0], x.shape[1], x.device)


def quantise_rows(x: Tensor) -> Quantised:
    """x `(T, D)` of any float dtype, scaled row by row. Raises ValueError when rows are not contiguous."""
    row_stride(x, "x")
    return Quantised(*quantise_rows_op(x))
