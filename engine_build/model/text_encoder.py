"""Instructions to text tokens: selected hidden states of a Qwen3, stacked along the width.

klein wants its prompt in the chat template, padded to 512 and the padding kept; nano its plain words. Only
the layers up to the last one used are built and read, a quarter less memory for klein (27 of 36).

Letters: Lt text tokens, Dt their width (hidden size times the number of layers used).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model
from transformers.utils import logging as transformers_logging

from engine_build.config import CheckpointConfig
from engine_build.errors import CheckpointError, RequestError


class TextEncoder:
    """A truncated Qwen3 and its tokenizer. Each instruction is encoded alone, so no batch changes it."""

    def __init__(self, model: Qwen3Model, tokenizer: Any, config: CheckpointConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = config

    @classmethod
    def load(cls, folder: Path, config: CheckpointConfig, *, device: torch.device, dtype: torch.dtype) -> Self:
        """From `text_encoder/` and `tokenizer/`. Raises CheckpointError for missing or misshapen tensors."""
        home = folder / "text_encoder"
        model = _load_model(home, max(config.text_layers), dtype)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder / "tokenizer", local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder / 'tokenizer'} does not load: {_one_line(error)}") from error
        return cls(model.to(device), tokenizer, config)

    @property
    def width(self) -> int:
        hidden: int = self.model.config.hidden_size
        return hidden * len(self.config.text_layers)

    @torch.inference_mode()
    def encode(self, instruction: str) -> Tensor:
        """Text tokens `(Lt, Dt)` in the model's dtype, cut at `max_text_tokens` as in diffusers.

        Raises RequestError for an empty instruction.
        """
        ids, mask = self._tokenize(instruction)
        device = self.model.device
        states = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        stacked = torch.stack([states[layer][0] for layer in self.config.text_layers], dim=1)  # (Lt, layers, hidden)
        return stacked.flatten(1)  # (Lt, Dt)

    def count(self, instruction: str) -> int:
        """Tokens the instruction will occupy; `max_text_tokens` when prompts are padded."""
        return self._tokenize(instruction)[0].shape[1]

    def _tokenize(self, instruction: str) -> tuple[Tensor, Tensor]:
        text = instruction
        if self.config.chat_template:
            message = [{"role": "user", "content": instruction}]
            try:
                text = self.tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            except (TemplateError, ValueError) as error:
                raise CheckpointError(f"the tokenizer's chat template does not work: {_one_line(error)}") from error
        limit = self.config.max_text_tokens
        padding = "max_length" if self.config.pad_text else "do_not_pad"
        encoded = self.tokenizer(text, return_tensors="pt", padding=padding, truncation=True, max_length=limit)
        if not encoded["input_ids"].shape[1]:
            raise RequestError("the instruction is empty")
        return encoded["input_ids"], encoded["attention_mask"]


def _load_model(home: Path, layers: int, dtype: torch.dtype) -> Qwen3Model:
    try:
        config = Qwen3Config.from_pretrained(home, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{home} does not load: {_one_line(error)}") from error
    if config.model_type != "qwen3":
        raise CheckpointError(f"{home}: model type {config.model_type!r} is not supported, only qwen3")
    whole = config.num_hidden_layers
    if layers > whole:
        raise CheckpointError(f"{home} has {whole} layers, text_layers asks for the hidden state of layer {layers}")
    config.num_hidden_layers = layers
    if config.layer_types is not None:
        config.layer_types = config.layer_types[:layers]
    with quiet():
        try:
            model, report = Qwen3Model.from_pretrained(
                home,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # only so that the report names them
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{home} does not load: {_one_line(error)}") from error
    left_out = (*(f"layers.{i}." for i in range(layers, whole)), "lm_head.")
    extra = [k for k in report["unexpected_keys"] if not k.removeprefix("model.").startswith(left_out)]
    wrong = [*report["missing_keys"], *extra, *(k[0] for k in report["mismatched_keys"])]
    if wrong:
        raise CheckpointError(f"{home}: tensors missing, extra or misshapen: {', '.join(sorted(wrong)[:8])}")
    if layers < whole:
        model.norm = nn.Identity()  # the state after an inner layer is not normalised
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report of tensors that are left out on purpose."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
