"""Our attention as operators that a graph can name: `changeroom::packed_attention` and one with a prefix.

In torch they run the reference; in ONNX they become a node of domain `changeroom` whose attributes tell
TensorRT's parser which plugin it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels import Segments, reference

if TYPE_CHECKING:
    from onnx.defs import OpSchema

DOMAIN = "changeroom"
PACKED, PREFIXED = "packed_attention", "prefixed_attention"
PLUGIN = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}


@torch.library.custom_op(f"{DOMAIN}::{PACKED}", mutates_args=())
def packed_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, key_cu: Tensor, tiles: Tensor) -> Tensor:
    """`(T, H, E)`: each of N sequences attends itself; of its tokens perhaps only some ask.

    cu_seqlens and key_cu `(N+1,)` int32 bound the rows of q and of k, v. tiles `(G, 2)` int32 is the table of
    query blocks that the kernel's programs work on.
    """
    return reference.attention(q, k, v, _segments(cu_seqlens), key_segments=_segments(key_cu)).contiguous()


@packed_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, key_cu: Tensor, tiles: Tensor) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op(f"{DOMAIN}::{PREFIXED}", mutates_args=())
def prefixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    cu_seqlens: Tensor,
    key_cu: Tensor,
    prefix_cu: Tensor,
    tiles: Tensor,
) -> Tensor:
    """`packed_attention` where sequence i also attends prefix i // (N / M) of prefix_k, prefix_v `(P, H, E)`.

    prefix_cu `(M+1,)` int32 bounds the M prefixes; M divides N.
    """
    prefixes = _segments(prefix_cu)
    own = _segments(cu_seqlens)
    return reference.attention(
        q, k, v, own, key_segments=_segments(key_cu),
        prefix_k=prefix_k, prefix_v=prefix_v, prefix_segments=prefixes, draws=len(own) // len(prefixes),
    ).contiguous()  # fmt: skip


@prefixed_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor,
    cu_seqlens: Tensor, key_cu: Tensor, prefix_cu: Tensor, tiles: Tensor,
) -> Tensor:  # fmt: skip
    return torch.empty_like(q)


def translations() -> dict[Callable[..., object], Callable[..., object]]:
    """torch operator to the function that writes its node, for `torch.onnx.export`."""
    from onnxscript.values import Op, Opset

    domain = Opset(DOMAIN, 1)
    packed_node, prefixed_node = (Op(domain, name, schema(name)) for name in (PACKED, PREFIXED))

    # Without annotations, which the exporter would take for ONNX types.
    def packed(q, k, v, cu_seqlens, key_cu, tiles):  # type: ignore[no-untyped-def]
        return packed_node(q, k, v, cu_seqlens, key_cu, tiles, **PLUGIN)

    def prefixed(q, k, v, prefix_k, prefix_v, cu_seqlens, key_cu, prefix_cu, tiles):  # type: ignore[no-untyped-def]
        return prefixed_node(q, k, v, prefix_k, prefix_v, cu_seqlens, key_cu, prefix_cu, tiles, **PLUGIN)

    named = torch.ops.changeroom
    return {named.packed_attention.default: packed, named.prefixed_attention.default: prefixed}


def schema(name: str) -> OpSchema:
    """The ONNX schema of one of our operators: floats of one dtype, int32 tables, the plugin's attributes."""
    from onnx.defs import OpSchema

    kind_of = OpSchema.AttrType
    floats = ["q", "k", "v", *(("prefix_k", "prefix_v") if name == PREFIXED else ())]
    tables = ["cu_seqlens", "key_cu", *(("prefix_cu",) if name == PREFIXED else ()), "tiles"]
    kinds = {"plugin_namespace": kind_of.STRING, "plugin_version": kind_of.STRING, "aot": kind_of.INT}
    parameter = OpSchema.FormalParameter
    return OpSchema(
        name, DOMAIN, 1,
        inputs=[*(parameter(n, "T") for n in floats), *(parameter(n, "tensor(int32)") for n in tables)],
        outputs=[parameter("out", "T")],
        type_constraints=[("T", [f"tensor({t})" for t in ("float", "float16", "bfloat16")], "dtype of attention")],
        attributes=[OpSchema.Attribute(n, kind, required=True) for n, kind in kinds.items()],
    )  # fmt: skip


def _segments(cu_seqlens: Tensor) -> Segments:
    return Segments(tuple(cu_seqlens.diff().tolist()))


def query_tile(dtype: torch.dtype) -> int:
    """Queries of one row of `tiles`: what the kernel's programs take at once in this dtype."""
    return 64 if dtype == torch.float32 else 128
