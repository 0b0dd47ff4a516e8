"""The one place where a set of kernels is chosen, by name, never silently replaced by another."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import reference

BACKENDS = ("torch", "triton")


class BackendUnavailable(RuntimeError):
    """The named set of kernels does not exist or cannot run on this machine."""


@dataclass(frozen=True)
class Kernels:
    """The functions a model calls; signatures and meaning are those of `kernels.reference`."""

    name: str
    attention: Callable[..., Tensor]
    qk_norm_rope: Callable[..., tuple[Tensor, Tensor]]
    rope: Callable[..., Tensor]
    adaln: Callable[..., Tensor]
    gated_residual: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]


def select(name: str) -> Kernels:
    """The kernels called `name`. Raises BackendUnavailable, naming what exists."""
    if name == "torch":
        return Kernels(
            name="torch",
            attention=reference.attention,
            qk_norm_rope=reference.qk_norm_rope,
            rope=reference.rope,
            adaln=reference.adaln,
            gated_residual=reference.gated_residual,
            swiglu=reference.swiglu,
        )
    if name == "triton":
        return _triton()
    raise BackendUnavailable(f"no kernels named {name!r}; available: {', '.join(BACKENDS)}")


def _triton() -> Kernels:
    try:
        from kernels import adaln, attention, gated_mlp, launch, qk_norm_rope
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
        rope=qk_norm_rope.rope,
        adaln=adaln.adaln,
        gated_residual=gated_mlp.gated_residual,
        swiglu=gated_mlp.swiglu,
    )
