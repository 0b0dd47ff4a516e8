"""LayerNorm and AdaLN modulation in one pass, each request with its own shift and scale.

A program takes a few rows of one sequence, so a sequence's shift and scale are read once for all of them
and no `(T, D)` copy of either is made. Float32 from load to store. The gated residual that ends the sub-layer
before can be taken into the same pass, and with FP8 output the row that was just normalised is quantised before
it leaves the registers.
Letters as in `kernels.reference`: T tokens, N sequences, D width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels import reference
from kernels.fp8 import Quantised
from kernels.gated_mlp import FLOAT16_MAX, ROWS_PER_PROGRAM
from kernels.launch import row_stride, takes_kernel
from kernels.quantise import empty_rows, store_quantised, warps_for
from kernels.segments import Segments


@triton.jit
def adaln_kernel(
    p_x: tl.tensor, p_y: tl.tensor, p_gate: tl.tensor, p_shift: tl.tensor, p_scale: tl.tensor,
    p_sum: tl.tensor, p_o: tl.tensor, p_row_scales: tl.tensor, p_cu: tl.tensor, p_tiles: tl.tensor,
    stride_x: tl.tensor, stride_y: tl.tensor, stride_gate: tl.tensor, stride_shift: tl.tensor,
    stride_scale: tl.tensor, width: tl.tensor, eps: tl.tensor,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, RESIDUAL: tl.constexpr, SATURATE: tl.constexpr, BOUND: tl.constexpr,
    FP8: tl.constexpr,
) -> None:  # fmt: skip
    """One program: up to ROWS rows of one sequence. With RESIDUAL, x + gate y goes to p_sum and is normalised."""
    i_g = tl.program_id(0)
    i_s, i_b = tl.load(p_tiles + 2 * i_g).to(tl.int64), tl.load(p_tiles + 2 * i_g + 1)
    start = tl.load(p_cu + i_s).to(tl.int64) + i_b * ROWS
    count = tl.minimum(ROWS, tl.load(p_cu + i_s + 1) - start)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < width
    # [BLOCK_D]
    b_shift = tl.load(p_shift + i_s * stride_shift + o_d, mask=m_d, other=0.0).to(tl.float32)
    b_scale = tl.load(p_scale + i_s * stride_scale + o_d, mask=m_d, other=0.0).to(tl.float32)
    if RESIDUAL:
        b_gate = tl.load(p_gate + i_s * stride_gate + o_d, mask=m_d, other=0.0).to(tl.float32)
    for i_r in range(count):
        i_t = start + i_r
        # [BLOCK_D]
        b_x = tl.load(p_x + i_t * stride_x + o_d, mask=m_d, other=0.0).to(tl.float32)
        if RESIDUAL:
            b_x += b_gate * tl.load(p_y + i_t * stride_y + o_d, mask=m_d, other=0.0).to(tl.float32)
            if SATURATE:
                b_x = tl.minimum(tl.maximum(b_x, -BOUND), BOUND)
            b_sum = b_x.to(p_sum.dtype.element_ty)
            tl.store(p_sum + i_t * width + o_d, b_sum, mask=m_d)
            b_x = b_sum.to(tl.float32)
        b_c = tl.where(m_d, b_x - tl.sum(b_x, 0) / width, 0.0)
        b_n = b_c * tl.rsqrt(tl.sum(b_c * b_c, 0) / width + eps)
        b_h = (1.0 + b_scale) * b_n + b_shift
        p_h = p_o + i_t * width + o_d
        if FP8:
            store_quantised(b_h, m_d, p_h, p_row_scales + i_t)
        else:
            tl.store(p_h, b_h.to(p_o.dtype.element_ty), mask=m_d)


@triton_op("changeroom::adaln", mutates_args=())
def adaln_op(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    lengths: list[int],
    cu_seqlens: Tensor,
    tiles: Tensor,
    eps: float,
    fp8: bool,
) -> list[Tensor]:
    """`adaln` or `adaln_fp8` on tensors alone: lengths for the host, boundaries and tile table for the device."""
    if not takes_kernel(x):
        segments = Segments(tuple(lengths))
        return _flat((reference.adaln_fp8 if fp8 else reference.adaln)(x, shift, scale, segments, eps))
    outs = empty_rows(x, x.shape[1], fp8)
    _launch(x, None, None, shift, scale, cu_seqlens, tiles, eps, outs)
    return outs


@adaln_op.register_fake
def _(
    x: Tensor, shift: Tensor, scale: Tensor,
    lengths: list[int], cu_seqlens: Tensor, tiles: Tensor, eps: float, fp8: bool,
) -> list[Tensor]:  # fmt: skip
    return empty_rows(x, x.shape[1], fp8)


@triton_op("changeroom::residual_adaln", mutates_args=())
def residual_adaln_op(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    lengths: list[int],
    cu_seqlens: Tensor,
    tiles: Tensor,
    eps: float,
    fp8: bool,
) -> list[Tensor]:
    """`residual_adaln` or `residual_adaln_fp8` on tensors alone; the sum comes first."""
    if not takes_kernel(x):
        twin = reference.residual_adaln_fp8 if fp8 else reference.residual_adaln
        total, normed = twin(x, y, gate, shift, scale, Segments(tuple(lengths)), eps)
        return [total, *_flat(normed)]
    outs = _empty_residual(x, fp8)
    _launch(x, y, gate, shift, scale, cu_seqlens, tiles, eps, outs)
    return outs


@residual_adaln_op.register_fake
def _(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor,
    lengths: list[int], cu_seqlens: Tensor, tiles: Tensor, eps: float, fp8: bool,
) -> list[Tensor]:  # fmt: skip
    return _empty_residual(x, fp8)


def adaln(x: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float) -> Tensor:
    """LayerNorm without affine, then `(1 + scale) x + shift`; x `(T, D)`, shift and scale `(N, D)`.

    Rows may be any distance apart. Raises ValueError when shapes do not fit or rows are not contiguous.
    """
    tables = _tables(segments, x, {}, {"shift": shift, "scale": scale})
    normed: Tensor = adaln_op(x, shift, scale, *tables, eps, False)[0]
    return normed


def adaln_fp8(x: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float) -> Quantised:
    """`adaln`, row-wise quantised to e4m3."""
    tables = _tables(segments, x, {}, {"shift": shift, "scale": scale})
    return Quantised(*adaln_op(x, shift, scale, *tables, eps, True))


def residual_adaln(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float
) -> tuple[Tensor, Tensor]:
    """`x + gate y` and its `adaln`, in one pass; x, y `(T, D)`, gate, shift, scale `(N, D)`.

    float16 saturates instead of overflowing. Raises ValueError as `adaln`.
    """
    tables = _tables(segments, x, {"y": y}, {"gate": gate, "shift": shift, "scale": scale})
    total, normed = residual_adaln_op(x, y, gate, shift, scale, *tables, eps, False)
    return total, normed


def residual_adaln_fp8(
    x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, segments: Segments, eps: float
) -> tuple[Tensor, Quantised]:
    """`residual_adaln` with its second result row-wise quantised to e4m3."""
    tables = _tables(segments, x, {"y": y}, {"gate": gate, "shift": shift, "scale": scale})
    total, values, scales = residual_adaln_op(x, y, gate, shift, scale, *tables, eps, True)
    return total, Quantised(values, scales)


def _tables(
    segments: Segments, x: Tensor, alike: dict[str, Tensor], rows: dict[str, Tensor]
) -> tuple[list[int], Tensor, Tensor]:
    """What a launch needs besides its tensors, which are checked: `alike` as x, `rows` one a sequence."""
    if x.ndim != 2 or x.shape[0] != segments.total:
        raise ValueError(f"x is {tuple(x.shape)}, its segments have {segments.total} tokens")
    for name, tensor in {"x": x, **alike, **rows}.items():
        expected = (len(segments), x.shape[1]) if name in rows else x.shape
        if tensor.shape != expected:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(expected)}")
        row_stride(tensor, name)
    return list(segments.lengths), segments.cu_seqlens(x.device), segments.tiles(ROWS_PER_PROGRAM, x.device)


def _empty_residual(x: Tensor, fp8: bool) -> list[Tensor]:
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device), *empty_rows(x, x.shape[1], fp8)]


def _flat(result: Tensor | Quantised) -> list[Tensor]:
    return [result.values, result.scales] if isinstance(result, Quantised) else [result]


def _launch(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    cu_seqlens: Tensor,
    tiles: Tensor,
    eps: float,
    outs: list[Tensor],
) -> None:
    """Fills outs: the sum `(T, D)` when there is a y, then the normed rows, or e4m3 values and scales `(T,)`."""
    if tiles.shape[0] == 0:
        return
    width, residual = x.shape[1], y is not None and gate is not None
    total, normed, row_scales = outs[0], outs[1 if residual else 0], outs[-1]
    y, gate = (x if y is None else y), (shift if gate is None else gate)
    wrap_triton(adaln_kernel)[(tiles.shape[0],)](
        x, y, gate, shift, scale, total, normed, row_scales, cu_seqlens, tiles,
        x.stride(0), y.stride(0), gate.stride(0), shift.stride(0), scale.stride(0), width, eps,
        ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(width), RESIDUAL=residual,
        SATURATE=x.dtype == torch.float16, BOUND=FLOAT16_MAX, FP8=normed.dtype == torch.float8_e4m3fn,
        num_warps=warps_for(width),
    )  # fmt: skip
