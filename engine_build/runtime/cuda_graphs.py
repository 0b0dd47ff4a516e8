"""A denoising step as a CUDA graph, one for each bucket of sizes, in bounded memory.

A graph is fixed in its shapes and in where its tensors lie. So a batch is filled up to its bucket with requests
that mean nothing, its lengths and its adapters' places go into tables on the device, and everything that stays
the same from step to step (`StepConstants`) is copied once into the graph's own tensors; after that a step is one
launch. Filling costs at most a few percent of the tokens and changes no result: packed requests do not see each other.

Keys and values of cached references lie in one arena that all graphs share, since one batch runs at a time.
Graphs are kept up to a bound in bytes, the least recently used go first. What has no graph runs eagerly, and
the log says so: batches beyond the arena, models with embedded guidance, captures that fail.

Letters as in `engine_build.model.mmdit`: T tokens, N sequences, P reference tokens, H heads, E head size.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import Prefix, ReferenceKV, StepConstants
from kernels import Segments

_log = logging.getLogger(__name__)
TEXT_GRAIN = 64
IMAGE_GRAIN = 256

Step = Callable[[Tensor, Tensor], Tensor]  # target (sum L, C), sigma (N,) -> velocity (sum L, C')


class Stepper(Protocol):
    """Makes a batch ready; what it returns is called once a step."""

    def prepare(self, batch: PackedBatch, kv: ReferenceKV | None) -> Step: ...


@dataclass(frozen=True)
class Eager:
    """Every step launched kernel by kernel, at the batch's own sizes."""

    model: MMDiT

    def prepare(self, batch: PackedBatch, kv: ReferenceKV | None) -> Step:
        constants = self.model.prepare(batch, kv)
        return lambda target, sigma: self.model.velocity(constants, target, sigma)


@dataclass(frozen=True)
class Bucket:
    """Sizes of a graph, in tokens; `sequences` counts those that only fill up, at least one.

    `adapters` is how many a sequence can have, a power of two, or 0 for a graph without any.
    """

    sequences: int
    text: int
    target: int
    references: int
    prefix: int
    adapters: int = 0

    @classmethod
    def of(cls, batch: PackedBatch, kv: ReferenceKV | None) -> Bucket:
        """The smallest bucket that holds the batch."""
        joint = 0 if kv else batch.reference_segments.total
        return cls(
            sequences=1 << len(batch).bit_length(),
            text=_up(batch.text_segments.total, TEXT_GRAIN),
            target=_up(batch.target_segments.total, IMAGE_GRAIN),
            references=_up(joint, IMAGE_GRAIN),
            prefix=_up(kv.segments.total if kv else 0, IMAGE_GRAIN),
            adapters=0 if batch.route is None else 1 << (batch.route.width - 1).bit_length(),
        )


@dataclass(frozen=True)
class Captured:
    """A recorded step: `replay` runs it again on the same memory, `output` is where the velocity appears."""

    replay: Callable[[], None]
    output: Tensor
    bytes: int


Capture = Callable[[Callable[[], Tensor]], Captured]


def capture_cuda(step: Callable[[], Tensor]) -> Captured:
    """Records `step` on the current CUDA device, after one run on a side stream that compiles and allocates."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # the capture does so as well: what it gives back would hide what the graph takes
    before = torch.cuda.memory_reserved()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return Captured(graph.replay, output, max(0, torch.cuda.memory_reserved() - before))


class GraphSteps:
    """A `Stepper` that records a graph for each bucket it meets. One batch at a time, like its engine.

    `max_bytes` bounds the graphs, `prefix_tokens` the arena of cached keys and values.
    """

    def __init__(self, model: MMDiT, capture: Capture, *, max_bytes: int, prefix_tokens: int) -> None:
        self.model = model
        self.max_bytes = max_bytes
        self.prefix_tokens = 0 if model.config.reference_attention == "joint" else prefix_tokens
        self._capture = capture
        self._eager = Eager(model)
        self._graphs: OrderedDict[Bucket, _Graph] = OrderedDict()
        self._refused: dict[Bucket, str] = {}
        self._arena: list[Tensor] = []
        self._loaded: object = None

    @property
    def bytes(self) -> int:
        """Held by graphs, without the arena."""
        return sum(graph.bytes for graph in self._graphs.values())

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Those with a graph, the least recently used first."""
        return tuple(self._graphs)

    def clear(self) -> None:
        """Lets go of every graph, of the arena, and of what was refused."""
        self._graphs.clear()
        self._refused.clear()
        self._arena.clear()
        self._loaded = None

    def prepare(self, batch: PackedBatch, kv: ReferenceKV | None) -> Step:
        """A step of the batch by its bucket's graph, recorded now if it is new; eagerly where there can be none."""
        if kv is None and self.model.config.reference_attention != "joint" and batch.reference_segments.total:
            kv = self.model.encode_references(batch)
        bucket = Bucket.of(batch, kv)
        graph = self._graph(bucket, batch, kv)
        if graph is None:
            return self._eager.prepare(batch, kv)
        self._loaded = me = object()
        sequences, tokens = len(batch), batch.target_segments.total

        def step(target: Tensor, sigma: Tensor) -> Tensor:
            if self._loaded is not me:
                graph.load(self._filled(bucket, batch, kv))
                self._loaded = me
            graph.target[:tokens].copy_(target)
            graph.sigma[:sequences].copy_(sigma)
            graph.captured.replay()
            return graph.captured.output[:tokens].clone()

        return step

    def _graph(self, bucket: Bucket, batch: PackedBatch, kv: ReferenceKV | None) -> _Graph | None:
        graph = self._graphs.get(bucket)
        if graph is not None:
            graph.load(self._filled(bucket, batch, kv))
            self._graphs.move_to_end(bucket)
            return graph
        reason = self._refused.get(bucket) or self._obstacle(bucket, batch)
        if reason is None:
            try:
                graph = _Graph.record(self.model, self._filled(bucket, batch, kv), bucket, self._capture)
            except RuntimeError as error:  # lack of memory and what cannot be captured; a lost device shows again
                reason = f"the capture failed: {' '.join(str(error).split())[:200]}"
        if graph is not None and graph.bytes > self.max_bytes:
            reason, graph = f"its graph takes {graph.bytes >> 20} MiB of {self.max_bytes >> 20}", None
        if graph is None:
            if bucket not in self._refused:
                _log.warning("no CUDA graph for %s, eager instead: %s", bucket, reason)
                self._refused[bucket] = reason or ""
            return None
        while self._graphs and self.bytes + graph.bytes > self.max_bytes:
            gone, _ = self._graphs.popitem(last=False)
            _log.info("CUDA graph of %s makes room", gone)
        self._graphs[bucket] = graph
        _log.info("CUDA graph for %s: %d MiB, %d of them", bucket, graph.bytes >> 20, len(self._graphs))
        return graph

    def _obstacle(self, bucket: Bucket, batch: PackedBatch) -> str | None:
        if batch.guidance is not None:
            return "embedded guidance"
        if batch.draws != 1:
            return "shared draws"
        if bucket.prefix > self.prefix_tokens:
            return f"{bucket.prefix} tokens of references, room for {self.prefix_tokens}"
        return None

    def _filled(self, bucket: Bucket, batch: PackedBatch, kv: ReferenceKV | None) -> StepConstants:
        """The batch's constants at the bucket's sizes, its keys and values in the arena."""
        constants = self.model.prepare(filled(batch, bucket))
        if kv is None:
            return constants
        if not self._arena:
            c = self.model.config
            shape = (2 * c.layers, self.prefix_tokens, c.num_attention_heads, c.attention_head_dim)
            self._arena.append(torch.zeros(shape, dtype=self.model.dtype, device=self.model.device))
        keys, values = (half[:, : bucket.prefix].unbind() for half in self._arena[0].chunk(2))
        for place, x in zip((*keys, *values), (*kv.keys, *kv.values), strict=True):
            place[: x.shape[0]].copy_(x)
        lengths = _fill(kv.group_segments.lengths, bucket.sequences, bucket.prefix)
        return replace(constants, prefix=Prefix(keys, values, Segments(lengths, fixed=True)))


@dataclass
class _Graph:
    """One recorded step and the tensors it reads."""

    constants: StepConstants
    target: Tensor
    sigma: Tensor
    captured: Captured

    @classmethod
    def record(cls, model: MMDiT, constants: StepConstants, bucket: Bucket, capture: Capture) -> _Graph:
        device, config = model.device, model.config
        target = torch.zeros(bucket.target, config.in_channels, dtype=torch.float32, device=device)
        sigma = torch.zeros(bucket.sequences, dtype=torch.float32, device=device)
        graph = cls(constants, target, sigma, Captured(_never, target, 0))
        graph.captured = capture(lambda: model.velocity(graph.constants, target, sigma))
        return graph

    @property
    def bytes(self) -> int:
        held = [self.target, self.sigma, *_tensors(self.constants)]
        return self.captured.bytes + sum(x.numel() * x.element_size() for x in held)

    def load(self, constants: StepConstants) -> None:
        """Puts another batch of the same bucket in the tensors that the graph reads."""
        for mine, new in zip(_tensors(self.constants), _tensors(constants), strict=True):
            mine.copy_(new)
        old = self.constants
        joint = constants.joint.onto(old.joint)
        prefix = None
        if constants.prefix is not None and old.prefix is not None:
            prefix = replace(old.prefix, segments=constants.prefix.segments.onto(old.prefix.segments))
        route = constants.route and old.route and constants.route.onto(old.route)
        self.constants = replace(old, image=constants.image.onto(old.image), joint=joint, prefix=prefix, route=route)


def filled(batch: PackedBatch, bucket: Bucket) -> PackedBatch:
    """The batch with requests behind it that fill the bucket: one of all tokens left, others of none.

    Segments become `fixed`. References are kept where they are joint, left out where they come as K/V.
    """
    joint = bucket.references > 0
    n = bucket.sequences
    text = _fill(batch.text_segments.lengths, n, bucket.text)
    target = _fill(batch.target_segments.lengths, n, bucket.target)
    groups = _fill(batch.group_segments.lengths, n, bucket.references) if joint else (0,) * n
    return replace(
        batch,
        text=_longer(batch.text, bucket.text),
        text_ids=_longer(batch.text_ids, bucket.text),
        text_segments=Segments(text, fixed=True),
        target=_longer(batch.target, bucket.target),
        target_ids=_longer(batch.target_ids, bucket.target),
        target_segments=Segments(target, fixed=True),
        references=_longer(batch.references if joint else batch.references[:0], bucket.references),
        reference_ids=_longer(batch.reference_ids if joint else batch.reference_ids[:0], bucket.references),
        reference_segments=Segments(groups, fixed=True),
        reference_counts=(1,) * n,
        sigma=_longer(batch.sigma, n),
        route=batch.route and batch.route.filled(n, bucket.adapters),
    )


def _fill(lengths: tuple[int, ...], sequences: int, total: int) -> tuple[int, ...]:
    """With one more length that makes up the total, and zeros."""
    return (*lengths, total - sum(lengths), *(0,) * (sequences - len(lengths) - 1))


def _longer(x: Tensor, rows: int) -> Tensor:
    return torch.cat((x, x.new_zeros(rows - x.shape[0], *x.shape[1:])))


def _up(tokens: int, grain: int) -> int:
    return -(-tokens // grain) * grain


def _tensors(constants: StepConstants) -> Iterator[Tensor]:
    """What constants hold of their own; keys and values lie in the arena, lengths and routes in their own tables."""
    yield from (constants.text, constants.references)
    yield from (*constants.text_rope, *constants.image_rope, *constants.joint_rope)


def _never() -> None:
    raise RuntimeError("the graph is not recorded yet")
