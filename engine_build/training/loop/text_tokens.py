"""From instructions to text tokens in training: nano's small encoder, which may learn, or a checkpoint's, frozen.

Every instruction keeps its own length: the causal encoder is run on padded rows and the padding cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine_build.model.text_encoder import TextEncoder
from engine_build.training.loop.nano_model import NanoModel


class InstructionEncoder(Protocol):
    """Instructions to text tokens (Lt, Dt) each."""

    def __call__(self, instructions: Sequence[str]) -> list[Tensor]: ...


class NanoInstructionEncoder:
    """The text encoder of a nano; an empty instruction becomes the end token."""

    def __init__(self, model: NanoModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, instructions: Sequence[str]) -> list[Tensor]:
        rows = [self.tokenizer(one)["input_ids"] or [self.tokenizer.eos_token_id] for one in instructions]
        longest = max(map(len, rows))
        filled = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        ids = torch.tensor(filled, device=self.model.text.device)
        return [states[: len(row)] for states, row in zip(self.model.embed(ids), rows, strict=True)]


class FrozenInstructionEncoder:
    """The text encoder of a checkpoint folder; an empty instruction becomes a space. Keeps what it has encoded last."""

    def __init__(self, encoder: TextEncoder, remember: int = 4096) -> None:
        self.encoder, self.remember = encoder, remember
        self.known: dict[str, Tensor] = {}

    def __call__(self, instructions: Sequence[str]) -> list[Tensor]:
        for one in set(instructions) - set(self.known):
            if len(self.known) >= self.remember:
                self.known.pop(next(iter(self.known)))
            self.known[one] = self.encoder.encode(one or " ").float().clone()
        return [self.known[one] for one in instructions]
