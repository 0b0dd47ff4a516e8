"""The one place where a set of kernels is chosen, by name, never silently replaced by another."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels import reference
from kernels.fp8 import Quantised

BACKENDS = ("torch", "triton")


class BackendUnavailable(RuntimeError):
    """The named set of kernels does not exist or cannot run on this machine."""


@dataclass(frozen=True)
class Kernels:
    """The functions a model calls; signatures and meaning are those of `kernels.reference`, the defaults."""

    name: str
    attention: Callable[..., Tensor] = reference.attention
    qk_norm_rope: Callable[..., tuple[Tensor, Tensor]] = reference.qk_norm_rope
    joint_qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.joint_qkv
    cached_qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.cached_qkv
    rope: Callable[..., Tensor] = reference.rope
    adaln: Callable[..., Tensor] = reference.adaln
    adaln_fp8: Callable[..., Quantised] = reference.adaln_fp8
    gated_residual: Callable[..., Tensor] = reference.gated_residual
    residual_adaln: Callable[..., tuple[Tensor, Tensor]] = reference.residual_adaln
    residual_adaln_fp8: Callable[..., tuple[Tensor, Quantised]] = reference.residual_adaln_fp8
    swiglu: Callable[..., Tensor] = reference.swiglu
    swiglu_fp8: Callable[..., Quantised] = reference.swiglu_fp8
    quantise: Callable[..., Quantised] = reference.quantise
    group_norm_silu: Callable[..., Tensor] = reference.group_norm_silu
    feed: Callable[[Tensor], Tensor | Quantised] = reference.feed

    def quantising(self) -> "Kernels":
        """The same kernels with row-wise e4m3 outputs wherever a linear of a block follows."""
        return replace(
            self,
            adaln=self.adaln_fp8,
            residual_adaln=self.residual_adaln_fp8,
            swiglu=self.swiglu_fp8,
            feed=self.quantise,
        )


def select(name: str) -> Kernels:
    """The kernels called `name`. Raises BackendUnavailable, naming what exists."""
    if name == "torch":
        return Kernels("torch")
    if name == "triton":
        return _triton()
    raise BackendUnavailable(f"no kernels named {name!r}; available: {', '.join(BACKENDS)}")


def _triton() -> Kernels:
    try:
        from kernels import adaln, attention, gated_mlp, group_norm, launch, qk_norm_rope, quantise
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise BackendUnavailable("the triton kernels need the triton package: install changeroom[gpu]") from None
    if not torch.cuda.is_available() and not launch.INTERPRETED:
        raise BackendUnavailable("the triton kernels need a CUDA device")
    return Kernels(
        name="triton",
        attention=attention.attention,
        qk_norm_rope=qk_norm_rope.qk_norm_rope,
        joint_qkv=qk_norm_rope.joint_qkv,
        cached_qkv=qk_norm_rope.cached_qkv,
        rope=qk_norm_rope.rope,
        adaln=adaln.adaln,
        adaln_fp8=adaln.adaln_fp8,
        gated_residual=gated_mlp.gated_residual,
        residual_adaln=adaln.residual_adaln,
        residual_adaln_fp8=adaln.residual_adaln_fp8,
        swiglu=gated_mlp.swiglu,
        swiglu_fp8=gated_mlp.swiglu_fp8,
        quantise=quantise.quantise_rows,
        group_norm_silu=group_norm.group_norm_silu,
    )
