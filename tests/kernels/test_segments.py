"""Lengths, boundaries and interleaving of packed sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import Segments
from kernels.segments import join, split

LENGTHS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6)


@given(LENGTHS)
def test_join_puts_each_pair_together_and_split_undoes_it(pairs: list[tuple[int, int]]) -> None:
    a_segments, b_segments = (Segments(tuple(lengths)) for lengths in zip(*pairs, strict=True))
    a = torch.arange(a_segments.total)[:, None]
    b = 1000 + torch.arange(b_segments.total)[:, None]
    joined = join(a, a_segments, b, b_segments)
    pieces = zip(a.split(a_segments.lengths), b.split(b_segments.lengths), strict=True)
    assert joined.flatten().tolist() == [n for x, y in pieces for n in (*x.flatten().tolist(), *y.flatten().tolist())]
    again = split(joined, a_segments, b_segments)
    assert torch.equal(again[0], a)
    assert torch.equal(again[1], b)
    assert a_segments.plus(b_segments).total == len(joined)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_rows_repeat_once_per_token(lengths: list[int]) -> None:
    segments = Segments(tuple(lengths))
    rows = torch.arange(len(lengths))[:, None]
    assert segments.per_token(rows).flatten().tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]


def test_boundaries() -> None:
    segments = Segments((3, 0, 4))
    assert segments.cu_seqlens(torch.device("cpu")).tolist() == [0, 3, 3, 7]
    assert segments.cu_seqlens(torch.device("cpu")).dtype == torch.int32
    assert (segments.total, segments.uniform, segments.longest) == (7, None, 4)
    assert (Segments((2, 2)).uniform, Segments(()).uniform, Segments(()).total) == (2, None, 0)


@pytest.mark.parametrize(("counts", "lengths"), [((2, 0, 1), (7, 0, 5)), ((3,), (12,))])
def test_grouping_sums_consecutive_lengths(counts: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    assert Segments((3, 4, 5)).grouped(counts).lengths == lengths
