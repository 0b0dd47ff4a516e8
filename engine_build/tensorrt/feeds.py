"""A packed batch as the inputs of a graph: what `engine_build.model.mmdit` derives from lengths, here derived once.

Everything but target and sigma stays the same from step to step, so a `PassFeeds` is made once a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_build.config import ModelConfig
from engine_build.model.mmdit import rope_table
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import ReferenceKV
from engine_build.tensorrt.operators import query_tile
from engine_build.tensorrt.ports import Kind
from kernels import Segments

Feeds = dict[str, Tensor]


@dataclass(frozen=True)
class PassFeeds:
    """The calls of one forward: a graph, its constant inputs, and how many target tokens and sequences it takes."""

    kind: Kind
    calls: tuple[Feeds, ...]
    tokens: tuple[int, ...]
    sequences: tuple[int, ...]

    def steps(self, target: Tensor, sigma: Tensor) -> Iterator[Feeds]:
        """The inputs of each call for target `(sum L, C)` at sigma `(N,)`."""
        parts = zip(self.calls, target.split(self.tokens), sigma.split(self.sequences), strict=True)
        for constant, x, levels in parts:
            yield constant | {"target": x.float(), "sigma": levels.float()}


class Feeder:
    """Makes inputs for the graphs of one model: packed in one call, or one sequence a call."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, packed: bool) -> None:
        self.config, self.dtype, self.packed = config, dtype, packed

    def pass_feeds(self, batch: PackedBatch, kv: ReferenceKV | None) -> PassFeeds:
        """The main pass of a batch with the keys and values it attends, if those were made before."""
        kind: Kind = "joint" if self.config.reference_attention == "joint" else "cached"
        if kind == "cached" and kv is None:
            raise ValueError("these engines need references: at least the person's keys and values")
        batches = [(batch, kv)] if self.packed else _alone(batch, kv)
        calls = tuple(self._main(kind, one, one_kv) for one, one_kv in batches)
        tokens = tuple(one.target_segments.total for one, _ in batches)
        return PassFeeds(kind, calls, tokens, tuple(len(one) for one, _ in batches))

    def references(self, batch: PackedBatch, ids: Tensor) -> Feeds:
        """The inputs that turn the batch's references, at RoPE ids `(P, 4)`, into keys and values."""
        isolated = self.config.reference_attention == "isolated"
        attended = batch.reference_segments if isolated else batch.group_segments
        cos, sin = rope_table(ids, self.config)
        feeds = {"references": batch.references.float(), "reference_cos": cos, "reference_sin": sin}
        if self.packed:
            device = ids.device
            feeds["reference_cu"] = attended.cu_seqlens(device)
            feeds["reference_tiles"] = attended.tiles(query_tile(self.dtype), device)
        elif isolated:
            owner = attended.per_token(torch.arange(len(attended), device=ids.device))
            feeds["reference_mask"] = (owner[:, None] == owner)[None, None]
        elif len(attended) > 1:
            raise ValueError("one request a call: these engines were built without our attention")
        return feeds

    def _main(self, kind: Kind, batch: PackedBatch, kv: ReferenceKV | None) -> Feeds:
        text, target, ids = batch.text_segments, batch.target_segments, batch.target_ids
        feeds: Feeds = {"text": batch.text.to(self.dtype)}
        image, of_image = target, torch.arange(target.total)
        if kind == "joint":
            feeds["references"] = batch.references.float()
            stream, of_image, _ = _interleaved(target, batch.group_segments)
            image = target.plus(batch.group_segments)
            ids = torch.cat((ids, batch.reference_ids)).index_select(0, stream.to(ids.device))
            if self.packed:
                feeds["stream_rows"] = stream
        if batch.guidance is not None:
            feeds["guidance"] = batch.guidance
        for name, table in (("text", rope_table(batch.text_ids, self.config)), ("image", rope_table(ids, self.config))):
            feeds |= {f"{name}_cos": table[0], f"{name}_sin": table[1]}
        if kv is not None:
            feeds |= {f"key_{i}": key for i, key in enumerate(kv.keys)}
            feeds |= {f"value_{i}": value for i, value in enumerate(kv.values)}
        if self.packed:
            feeds |= self._packing(text, image, target, of_image)
            if kv is not None:
                feeds["prefix_cu"] = kv.group_segments.cu_seqlens(ids.device)
        return {name: value.to(ids.device) for name, value in feeds.items()}

    def _packing(self, text: Segments, image: Segments, target: Segments, of_image: Tensor) -> Feeds:
        """Tables of rows and lengths; `of_image` are the target's rows `(sum L,)` of the image stream."""
        cpu = torch.device("cpu")
        joint, (rows, text_rows, image_rows) = text.plus(image), _interleaved(text, image)
        return {
            "text_sequence": text.per_token(torch.arange(len(text))),
            "image_sequence": image.per_token(torch.arange(len(image))),
            "joint_rows": rows,
            "text_rows": text_rows,
            "image_rows": image_rows,
            "cu_seqlens": joint.cu_seqlens(cpu),
            "tiles": joint.tiles(query_tile(self.dtype), cpu),
            "target_rows": image_rows.index_select(0, of_image),
            "target_sequence": target.per_token(torch.arange(len(target))),
            "target_cu": target.cu_seqlens(cpu),
            "target_tiles": target.tiles(query_tile(self.dtype), cpu),
        }


def _interleaved(a: Segments, b: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """How each sequence of a, then of b, follow each other.

    `(Ta + Tb,)` rows of cat(a, b) in that order, and where in it the rows of a `(Ta,)` and of b `(Tb,)` went.
    """
    rows: list[int] = []
    for i in range(len(a)):
        rows += range(a.offsets[i], a.offsets[i + 1])
        rows += range(a.total + b.offsets[i], a.total + b.offsets[i + 1])
    order = torch.tensor(rows, dtype=torch.int64)
    place = torch.argsort(order)
    return order, place[: a.total], place[a.total :]


def _alone(batch: PackedBatch, kv: ReferenceKV | None) -> list[tuple[PackedBatch, ReferenceKV | None]]:
    """Every sequence of a batch as a batch of its own, with its own group of references."""
    texts, text_ids = batch.text.split(batch.text_segments.lengths), batch.text_ids.split(batch.text_segments.lengths)
    targets = batch.target.split(batch.target_segments.lengths)
    target_ids = batch.target_ids.split(batch.target_segments.lengths)
    groups = batch.group_segments
    references, reference_ids = batch.references.split(groups.lengths), batch.reference_ids.split(groups.lengths)
    singles = None if kv is None else kv.single()
    alone = []
    for i in range(len(batch)):
        group = i // batch.draws
        first = sum(batch.reference_counts[:group])
        mine = slice(first, first + batch.reference_counts[group])
        lengths = batch.reference_segments.lengths[mine]
        one = PackedBatch(
            text=texts[i],
            text_ids=text_ids[i],
            text_segments=Segments((len(texts[i]),)),
            target=targets[i],
            target_ids=target_ids[i],
            target_segments=Segments((len(targets[i]),)),
            references=references[group],
            reference_ids=reference_ids[group],
            reference_segments=Segments(lengths),
            reference_counts=(len(lengths),),
            sigma=batch.sigma[i : i + 1],
            guidance=None if batch.guidance is None else batch.guidance[i : i + 1],
        )
        alone.append((one, None if singles is None or kv is None else _group(singles, kv, i, len(batch))))
    return alone


def _group(singles: list[ReferenceKV], kv: ReferenceKV, i: int, sequences: int) -> ReferenceKV:
    """The keys and values of sequence i's group, of which several sequences may share one."""
    group = i // (sequences // len(kv.counts))
    first = sum(kv.counts[:group])
    return ReferenceKV.join([singles[first : first + kv.counts[group]]])
