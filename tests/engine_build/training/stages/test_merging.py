"""Merged weights are what the formula says, and only of networks that match."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine_build.errors import RequestError
from engine_build.training.stages.merging import averages, merged


def test_a_share_of_the_way_to_the_mean() -> None:
    start = {"a": torch.tensor([0.0, 4.0])}
    others = [{"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([3.0, 0.0])}]
    assert merged(start, others, 0.5)["a"].tolist() == [1.0, 3.0]
    assert merged(start, others, 1.0)["a"].tolist() == [2.0, 2.0]
    assert merged(start, others, 0.0)["a"].tolist() == [0.0, 4.0]


def test_what_does_not_match_or_is_missing_is_named(tmp_path: Path) -> None:
    start = {"a": torch.zeros(2)}
    with pytest.raises(RequestError, match="names no state"):
        merged(start, [], 0.5)
    for other in ({"a": torch.zeros(3)}, {"b": torch.zeros(2)}, {}):
        with pytest.raises(RequestError, match="not the same network"):
            merged(start, [other], 0.5)
    with pytest.raises(RequestError, match="train that stage first"):
        averages(tmp_path, "seed-0/nft")
    torch.save({"ema": {"values": start}}, tmp_path / "nft.pt")
    assert torch.equal(averages(tmp_path, "nft")["a"], start["a"])
