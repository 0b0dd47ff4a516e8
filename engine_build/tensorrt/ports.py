"""The graphs' inputs and outputs, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["joint", "references", "cached"]
Attention = Literal["standard", "plugin"]


@dataclass(frozen=True)
class Port:
    """One input or output: its dtype name and its axes, numbers or names of sizes that vary."""

    name: str
    dtype: Literal["float32", "model", "int32", "int64", "bool"]
    axes: tuple[int | str, ...]


class Graph(nn.Module):
    """A module that is exported: called with tensors in the order of `inputs`, it returns those of `outputs`."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
