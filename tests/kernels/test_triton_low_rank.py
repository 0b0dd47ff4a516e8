"""The low-rank kernels against `kernels.reference`, in the surroundings of `test_triton_numerics`."""

from __future__ import annotations

import pytest
import torch
from test_triton_numerics import DEVICE, DTYPES, TOLERANCE, poison, random  # noqa: F401  (poison is a fixture)
from torch import Tensor

from kernels import Route, Segments, fp8, launch, low_rank, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
    pytest.mark.skipif(
        not (launch.INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET"
    ),
]
LENGTHS = (5, 0, 123, 127, 1, 66)
ROUTE = Route((((2, 0.5),), ((0, 1.0),), ((0, -1.0), (3, 0.25)), (), ((3, 2.0), (0, 1.0), (2, 1.0)), ()))
PLACES = 4


def adapters(width: int, made: int, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Place 1, which nobody uses, is all NaN."""
    down = random(PLACES, rank, width, dtype=dtype, seed=8) / width**0.5
    up = random(PLACES, made, rank, dtype=dtype, seed=9) / rank**0.5
    down[1], up[1] = torch.nan, torch.nan
    return down, up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "made", "rank"), [(40, 129, 16), (300, 33, 48), (17, 5, 3)])
def test_each_sequence_goes_through_its_own_adapters(width: int, made: int, rank: int, dtype: torch.dtype) -> None:
    segments = Segments(LENGTHS)
    y, x = random(segments.total, made, dtype=dtype), random(segments.total, width, dtype=dtype, seed=1)
    down, up = adapters(width, made, rank, dtype)
    wide = [t.float() for t in (y.clone(), x, down, up)]
    expected = reference.add_low_rank(*wide, ROUTE, segments)
    before = y.clone()
    actual = low_rank.add_low_rank(y, x, down, up, ROUTE, segments)
    assert actual is y
    tolerance = 2 * TOLERANCE[dtype]  # two products in a row
    torch.testing.assert_close(actual.float(), expected, atol=tolerance, rtol=tolerance)
    for i in (3, 5):
        rows = slice(segments.offsets[i], segments.offsets[i + 1])
        assert torch.equal(actual[rows], before[rows]), "a sequence without adapters was touched"


def test_rows_in_fp8_count_by_their_scales() -> None:
    segments = Segments(LENGTHS)
    y = random(segments.total, 48, dtype=torch.bfloat16)
    x = fp8.Quantised(*fp8.quantise_twin(random(segments.total, 80, seed=1) * 3))
    down, up = adapters(80, 48, 16, torch.bfloat16)
    expected = reference.add_low_rank(y.float(), x, down.float(), up.float(), ROUTE, segments)
    actual = low_rank.add_low_rank(y, x, down, up, ROUTE, segments)
    torch.testing.assert_close(actual.float(), expected, atol=6e-2, rtol=3e-2)


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    segments = Segments(LENGTHS)
    x = random(segments.total, 72, dtype=torch.bfloat16, seed=1)
    y = random(segments.total, 40, dtype=torch.bfloat16)
    down, up = adapters(72, 40, 16, torch.bfloat16)
    alone = [
        low_rank.add_low_rank(b.clone(), a, down, up, Route((pairs,)), Segments((len(a),)))
        for a, b, pairs in zip(x.split(LENGTHS), y.split(LENGTHS), ROUTE.pairs, strict=True)
    ]
    together = low_rank.add_low_rank(y, x, down, up, ROUTE, segments)
    assert torch.equal(together, torch.cat(alone))


def test_some_outputs_of_a_stack_whose_places_lie_apart() -> None:
    """As the bank keeps them: one buffer a place, of which a layer's adapters are a part."""
    segments, page = Segments((9, 70)), random(3, 16 * 24 + 50 * 16)
    down, up = page[:, : 16 * 24].unflatten(1, (16, 24)), page[:, 16 * 24 :].unflatten(1, (50, 16))[:, 7:31]
    y, x = random(79, 24), random(79, 24, seed=1)
    route = Route((((2, 0.3),), ((0, 0.1), (1, 0.2))))
    expected = reference.add_low_rank(y.clone(), x, down, up, route, segments)
    torch.testing.assert_close(low_rank.add_low_rank(y, x, down, up, route, segments), expected, atol=1e-4, rtol=1e-4)


def test_a_graph_reads_other_lengths_and_other_adapters_from_the_same_tables() -> None:
    held, first = Segments((40, 0, 90), fixed=True), Route((((0, 1.0),), ())).filled(3, 2)
    x = random(130, 24)
    down, up = adapters(24, 32, 16, torch.float32)
    low_rank.add_low_rank(random(130, 32, seed=1), x, down, up, first, held)
    tables = [t.data_ptr() for t in first.tables(torch.device(DEVICE))]
    moved, other = Segments((5, 112, 13), fixed=True).onto(held), Route(((), ((3, 0.5), (2, 1.0)))).filled(3, 2)
    other = other.onto(first)
    assert [t.data_ptr() for t in other.tables(torch.device(DEVICE))] == tables
    y = random(130, 32, seed=1)
    expected = reference.add_low_rank(y.clone(), x, down, up, other, Segments(moved.lengths))
    torch.testing.assert_close(low_rank.add_low_rank(y, x, down, up, other, moved), expected, atol=1e-4, rtol=1e-4)
