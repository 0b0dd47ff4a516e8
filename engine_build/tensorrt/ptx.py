"""Our attention compiled ahead of time to PTX, without a GPU, in a form that any launcher can start.

Triton appends two scratch pointers to every kernel, which its own launcher fills in. TensorRT knows nothing of
them, so they are taken out of the PTX again; a kernel that reads them is refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine_build.errors import BackendError
from engine_build.tensorrt.operators import PACKED, PREFIXED, query_tile
from engine_build.tensorrt.plugin_kernel import packed_attention_kernel, prefixed_attention_kernel
from kernels.attention import tile_for

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PTX_ISA = 84  # of CUDA 12.4: what the oldest supported drivers translate; wgmma needs 80
_ENTRY = re.compile(r"(\.visible \.entry (\w+)\(\n)(.*?)(\n\))", re.DOTALL)
_TABLES = ("p_cu", "p_cu_keys", "p_cu_prefix", "p_tiles")


@dataclass(frozen=True)
class CompiledKernel:
    """PTX and what a launch of it needs: threads of a block, bytes of dynamic shared memory, argument names."""

    name: str
    ptx: str
    threads: int
    shared: int
    arguments: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.ptx.encode()).hexdigest()


@cache
def compile_attention(
    operator: str, dtype: Literal["bf16", "fp16", "fp32"], heads: int, head_dim: int, arch: int = 90
) -> CompiledKernel:
    """The kernel of `packed_attention` or `prefixed_attention` for GPUs of compute capability arch / 10.

    Raises BackendError when the compiled kernel cannot be started by anything but Triton.
    """
    kernel = {PACKED: packed_attention_kernel, PREFIXED: prefixed_attention_kernel}[operator]
    tile = tile_for(head_dim, DTYPES[dtype])
    if tile.queries != query_tile(DTYPES[dtype]):
        raise BackendError(f"the tile table has rows of {query_tile(DTYPES[dtype])} queries, the kernel {tile.queries}")
    constants = {
        "H": heads, "E": head_dim, "BLOCK_M": tile.queries, "BLOCK_N": tile.keys,
        "SCALE": math.log2(math.e) / math.sqrt(head_dim),
    }  # fmt: skip
    names = kernel.arg_names
    arguments = tuple(name for name in names if name not in constants)
    signature = {name: "constexpr" if name in constants else _type(name, dtype) for name in names}
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.startswith("p_")},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True, "ptx_version": PTX_ISA}
    result = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    if result.metadata.global_scratch_size or result.metadata.profile_scratch_size:
        raise BackendError(f"{operator} needs scratch memory, which TensorRT does not give")
    ptx = without_extra_arguments(result.asm["ptx"], len(arguments))
    return CompiledKernel(result.metadata.name, ptx, tile.warps * 32, result.metadata.shared, arguments)


def without_extra_arguments(ptx: str, count: int) -> str:
    """The PTX with only the first `count` parameters. Raises BackendError when the rest are used or there are none."""
    entry = _ENTRY.search(ptx)
    if entry is None:
        raise BackendError("the compiled kernel has no entry point")
    parameters = entry[3].split(",\n")
    if len(parameters) < count:
        raise BackendError(f"the compiled kernel takes {len(parameters)} arguments, not {count}")
    body = ptx[entry.end() :]
    for i in range(count, len(parameters)):
        if re.search(rf"\b{entry[2]}_param_{i}\b", body):
            raise BackendError(f"the compiled kernel uses its hidden argument {i}")
    kept = ",\n".join(parameters[:count])
    return ptx[: entry.start()] + entry[1] + kept + entry[4] + body


def plugin_digest(dtype: str, heads: int, head_dim: int, arch: int = 90) -> str:
    """One hash of both kernels, for the manifest."""
    digests = [compile_attention(name, dtype, heads, head_dim, arch).digest for name in (PACKED, PREFIXED)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _type(name: str, dtype: str) -> str:
    if name in _TABLES:
        return "*i32"
    return f"*{dtype}" if name.startswith("p_") else "i32"
