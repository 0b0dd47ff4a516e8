"""Our attention inside TensorRT engines: two quickly deployable plugins, ahead of time and, for checks, just in time.

TensorRT asks `register` for shapes, `autotune` for dtypes and `aot_impl` for PTX and how to launch it, as
expressions over the sizes of the inputs: the grid is (rows of tiles, heads), and the one scalar tells how
many sequences share a prefix. An engine carries the PTX, so running one needs neither Triton nor this module.
"""

from __future__ import annotations

from functools import cache
from types import GenericAlias, ModuleType
from typing import Any

import torch
from torch import Tensor

from engine_build.errors import BackendError
from engine_build.tensorrt.library import tensorrt
from engine_build.tensorrt.operators import DOMAIN, PACKED, PREFIXED

Desc = Any
"""A `tensorrt.plugin.TensorDesc`: TensorRT has no types to check, and is imported only when it is needed."""

_DTYPES = {"BF16": "bf16", "HALF": "fp16", "FLOAT": "fp32"}
_FORMATS = "|".join(("BF16", "FP16", "FP32"))


@cache
def register_plugins(lazy: bool = False) -> None:
    """Makes both plugins known to TensorRT in this process, once; lazily, only when a network names them.

    Raises BackendError without TensorRT.
    """
    tensorrt()
    import tensorrt.plugin as trtp

    _register_packed(trtp, lazy)
    _register_prefixed(trtp, lazy)


def _register_packed(trtp: ModuleType, lazy: bool) -> None:
    plugin_id = f"{DOMAIN}::{PACKED}"

    def describe(q: Desc, k: Desc, v: Desc, cu_seqlens: Desc, key_cu: Desc, tiles: Desc) -> Desc:
        return q.like()

    def tune(q: Desc, k: Desc, v: Desc, cu_seqlens: Desc, key_cu: Desc, tiles: Desc, outputs: tuple[Desc]) -> list[Any]:
        floats = _FORMATS
        return [trtp.AutoTuneCombination(f"{floats}, {floats}, {floats}, INT32, INT32, INT32, {floats}", "LINEAR")]

    def ahead(
        q: Desc, k: Desc, v: Desc, cu_seqlens: Desc, key_cu: Desc, tiles: Desc, outputs: tuple[Desc], tactic: int
    ) -> tuple[Any, ...]:
        return _launch(trtp, PACKED, q, tiles, ())

    def just_in_time(
        q: Desc, k: Desc, v: Desc, cu_seqlens: Desc, key_cu: Desc, tiles: Desc, outputs: tuple[Desc], stream: int
    ) -> None:
        _run(stream, (q, k, v), (cu_seqlens, key_cu), outputs[0])

    _decorate(trtp, plugin_id, lazy, (describe, tune, ahead, just_in_time))


def _register_prefixed(trtp: ModuleType, lazy: bool) -> None:
    plugin_id = f"{DOMAIN}::{PREFIXED}"

    def describe(
        q: Desc, k: Desc, v: Desc, prefix_k: Desc, prefix_v: Desc,
        cu_seqlens: Desc, key_cu: Desc, prefix_cu: Desc, tiles: Desc,
    ) -> Desc:  # fmt: skip
        return q.like()

    def tune(
        q: Desc, k: Desc, v: Desc, prefix_k: Desc, prefix_v: Desc,
        cu_seqlens: Desc, key_cu: Desc, prefix_cu: Desc, tiles: Desc, outputs: tuple[Desc],
    ) -> list[Any]:  # fmt: skip
        floats = ", ".join([_FORMATS] * 5)
        return [trtp.AutoTuneCombination(f"{floats}, INT32, INT32, INT32, INT32, {_FORMATS}", "LINEAR")]

    def ahead(
        q: Desc, k: Desc, v: Desc, prefix_k: Desc, prefix_v: Desc,
        cu_seqlens: Desc, key_cu: Desc, prefix_cu: Desc, tiles: Desc, outputs: tuple[Desc], tactic: int,
    ) -> tuple[Any, ...]:  # fmt: skip
        sequences, prefixes = cu_seqlens.shape_expr[0] - 1, prefix_cu.shape_expr[0] - 1
        return _launch(trtp, PREFIXED, q, tiles, (sequences // prefixes,))

    def just_in_time(
        q: Desc, k: Desc, v: Desc, prefix_k: Desc, prefix_v: Desc,
        cu_seqlens: Desc, key_cu: Desc, prefix_cu: Desc, tiles: Desc, outputs: tuple[Desc], stream: int,
    ) -> None:  # fmt: skip
        _run(stream, (q, k, v, prefix_k, prefix_v), (cu_seqlens, key_cu, prefix_cu), outputs[0])

    _decorate(trtp, plugin_id, lazy, (describe, tune, ahead, just_in_time))


def _decorate(trtp: ModuleType, plugin_id: str, lazy: bool, functions: tuple[Any, Any, Any, Any]) -> None:
    """Registers one plugin, its functions annotated as TensorRT, which checks annotations as objects, wants them."""
    describe, tune, ahead, just_in_time = functions
    tune.__annotations__ = {}
    describe.__annotations__ = dict.fromkeys(describe.__annotations__, trtp.TensorDesc)
    launch = str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs
    ahead.__annotations__ = {"return": GenericAlias(tuple, launch)}
    just_in_time.__annotations__ = {"return": None}
    trtp.register(plugin_id, lazy_register=lazy)(describe)
    trtp.autotune(plugin_id)(tune)
    trtp.aot_impl(plugin_id)(ahead)
    trtp.impl(plugin_id)(just_in_time)


def _launch(trtp: ModuleType, operator: str, q: Any, tiles: Any, scalars: tuple[Any, ...]) -> tuple[Any, ...]:
    """Name, PTX, launch and scalars of one operator for TensorRT."""
    from engine_build.tensorrt.ptx import compile_attention

    heads, head_dim = (_constant(q, axis) for axis in (1, 2))
    kernel = compile_attention(operator, _DTYPES[q.dtype.name], heads, head_dim)
    launch = trtp.KernelLaunchParams()
    launch.grid_x = tiles.shape_expr[0]
    launch.grid_y = heads
    launch.block_x = kernel.threads
    launch.shared_mem = kernel.shared
    extra = trtp.SymIntExprs.from_tuple([trtp.SymInt32(scalar) for scalar in scalars])
    return kernel.name.encode(), kernel.ptx.encode(), launch, extra


def _constant(tensor: Any, axis: int) -> int:
    size = tensor.shape[axis]
    if size < 1:
        raise BackendError(f"axis {axis} of attention's queries must be known when an engine is built")
    return int(size)


def _run(stream: int, floats: tuple[Any, ...], tables: tuple[Any, ...], output: Any) -> None:
    """The plugin by torch operators, on TensorRT's stream: slow, for comparing."""
    from kernels import Segments
    from kernels.attention import attention

    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        q, k, v, *prefix = (_tensor(x) for x in floats)
        own, keys, *groups = (Segments(tuple(torch.as_tensor(x, device="cuda").diff().tolist())) for x in tables)
        more: dict[str, Any] = {"key_segments": keys}
        if prefix:
            more |= {"prefix_k": prefix[0], "prefix_v": prefix[1], "prefix_segments": groups[0]}
            more["draws"] = len(own) // len(groups[0])
        attention(q, k, v, own, out=_tensor(output), **more)


def _tensor(x: Any) -> Tensor:
    """A TensorRT tensor as torch's; bfloat16 by way of int16, since the array interface does not know it."""
    if x.dtype.name != "BF16":
        return torch.as_tensor(x, device="cuda")

    class Words:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": tuple(x.shape), "typestr": "<i2", "data": (x.data_ptr, False), "version": 3,
        }  # fmt: skip

    return torch.as_tensor(Words(), device="cuda").view(torch.bfloat16)
