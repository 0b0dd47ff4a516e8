"""FP8 linears without calibration: every row of activations and of weights carries its own scale.

e4m3 (Micikevicius et al. 2022, arXiv:2209.05433) with `x ~ values * scales[:, None]`. Quantising costs a
pass over the activations unless their producer does it: `kernels.adaln` and `kernels.gated_mlp` have FP8
outputs for that, and `Fp8Linear` takes either. `KEPT` lists what stays in bfloat16, and why.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.library import triton_op, wrap_triton

from kernels.launch import INTERPRETED, row_stride, takes_kernel

E4M3_MAX = 448.0
SMALLEST = 1e-12  # of a row's largest magnitude: a row of zeros gets a finite scale

_LIMIT = tl.constexpr(E4M3_MAX)
_LEAST = tl.constexpr(SMALLEST)
_ROUNDING = tl.constexpr("rtz" if INTERPRETED else "rtne")  # the interpreter's rtne loses the carry

KEPT = (
    ("x_embedder", "first layer: its error enters every block, and 128 input channels gain nothing"),
    ("context_embedder", "once a request, on text features with outlier channels beyond what e4m3 resolves"),
    ("time_guidance_embed", "N rows: too small to gain; its output modulates every token"),
    ("double_stream_modulation", "N rows; an error in shift, scale or gate is systematic over all tokens"),
    ("single_stream_modulation", "N rows; an error in shift, scale or gate is systematic over all tokens"),
    ("norm_out", "N rows; modulates the last layer"),
    ("proj_out", "last layer: its error is the velocity's, unattenuated"),
)
"""(beginning of a module's name, why it stays in bfloat16)"""


@dataclass(frozen=True)
class Quantised:
    """`values (T, D)` float8_e4m3fn and `scales (T,)` float32; the tensor is their product, row by row."""

    values: Tensor
    scales: Tensor

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`(T, D)` in dtype."""
        return (self.values.float() * self.scales[:, None]).to(dtype)


@triton.jit
def store_quantised(b_y, m_y, p_values, p_scale):
    """Stores one row b_y (float32, zero outside its mask) as e4m3 values and one scale."""
    scale = tl.maximum(tl.max(tl.abs(b_y), 0), _LEAST) / _LIMIT
    b_v = tl.minimum(tl.maximum(b_y / scale, -_LIMIT), _LIMIT)
    tl.store(p_values, b_v.to(tl.float8e4nv, fp_downcast_rounding=_ROUNDING), mask=m_y)
    tl.store(p_scale, scale)


@triton.jit
def quantise_kernel(p_x, p_values, p_scales, stride_x, width, BLOCK_D: tl.constexpr):
    """One program: one row."""
    i_t = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < width
    # [BLOCK_D]
    b_x = tl.load(p_x + i_t * stride_x + o_d, mask=m_d, other=0.0).to(tl.float32)
    store_quantised(b_x, m_d, p_values + i_t * width + o_d, p_scales + i_t)


def quantise_twin(x: Tensor) -> tuple[Tensor, Tensor]:
    """What every FP8 kernel computes, in plain torch: x `(T, D)` to e4m3 values and float32 scales."""
    x = x.float()
    scales = x.abs().amax(dim=-1).clamp(min=SMALLEST) / E4M3_MAX
    values = (x / scales[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return values, scales


def empty_quantised(rows: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Room for values `(rows, width)` and scales `(rows,)`."""
    values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=device)
    return values, torch.empty(rows, dtype=torch.float32, device=device)


def warps_for(width: int) -> int:
    """Warps of a program that holds a whole row: at most 32 float32 of it a thread, up to 16 warps."""
    return min(16, max(4, triton.next_power_of_2(width) // 1024))


@triton_op("changeroom::quantise_rows", mutates_args=())
def quantise_rows_op(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantise_rows` as an operator."""
    if not takes_kernel(x):
        return quantise_twin(x)
    rows, width = x.shape
    values, scales = empty_quantised(rows, width, x.device)
    if rows:
        wrap_triton(quantise_kernel)[(rows,)](
            x,
            values,
            scales,
            x.stride(0),
            width,
            BLOCK_D=triton.next_power_of_2(width),
            num_warps=warps_for(width),
        )
    return values, scales


@quantise_rows_op.register_fake
def _(x):  # type: ignore[no-untyped-def]
    return empty_quantised(x.shape[0], x.shape[1], x.device)


def quantise_rows(x: Tensor) -> Quantised:
    """x `(T, D)` of any float dtype, scaled row by row. Raises ValueError when rows are not contiguous."""
    row_stride(x, "x")
    return Quantised(*quantise_rows_op(x))


def linear(x: Quantised, weight: Quantised, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """`x @ weight.T`: `(T, D)` and `(M, D)` to `(T, M)` in dtype. D and M must be multiples of 16.

    On CUDA `torch._scaled_mm` with both rows' scales in its epilogue (bfloat16 only); elsewhere its twin.
    Raises ValueError when widths differ or are not multiples of 16.
    """
    if x.values.shape[1] != weight.values.shape[1] or any(n % 16 for n in weight.values.shape):
        raise ValueError(
            f"x {tuple(x.values.shape)} and weight {tuple(weight.values.shape)} must share a width, "
            "and the weight's sizes be multiples of 16"
        )
    if x.values.device.type != "cuda":
        return linear_twin(x, weight, dtype)
    if dtype != torch.bfloat16:
        raise ValueError(f"FP8 linears on CUDA return bfloat16, not {dtype}")
    return torch._scaled_mm(
        x.values,
        weight.values.t(),
        scale_a=x.scales[:, None],
        scale_b=weight.scales[None, :],
        out_dtype=dtype,
        use_fast_accum=True,
    )


def linear_twin(x: Quantised, weight: Quantised, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """`linear` in float32."""
    product = F.linear(x.values.float(), weight.values.float())
    return (product * x.scales[:, None] * weight.scales[None, :]).to(dtype)


class Fp8Linear(nn.Module):
    """A bias-free linear with FP8 weights; its input is a tensor, or already quantised by its producer."""

    def __init__(self, weight: Quantised, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)
        self.dtype = dtype

    @classmethod
    def of(cls, layer: nn.Linear) -> "Fp8Linear":
        """From a bias-free linear. Raises ValueError when it has a bias or sizes that FP8 cannot multiply."""
        if layer.bias is not None:
            raise ValueError("FP8 linears have no bias")
        if layer.in_features % 16 or layer.out_features % 16:
            raise ValueError(f"{layer} has sizes that are not multiples of 16")
        return cls(quantise_rows(layer.weight.detach()), layer.weight.dtype)

    def forward(self, x: Tensor | Quantised) -> Tensor:
        """`(T, D)` to `(T, M)`."""
        given = x if isinstance(x, Quantised) else quantise_rows(x)
        return linear(given, Quantised(self.values, self.scales), self.dtype)


def convert(model: nn.Module) -> list[str]:
    """Replaces, in place, every linear that KEPT does not name by an Fp8Linear; returns their names."""
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(tuple(prefix for prefix, _ in KEPT))
    ]
    for name in found:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Fp8Linear.of(model.get_submodule(name)))
    return found
