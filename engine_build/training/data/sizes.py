"""Sizes that pictures drawn for training may have: sides that divide into whole tokens of the autoencoder.

People are drawn `height` high and 3/4 as wide, garments `shot` square. Pictures of shards are fitted instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from engine_build.errors import RequestError


def width_of(height: int) -> int:
    """The width of a drawn person."""
    return height * 3 // 4


def check_heights(table: str, heights: Iterable[int], side: int) -> None:
    """People in tokens of `side` px. Raises RequestError naming the table and the nearest heights that fit."""
    for height in heights:
        if not _divides(height, side):
            raise RequestError(
                f"[{table}] height {height} makes pictures of {width_of(height)}x{height}, which do not divide into "
                f"tokens of {side}x{side}; {_nearest(height, lambda one: _divides(one, side))}"
            )


def check_squares(table: str, key: str, lengths: Iterable[int], side: int) -> None:
    """The same of square pictures, whose sides the table calls `key`."""
    for length in lengths:
        if not _whole(length, side):
            raise RequestError(
                f"[{table}] {key} {length} does not divide into tokens of {side}x{side}; "
                f"{_nearest(length, lambda one: _whole(one, side))}"
            )


def _whole(length: int, side: int) -> bool:
    return length > 0 and length % side == 0


def _divides(height: int, side: int) -> bool:
    return _whole(height, side) and _whole(width_of(height), side)


def _nearest(given: int, fits: Callable[[int], bool]) -> str:
    above = next(one for one in count(max(1, given)) if fits(one))
    below = next((one for one in range(given, 0, -1) if fits(one)), None)
    return f"{above} is the smallest that does" if below is None else f"the nearest that do are {below} and {above}"
