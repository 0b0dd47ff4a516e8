"""Inputs and outputs of the graphs, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["joint", "references", "cached"]
Attention = Literal["standard", "plugin"]


@dataclass(frozen=True)
class Port:
    """One input or output: its dtype name and its axes, numbers or names of sizes that vary."""

    name: str
    dtype: Literal["float32", "model", "int32", "int64", "bool"]
    axes: tuple[int | str, ...]
