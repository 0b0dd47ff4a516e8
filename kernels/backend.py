"""The one place where a set of kernels is chosen, by name, never silently replaced by another.

    torch        the reference
    triton       our kernels, attention reading keys and values through pointers
    triton-tma   the same, attention reading them through Hopper's tensor maps; for compute capability 9.0 and newer

The last is a name of its own, not a choice by device: which of the two is faster depends on the compiler's version,
and `changeroom engine bench` measures both. It launches attention directly, so `torch.compile` does not see it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kernels import reference
from kernels.fp8 import Quantised, Rows

BACKENDS = ("torch", "triton", "triton-tma")
TMA_CAPABILITY = (9, 0)


class BackendUnavailable(RuntimeError):
    """The named set of kernels does not exist or cannot run on this machine."""


@dataclass(frozen=True)
class Kernels:
    """The functions a model calls; signatures and meaning are those of `kernels.reference`, the defaults.

    Rows that only a linear takes may be Quantised, after `quantising`.
    """

    name: str
    attention: Callable[..., Tensor] = reference.attention
    qk_norm_rope: Callable[..., tuple[Tensor, Tensor]] = reference.qk_norm_rope
    joint_qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.joint_qkv
    cached_qkv: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.cached_qkv
    rope: Callable[..., Tensor] = reference.rope
    adaln: Callable[..., Rows] = reference.adaln
    adaln_fp8: Callable[..., Quantised] = reference.adaln_fp8
    gated_residual: Callable[..., Tensor] = reference.gated_residual
    residual_adaln: Callable[..., tuple[Tensor, Rows]] = reference.residual_adaln
    residual_adaln_fp8: Callable[..., tuple[Tensor, Quantised]] = reference.residual_adaln_fp8
    swiglu: Callable[..., Rows] = reference.swiglu
    swiglu_fp8: Callable[..., Quantised] = reference.swiglu_fp8
    quantise: Callable[..., Quantised] = reference.quantise
    group_norm_silu: Callable[..., Tensor] = reference.group_norm_silu
    feed: Callable[[Tensor], Rows] = reference.feed
    add_low_rank: Callable[..., Tensor] = reference.add_low_rank

    @property
    def fused(self) -> bool:
        """Whether these are our Triton kernels, which choose nothing by lengths: a CUDA graph may replay them."""
        return self.name.startswith("triton")

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
    if name == "triton-tma":
        return _through_tensor_maps(_triton())
    raise BackendUnavailable(f"no kernels named {name!r}; available: {', '.join(BACKENDS)}")


def _through_tensor_maps(kernels: Kernels) -> Kernels:
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < TMA_CAPABILITY:
        raise BackendUnavailable("triton-tma needs a GPU of compute capability 9.0 or newer; use triton")
    return replace(kernels, name="triton-tma", attention=partial(kernels.attention, tma=True))


def _triton() -> Kernels:
    try:
        from kernels import adaln, attention, gated_mlp, group_norm, launch, low_rank, qk_norm_rope, quantise
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
        add_low_rank=low_rank.add_low_rank,
    )
