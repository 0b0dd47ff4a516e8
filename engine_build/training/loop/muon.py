"""Muon for matrices and convolutions: momentum, orthogonalised by Newton-Schulz, with AdamW-sized updates.

After K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), and the update scale
of Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982). torch's own Muon takes 2-D parameters
only; a convolution's weight is treated as the matrix (out, in * kh * kw).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalise(update: Tensor, steps: int = 5, bf16: bool = False) -> Tensor:
    """The nearest semi-orthogonal matrix to `update` (rows, columns): singular values near 1, roughly.

    Jordan iterates in bf16, which is as good for training and, where the processor has it, twice as fast.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm() + 1e-7)
    x = x.to(torch.bfloat16) if bf16 else x
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum 0.95; `lr` compares with AdamW's. Parameters must have at least two dimensions.

    `bf16` orthogonalises in bfloat16; momentum and weights keep their precision.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        self.bf16 = bf16
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = 0.2 * max(update.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonalise(update, bf16=self.bf16).view_as(parameter), alpha=-group["lr"] * scale)
