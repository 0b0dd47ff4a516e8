"""Which sizes an engine is built for: a bucket of requests becomes TensorRT's min, opt and max of every input.

Each bucket is one optimisation profile of every engine, and one execution context at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine_build.config import CheckpointConfig
from engine_build.errors import RequestError
from engine_build.request.plan import reference_tokens
from engine_build.request.warm_sizes import WarmSize
from engine_build.tensorrt.operators import query_tile
from engine_build.tensorrt.ports import Port

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeSpan:
    """Smallest, usual and largest size of an axis."""

    least: int
    usual: int
    most: int

    def __add__(self, other: ShapeSpan) -> ShapeSpan:
        return ShapeSpan(self.least + other.least, self.usual + other.usual, self.most + other.most)


def spans(bucket: WarmSize, config: CheckpointConfig, side: int, dtype: torch.dtype) -> dict[str, ShapeSpan]:
    """Every named axis of the graphs for one bucket; `side` is the pixels of a token's edge.

    Raises RequestError for a size that is not in whole tokens.
    """
    if bucket.width % side or bucket.height % side:
        raise RequestError(f"bucket {bucket}: sizes must be multiples of {side} pixels")
    n, size = bucket.requests, (bucket.width, bucket.height)
    target = bucket.width * bucket.height // side**2
    most_text = config.max_text_tokens
    text = (
        ShapeSpan(most_text, most_text, most_text * n)
        if config.pad_text
        else ShapeSpan(1, most_text // 4, most_text * n)
    )
    image = ShapeSpan(target, target, target * n)
    one, all_of_them = (reference_tokens(size, k, config, side) for k in (1, bucket.garments))
    references = ShapeSpan(1, one, all_of_them * n)
    shown = ShapeSpan(1, 2, (1 + min(bucket.garments, max(1, config.max_references - 1))) * n)
    stream = image + references if config.reference_attention == "joint" else image
    joint, tile = text + stream, query_tile(dtype)
    edges = (side, max(bucket.width, bucket.height, int(config.garment_area**0.5) * 2))
    scale = side // 2
    return {
        "L": image,
        "Lt": text,
        "P": references,
        "Ti": stream,
        "T": joint,
        "N": ShapeSpan(1, 1, n),
        "N1": ShapeSpan(2, 2, n + 1),
        "M1": ShapeSpan(2, 2, n + 1),
        "R1": ShapeSpan(2, 3, shown.most + 1),
        "G": ShapeSpan(1, -(-joint.usual // tile), joint.most // tile + n),
        "Gt": ShapeSpan(1, -(-image.usual // tile), image.most // tile + n),
        "Gr": ShapeSpan(1, -(-references.usual // tile) + 1, references.most // tile + shown.most),
        "B": ShapeSpan(1, 1, shown.most),
        "X": ShapeSpan(edges[0], bucket.width, edges[1]),
        "Y": ShapeSpan(edges[0], bucket.height, edges[1]),
        "x": ShapeSpan(2, bucket.width // scale, edges[1] // scale),
        "y": ShapeSpan(2, bucket.height // scale, edges[1] // scale),
    }


def profile(ports: tuple[Port, ...], sizes: dict[str, ShapeSpan]) -> dict[str, tuple[Shape, Shape, Shape]]:
    """min, opt and max shape of every input."""

    def at(port: Port, which: str) -> Shape:
        return tuple(getattr(sizes[axis], which) if isinstance(axis, str) else axis for axis in port.axes)

    return {port.name: (at(port, "least"), at(port, "usual"), at(port, "most")) for port in ports}


def fits(shapes: dict[str, Shape], profile_shapes: dict[str, tuple[Shape, Shape, Shape]]) -> bool:
    """Whether inputs of these shapes may run under a profile."""
    return all(
        name in profile_shapes
        and all(a <= size <= b for size, a, b in zip(shape, *profile_shapes[name][::2], strict=True))
        for name, shape in shapes.items()
    )
