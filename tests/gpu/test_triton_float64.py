"""Triton kernels on a real GPU: against float64, and the same bits every time.

`tests/kernels/test_triton_numerics.py` and `test_triton_model.py` run compiled on such a machine, too.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from kernels import Segments, attention, fp8, launch, quantise, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
    pytest.mark.skipif(not torch.cuda.is_available() or launch.INTERPRETED, reason="needs a CUDA device"),
]
OWN, PREFIX = Segments((1701, 5, 0, 4097, 127)), Segments((1024, 0, 33, 2048, 127))
HALF_ULP = {torch.bfloat16: 2**-9, torch.float16: 2**-12}


def inputs(size: int, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], dict[str, object]]:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    q, k, v, pk, pv = (
        torch.randn(n, 4, size, generator=generator, device="cuda").to(dtype)
        for n in (OWN.total,) * 3 + (PREFIX.total,) * 2
    )
    return [q, k, v], {"prefix_k": pk, "prefix_v": pv, "prefix_segments": PREFIX}


@pytest.mark.parametrize("dtype", HALF_ULP)
@pytest.mark.parametrize("size", attention.HEAD_DIMS)
def test_attention_is_as_exact_as_its_dtype(size: int, dtype: torch.dtype) -> None:
    (q, k, v), shared = inputs(size, dtype)
    wide = {name: x.double() if isinstance(x, Tensor) else x for name, x in shared.items()}
    truth = reference.attention(q.double(), k.double(), v.double(), OWN, **wide)
    error = (attention.attention(q, k, v, OWN, **shared).double() - truth).norm() / truth.norm()
    assert error < 2 * HALF_ULP[dtype]


@pytest.mark.parametrize("tma", [False, True])
@pytest.mark.parametrize("size", attention.HEAD_DIMS)
def test_attention_gives_the_same_bits_every_time(size: int, tma: bool) -> None:
    if tma and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tensor maps need Hopper")
    tile = replace(attention.tile_for(size, torch.bfloat16), tma=tma)
    (q, k, v), shared = inputs(size, torch.bfloat16)
    first = attention.attention(q, k, v, OWN, **shared)
    for _ in range(50):
        out = torch.full_like(q, float("nan"))
        attention.attention(q, k, v, OWN, **shared, out=out, tile=tile)
        if tma:
            torch.testing.assert_close(out, first, atol=2e-2, rtol=2e-2)
            first, tma = out, False
        assert torch.equal(out, first)


def test_scaled_mm_is_its_twin() -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    x, weight = (torch.randn(n, 3072, generator=generator, device="cuda") for n in (1701, 9216))
    a, b = quantise.quantise_rows(x.bfloat16()), quantise.quantise_rows(weight.bfloat16())
    actual, twin = fp8.linear(a, b), fp8.linear_twin(a, b, torch.float32)
    assert (actual.float() - twin).norm() / twin.norm() < 5e-3


def test_a_cuda_graph_replays_attention() -> None:
    (q, k, v), shared = inputs(128, torch.bfloat16)
    attention.attention(q, k, v, OWN, **shared)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention.attention(q, k, v, OWN, **shared)
    (q2, _, _), _ = inputs(128, torch.bfloat16, seed=1)
    q.copy_(q2)
    graph.replay()
    assert torch.equal(out, attention.attention(q, k, v, OWN, **shared))
