"""FP8 linears without calibration: every row of activations and of weights carries its own scale.

e4m3 (Micikevicius et al. 2022, arXiv:2209.05433) with `x ~ values * scales[:, None]`. Quantising costs a
pass over the activations unless their producer does it: AdaLN and SwiGLU have FP8 outputs for that
(`kernels.reference.adaln_fp8` and its kin). `KEPT` lists what stays in bfloat16, and why. No Triton here:
the Triton kernels that quantise are in `kernels.quantise`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

E4M3_MAX = 448.0
SMALLEST = 1e-12  # of a row's largest magnitude: a row of zeros gets a finite scale

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

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Quantised":
        """The rows as `move` chooses and orders them."""
        return Quantised(move(self.values.view(torch.uint8)).view(self.values.dtype), move(self.scales))


Rows = Tensor | Quantised
"""`(T, D)` as a linear of a block takes it."""


def quantise_twin(x: Tensor) -> tuple[Tensor, Tensor]:
    """What every FP8 kernel computes, in plain torch: x `(T, D)` to e4m3 values and float32 scales."""
    x = x.float()
    scales = x.abs().amax(dim=-1).clamp(min=SMALLEST) / E4M3_MAX
    values = (x / scales[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return values, scales


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
    if x.values.device.type not in ("cuda", "meta"):
        return linear_twin(x, weight, dtype)
    if not x.values.shape[0]:
        return torch.empty(0, weight.values.shape[0], dtype=dtype, device=x.values.device)
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

    values: Tensor
    scales: Tensor

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
        return cls(Quantised(*quantise_twin(layer.weight.detach())), layer.weight.dtype)

    def forward(self, x: Rows) -> Tensor:
        """`(T, D)` to `(T, M)`."""
        return self.rows(x, slice(None))

    def rows(self, x: Rows, rows: slice) -> Tensor:
        """Only some of the outputs: `(T, D)` to `(T, len(rows))`."""
        given = x if isinstance(x, Quantised) else Quantised(*quantise_twin(x))
        return linear(given, Quantised(self.values[rows], self.scales[rows]), self.dtype)


def convert(model: nn.Module) -> list[str]:
    """Replaces, in place, every linear that KEPT does not name by an Fp8Linear; returns their names."""
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(tuple(prefix for prefix, _ in KEPT))
    ]
    for name in found:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Fp8Linear.of(cast("nn.Linear", model.get_submodule(name))))
    return found
