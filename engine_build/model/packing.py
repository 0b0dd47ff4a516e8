"""Several requests of different sizes as one batch of flat tensors, without padding.

A `Sequence` is one request; `pack` concatenates many. The joint sequence of a request is text, target, references.

Letters: N requests, L target tokens, R references, Lr tokens of one, C channels, Dt text width.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from kernels import Route, Segments
from kernels.routes import Pairs


@dataclass(frozen=True)
class Reference:
    """Tokens `(Lr, C)` of one conditioning image and their RoPE ids `(Lr, 4)`, all with the same t."""

    tokens: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Sequence:
    """One request: text `(Lt, Dt)`, noisy target `(L, C)` with ids `(L, 4)`, sigma in [0, 1], references.

    text_ids `(Lt, 4)` default to l = 0, 1, 2…; guidance is the embedded scale of models that have one. adapters are
    (place, scale) of low-rank adapters in the model's bank, which all its tokens go through.
    """

    text: Tensor
    target: Tensor
    target_ids: Tensor
    sigma: float | Tensor
    references: tuple[Reference, ...] = ()
    text_ids: Tensor | None = None
    guidance: float | None = None
    adapters: Pairs = ()


@dataclass(frozen=True)
class PackedBatch:
    """N sequences concatenated. References belong to groups of `draws` consecutive sequences.

    text `(sum Lt, Dt)`, target `(sum L, C)`, references `(sum Lr, C)`, ids `(…, 4)`, sigma `(N,)` float32.
    reference_segments holds one length per reference, reference_counts the references per group. route tells the
    adapters of every sequence, None when none has any.
    """

    text: Tensor
    text_ids: Tensor
    text_segments: Segments
    target: Tensor
    target_ids: Tensor
    target_segments: Segments
    references: Tensor
    reference_ids: Tensor
    reference_segments: Segments
    reference_counts: tuple[int, ...]
    sigma: Tensor
    guidance: Tensor | None = None
    draws: int = 1
    route: Route | None = None

    def __len__(self) -> int:
        return len(self.target_segments)

    @cached_property
    def group_segments(self) -> Segments:
        """Reference tokens per group, N / draws lengths."""
        return self.reference_segments.grouped(self.reference_counts)

    @cached_property
    def tokens(self) -> int:
        """All tokens of the batch."""
        return self.text_segments.total + self.target_segments.total + self.reference_segments.total

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def at(self, target: Tensor, sigma: Tensor) -> Self:
        """The same batch with another target `(sum L, C)` and sigma `(N,)`: the next denoising step."""
        return replace(self, target=target, sigma=sigma)


def pack(sequences: list[Sequence] | tuple[Sequence, ...], draws: int = 1) -> PackedBatch:
    """Concatenates requests. With draws n, each n consecutive sequences share the first one's references.

    Raises ValueError for no sequences, a number not divisible by draws, references or adapters on a sequence that
    shares another's references, guidance on some sequences only, or ids that do not fit their tokens.
    """
    if not sequences:
        raise ValueError("nothing to pack: no sequences")
    if draws < 1 or len(sequences) % draws:
        raise ValueError(f"{len(sequences)} sequences cannot be split into groups of {draws} draws")
    for i, sequence in enumerate(sequences):
        _check(sequence, i)
        owner = sequences[i - i % draws]
        if sequence.references and sequence.references is not owner.references:
            raise ValueError(f"sequence {i} shares references with sequence {i - i % draws} and cannot have its own")
        if sequence.adapters != owner.adapters:
            raise ValueError(f"sequence {i} shares references with sequence {i - i % draws} and needs its adapters")
    groups = [s.references for s in sequences[::draws]]
    references = [r for group in groups for r in group]
    first = sequences[0].target
    empty = first.new_empty(0, first.shape[1])
    ids = sequences[0].target_ids
    guided = [s.guidance for s in sequences if s.guidance is not None]
    if guided and len(guided) != len(sequences):
        raise ValueError("guidance must be given for all sequences or for none")
    return PackedBatch(
        text=torch.cat([s.text for s in sequences]),
        text_ids=torch.cat([text_ids_of(s.text) if s.text_ids is None else s.text_ids for s in sequences]),
        text_segments=Segments(tuple(len(s.text) for s in sequences)),
        target=torch.cat([s.target for s in sequences]),
        target_ids=torch.cat([s.target_ids for s in sequences]),
        target_segments=Segments(tuple(len(s.target) for s in sequences)),
        references=torch.cat([r.tokens for r in references]) if references else empty,
        reference_ids=torch.cat([r.ids for r in references]) if references else ids.new_empty(0, 4),
        reference_segments=Segments(tuple(len(r.tokens) for r in references)),
        reference_counts=tuple(len(group) for group in groups),
        sigma=torch.stack(
            [torch.as_tensor(s.sigma, dtype=torch.float32, device=first.device).reshape(()) for s in sequences]
        ),
        guidance=torch.tensor(guided, dtype=torch.float32, device=first.device) if guided else None,
        draws=draws,
        route=Route(tuple(s.adapters for s in sequences)) if any(s.adapters for s in sequences) else None,
    )


def text_ids_of(text: Tensor) -> Tensor:
    """RoPE ids `(Lt, 4)` of text `(Lt, Dt)`: only the l axis counts."""
    ids = torch.zeros(len(text), 4, dtype=torch.long, device=text.device)
    ids[:, 3] = torch.arange(len(text), device=text.device)
    return ids


def grid_ids(height: int, width: int, t: int = 0) -> Tensor:
    """RoPE ids `(height * width, 4)` of an image's tokens, row by row; references use t = 10, 20, 30…"""
    axes = (torch.tensor([t]), torch.arange(height), torch.arange(width), torch.tensor([0]))
    return torch.cartesian_prod(*axes)


def _check(sequence: Sequence, i: int) -> None:
    if sequence.target_ids.shape != (len(sequence.target), 4):
        raise ValueError(f"sequence {i}: target_ids must be ({len(sequence.target)}, 4)")
    if sequence.text_ids is not None and sequence.text_ids.shape != (len(sequence.text), 4):
        raise ValueError(f"sequence {i}: text_ids must be ({len(sequence.text)}, 4)")
    for j, reference in enumerate(sequence.references):
        if reference.ids.shape != (len(reference.tokens), 4):
            raise ValueError(f"sequence {i}: ids of reference {j} must be ({len(reference.tokens)}, 4)")
