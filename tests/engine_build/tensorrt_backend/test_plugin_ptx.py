"""The plugin's kernels compiled ahead for sm_90a: their arguments, their machine code, their numbers."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
import triton

from engine_build.errors import BackendError
from engine_build.tensorrt.operators import PACKED, PREFIXED
from engine_build.tensorrt.ptx import compile_attention, plugin_digest, without_extra_arguments
from kernels import launch

PTXAS = Path(inspect.getfile(triton)).parent / "backends" / "nvidia" / "bin" / "ptxas"
pytestmark = pytest.mark.skipif(
    launch.INTERPRETED or not PTXAS.exists(), reason="needs Triton's compiler and its ptxas"
)
PARAMETER = re.compile(r"\.param \.(u64|u32|f32)[^\n]*_param_(\d+)")


@pytest.mark.parametrize(
    ("operator", "dtype", "heads", "head_dim", "expected"),
    [
        (PACKED, "fp16", 4, 32, ("p_q", "p_k", "p_v", "p_cu", "p_cu_keys", "p_tiles", "p_o")),
        (
            PREFIXED, "bf16", 24, 128,
            (
                "p_q", "p_k", "p_v", "p_prefix_k", "p_prefix_v", "p_cu", "p_cu_keys", "p_cu_prefix", "p_tiles",
                "draws", "p_o",
            ),
        ),
    ],
)  # fmt: skip
def test_inputs_then_scalars_then_outputs(
    tmp_path: Path, operator: str, dtype: str, heads: int, head_dim: int, expected: tuple[str, ...]
) -> None:
    kernel = compile_attention(operator, dtype, heads, head_dim)  # type: ignore[arg-type]
    assert kernel.arguments == expected
    entry = kernel.ptx[kernel.ptx.index(".visible .entry") :].partition("{")[0]
    kinds = [kind for kind, _ in PARAMETER.findall(entry)]
    assert kinds == ["u32" if name == "draws" else "u64" for name in expected]
    assert f".reqntid {kernel.threads}" in entry
    assert ".target sm_90a" in kernel.ptx
    assert "wgmma.mma_async" in kernel.ptx
    assert kernel.shared <= 227 * 1024
    file = tmp_path / "kernel.ptx"
    file.write_text(kernel.ptx)
    command = [PTXAS, "--gpu-name", "sm_90a", "-v", file, "-o", tmp_path / "kernel.cubin"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in said


def test_a_kernel_that_reads_a_hidden_argument_is_refused() -> None:
    head = ".visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .u64 k_param_1\n)\n"
    ptx = head + "{\n ld.param.b64 %rd1, [k_param_1];\n}"
    assert without_extra_arguments(ptx, 2) == ptx
    with pytest.raises(BackendError, match="hidden argument 1"):
        without_extra_arguments(ptx, 1)
    with pytest.raises(BackendError, match="2 arguments, not 3"):
        without_extra_arguments(ptx, 3)


def test_the_digest_names_the_kernels() -> None:
    assert plugin_digest("fp16", 4, 32) == plugin_digest("fp16", 4, 32)
    assert plugin_digest("fp16", 4, 32) != plugin_digest("fp16", 2, 32)


NUMBERS = """
import math, torch
from kernels import Segments, reference
from engine_build.tensorrt.operators import query_tile
from engine_build.tensorrt.plugin_kernel import packed_attention_kernel, prefixed_attention_kernel
torch.manual_seed(0)
own, asked, prefixes, heads, size = Segments((5, 70, 1, 33)), Segments((5, 65, 0, 7)), Segments((3, 41)), 2, 32
k, v = (torch.randn(own.total, heads, size) for _ in range(2))
pk, pv = (torch.randn(prefixes.total, heads, size) for _ in range(2))
cpu = torch.device("cpu")
constants = dict(H=heads, E=size, BLOCK_M=64, BLOCK_N=32, SCALE=math.log2(math.e) / math.sqrt(size))
key_cu, prefix_cu = own.cu_seqlens(cpu), prefixes.cu_seqlens(cpu)
for wanted in (own, asked):
    q = torch.randn(wanted.total, heads, size)
    tiles, cu = wanted.tiles(query_tile(torch.float32), cpu), wanted.cu_seqlens(cpu)
    grid = (len(tiles), heads)
    out = torch.full_like(q, float("nan"))
    prefixed_attention_kernel[grid](q, k, v, pk, pv, cu, key_cu, prefix_cu, tiles, 2, out, **constants)
    shared = dict(prefix_k=pk, prefix_v=pv, prefix_segments=prefixes, draws=2)
    want = reference.attention(q, k, v, wanted, key_segments=own, **shared)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
    out = torch.full_like(q, float("nan"))
    packed_attention_kernel[grid](q, k, v, cu, key_cu, tiles, out, **constants)
    torch.testing.assert_close(out, reference.attention(q, k, v, wanted, key_segments=own), rtol=1e-5, atol=1e-5)
"""


def test_the_kernels_compute_attention() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NUMBERS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
