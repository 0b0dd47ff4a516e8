"""Routes, and the low-rank path of the reference against products written out."""

from __future__ import annotations

import re

import pytest
import torch

from kernels import Route, Segments, reference
from kernels.fp8 import Quantised, quantise_twin

CPU = torch.device("cpu")


def test_tables_are_padded_with_no_place() -> None:
    route = Route((((3, 0.5),), (), ((1, 1.0), (2, -1.0))))
    places, scales = route.tables(CPU)
    assert places.tolist() == [[3, -1], [-1, -1], [1, 2]]
    assert scales.tolist() == [[0.5, 0], [0, 0], [1, -1]]
    assert (places.dtype, scales.dtype) == (torch.int32, torch.float32)
    filled = route.filled(5, 4)
    assert filled.tables(CPU)[0].tolist() == [[3, -1, -1, -1], [-1] * 4, [1, 2, -1, -1], [-1] * 4, [-1] * 4]


def test_neighbours_with_the_same_adapters_are_one_run() -> None:
    a, b = ((0, 1.0),), ((1, 1.0),)
    runs = list(Route((a, a, (), b, a)).runs(Segments((3, 2, 4, 0, 1))))
    assert runs == [(0, 5, a), (5, 9, ()), (9, 10, a)]


def test_it_is_what_the_products_say() -> None:
    g = torch.Generator().manual_seed(0)
    y, x, down, up = (torch.randn(s, generator=g).double() for s in ((9, 5), (9, 7), (3, 2, 7), (3, 5, 2)))
    route, segments = Route((((2, 0.5), (0, -2.0)), (), ((1, 3.0),))), Segments((4, 2, 3))
    expected = y.clone()
    expected[:4] += 0.5 * x[:4] @ (up[2] @ down[2]).T - 2 * x[:4] @ (up[0] @ down[0]).T
    expected[6:] += 3 * x[6:] @ (up[1] @ down[1]).T
    torch.testing.assert_close(reference.add_low_rank(y.clone(), x, down, up, route, segments), expected)
    rows = Quantised(*quantise_twin(x))
    dense = rows.values.double() * rows.scales[:, None]
    torch.testing.assert_close(
        reference.add_low_rank(y.float(), rows, down.float(), up.float(), route, segments),
        reference.add_low_rank(y, dense, down, up, route, segments).float(),
    )


def test_it_is_differentiable() -> None:
    y, x, down, up = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 3), (4, 5), (2, 2, 5), (2, 3, 2))
    )
    route, segments = Route((((0, 0.5),), ((1, 2.0), (0, 1.0)))), Segments((1, 3))
    assert torch.autograd.gradcheck(lambda y, *a: reference.add_low_rank(1 * y, *a, route, segments), (y, x, down, up))


@pytest.mark.parametrize(
    ("route", "lengths", "said"),
    [
        (Route(((),)), (2, 2), "a route of 1 sequences for 2 segments"),
        (Route(((), ())), (2, 3), "its segments 5"),
        (Route(((), ((2, 1.0),))), (2, 2), "no place 2 among 2"),
        (Route(((), ((-1, 1.0),))), (2, 2), "no place -1 among 2"),
    ],
)
def test_what_does_not_fit_is_refused(route: Route, lengths: tuple[int, ...], said: str) -> None:
    y, x, down, up = torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(2, 2, 5), torch.zeros(2, 3, 2)
    with pytest.raises(ValueError, match=said):
        reference.add_low_rank(y, x, down, up, route, Segments(lengths))
    with pytest.raises(ValueError, match=re.escape("(4, 5) through down (2, 2, 4)")):
        reference.add_low_rank(y, x, down[..., :4], up, Route(((), ())), Segments((2, 2)))


def test_a_route_cannot_be_narrower_than_its_adapters_or_take_tables_of_another_shape() -> None:
    with pytest.raises(ValueError, match="2 adapters of a sequence do not fit a route 1 wide"):
        Route((((0, 1.0), (1, 1.0)),), 1)
    with pytest.raises(ValueError, match="cannot take the tables"):
        Route(((),)).filled(2, 1).onto(Route(((),)).filled(2, 2))
    with pytest.raises(ValueError, match="cannot take the tables"):
        Route(((),), 1).onto(Route(((),), 1))
