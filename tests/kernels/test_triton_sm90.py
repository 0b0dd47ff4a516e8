"""Every Triton kernel compiled for sm_90a without a GPU, and its machine code read.

Asked of each: no register spilled, shared memory that one Hopper block can have; of attention and low-rank adapters,
which alone have products, also that each of them runs on the tensor cores (HGMMA); of attention, that loads are
pipelined (LDGSTS, UTMALDG).
The plugin's form of attention is compiled in `tests/engine_build/tensorrt_backend/test_plugin_ptx.py`.
"""

import inspect
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import adaln, attention, gated_mlp, group_norm, launch, low_rank, qk_norm_rope, quantise

SHARED_LIMIT = 227 * 1024
TOOLS = Path(inspect.getfile(triton)).parent / "backends" / "nvidia" / "bin"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

pytestmark = pytest.mark.skipif(
    launch.INTERPRETED or not (TOOLS / "ptxas").exists(), reason="needs Triton's compiler and its ptxas"
)


@dataclass(frozen=True)
class Program:
    """What the machine code of a compiled kernel uses."""

    spilled: int
    shared: int
    sass: str
    ptx: str


def compiled(
    folder: Path,
    kernel: Any,
    dtype: str,
    warps: int,
    stages: int = 3,
    fp8_out: str = "",
    maps: dict[str, str] | None = None,
    **constants: Any,
) -> Program:
    """The kernel for sm_90a; argument types follow from our naming, pointers and strides are 16-aligned."""
    names = kernel.arg_names
    special = dict.fromkeys(("p_cu", "p_cu_keys", "p_cu_prefix", "p_tiles", "p_rows"), "*i32")
    special |= dict.fromkeys(("p_cos", "p_sums", "p_scale_by_channel", "p_shift_by_channel"), "*fp32")
    special |= {"p_sin": "*fp32", "p_row_scales": "*fp32", "p_scales": "*fp32", "p_values": "*fp8e4nv"}
    special |= {"p_slots": "*i32", "p_strengths": "*fp32", "p_x_scales": "*fp32", "p_h": "*fp32"}
    special |= {"eps": "fp32", fp8_out: "*fp8e4nv"}
    special |= maps or {}
    if kernel is attention.attention_kernel:
        special["scale"] = "fp32"
    signature = {
        name: "constexpr" if name in constants
        else special.get(name, f"*{dtype}" if name.startswith("p_") else "i32")
        for name in names
    }  # fmt: skip
    aligned = [
        i
        for i, name in enumerate(names)
        if name.startswith(("p_", "stride_", "width", "head")) and name not in (maps or {})
    ]
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned if names[i] not in constants},
    )
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(result.asm["cubin"])
    usage = tool("cuobjdump", "--dump-resource-usage", cubin)
    found = re.search(r"STACK:(\d+).*?LOCAL:(\d+)", usage)
    assert found, usage
    return Program(
        spilled=int(found[1]) + int(found[2]),
        shared=result.metadata.shared,
        sass=tool("nvdisasm", "-c", cubin),
        ptx=result.asm["ptx"],
    )


def tool(name: str, *arguments: object) -> str:
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check(program: Program) -> None:
    assert ".target sm_90a" in program.ptx
    assert program.spilled == 0
    assert not re.search(r"\b(LDL|STL)\b", program.sass)
    assert program.shared <= SHARED_LIMIT


def hgmma(program: Program) -> int:
    """Instructions of the tensor cores of Hopper, of which no older kind may be left."""
    assert not re.search(r"\bHMMA\b", program.sass)
    return len(re.findall(r"\bHGMMA\b", program.sass))


def least_products(head_dim: int, prefix: bool) -> int:
    """Of queries with keys and weights with values, in whole blocks and in the last one, of one or two segments."""
    return 2 * (2 if prefix else 1) * head_dim // 32


EVERY = [(size, dtype, True) for size in attention.HEAD_DIMS for dtype in DTYPES]


@pytest.mark.parametrize(("head_dim", "dtype", "prefix"), [*EVERY, (128, "bf16", False), (32, "fp16", False)])
def test_attention_runs_on_the_tensor_cores(tmp_path: Path, head_dim: int, dtype: str, prefix: bool) -> None:
    tile = attention.tile_for(head_dim, DTYPES[dtype])
    program = compiled(
        tmp_path, attention.attention_kernel, dtype, tile.warps, tile.stages,
        H=24, E=head_dim, BLOCK_M=tile.queries, BLOCK_N=tile.keys, PREFIX=prefix, TMA=False, WIDE=False,
    )  # fmt: skip
    check(program)
    assert hgmma(program) >= least_products(head_dim, prefix)
    assert "LDGSTS" in program.sass


@pytest.mark.parametrize(("head_dim", "dtype", "prefix"), [*EVERY, (64, "fp16", False)])
def test_attention_reads_through_tensor_maps(tmp_path: Path, head_dim: int, dtype: str, prefix: bool) -> None:
    tile = attention.tile_for(head_dim, DTYPES[dtype], tma=True)
    keys = f"tensordesc<{dtype}[{tile.keys}, {head_dim}]>"
    program = compiled(
        tmp_path, attention.attention_kernel, dtype, tile.warps, tile.stages,
        maps={"p_k": keys, "p_v": keys, "p_prefix_k": keys, "p_prefix_v": keys},
        H=24, E=head_dim, BLOCK_M=tile.queries, BLOCK_N=tile.keys, PREFIX=prefix, TMA=tile.tma, WIDE=False,
    )  # fmt: skip
    check(program)
    assert hgmma(program) >= least_products(head_dim, prefix)
    assert "UTMALDG" in program.sass


@pytest.mark.parametrize(
    ("size", "norm", "rows", "parts"),
    [(128, True, True, 3), (64, True, False, 2), (32, True, True, 3), (32, False, False, 1)],
)
def test_qk_norm_rope_compiles(tmp_path: Path, size: int, norm: bool, rows: bool, parts: int) -> None:
    block = qk_norm_rope.TOKENS_PER_PROGRAM
    program = compiled(
        tmp_path, qk_norm_rope.norm_rope_kernel, "bf16", 4,
        E=size, BLOCK_T=block, BLOCK_E=size, NORM=norm, ROWS=rows, PARTS=parts,
    )  # fmt: skip
    check(program)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(("width", "residual"), [(3072, True), (3072, False), (4096, True)])
def test_adaln_compiles(tmp_path: Path, width: int, residual: bool, quantised: bool) -> None:
    program = compiled(
        tmp_path, adaln.adaln_kernel, "bf16", quantise.warps_for(width), fp8_out="p_o" if quantised else "",
        ROWS=gated_mlp.ROWS_PER_PROGRAM, BLOCK_D=4096, RESIDUAL=residual, SATURATE=False,
        BOUND=gated_mlp.FLOAT16_MAX, FP8=quantised,
    )  # fmt: skip
    check(program)


def test_gated_residual_compiles(tmp_path: Path) -> None:
    program = compiled(
        tmp_path, gated_mlp.gated_residual_kernel, "fp16", quantise.warps_for(3072),
        ROWS=gated_mlp.ROWS_PER_PROGRAM, BLOCK_D=4096, SATURATE=True, BOUND=gated_mlp.FLOAT16_MAX,
    )  # fmt: skip
    check(program)


@pytest.mark.parametrize(("lead", "quantised"), [(False, False), (True, False), (False, True), (True, True)])
def test_swiglu_compiles(tmp_path: Path, lead: bool, quantised: bool) -> None:
    program = compiled(
        tmp_path, gated_mlp.swiglu_kernel, "bf16", quantise.warps_for(12288),
        fp8_out="p_o" if quantised else "", BLOCK_M=16384, BLOCK_D=4096, LEAD=lead, FP8=quantised,
    )  # fmt: skip
    check(program)


@pytest.mark.parametrize(("rank", "fp8"), [(16, False), (64, False), (16, True), (64, True)])
def test_low_rank_runs_on_the_tensor_cores(tmp_path: Path, rank: int, fp8: bool) -> None:
    shared = {"K": 2, "ROWS": low_rank.ROWS_PER_PROGRAM, "BLOCK_R": rank, "WIDE": False}
    shrink = compiled(
        tmp_path, low_rank.shrink_kernel, "bf16", low_rank.WARPS, fp8_out="p_x" if fp8 else "",
        BLOCK_D=low_rank.COLUMNS_IN, FP8=fp8, **shared,
    )  # fmt: skip
    expand = compiled(
        tmp_path, low_rank.expand_kernel, "bf16", low_rank.WARPS, BLOCK_M=low_rank.COLUMNS_OUT, **shared
    )  # fmt: skip
    for program in (shrink, expand):
        check(program)
        assert hgmma(program) >= 1


def test_quantise_compiles(tmp_path: Path) -> None:
    program = compiled(tmp_path, quantise.quantise_kernel, "bf16", 16, BLOCK_D=16384)
    check(program)
    assert re.search(r"F2FP\.SATFINITE\.E4M3", program.sass)


@pytest.mark.parametrize("channels", [128, 512])
def test_group_norm_compiles(tmp_path: Path, channels: int) -> None:
    block = {"BLOCK_P": group_norm.PIXELS_PER_BLOCK, "BLOCK_C": channels}
    check(compiled(tmp_path, group_norm.channel_sums_kernel, "bf16", 8, BLOCKS=group_norm.BLOCKS_PER_CHUNK, **block))
    check(compiled(tmp_path, group_norm.scale_silu_kernel, "bf16", 8, **block))
