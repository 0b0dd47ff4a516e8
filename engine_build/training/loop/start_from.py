"""The parts a stage works with: network, text encoder, autoencoder, schedule; where they come from, where they go.

They come from another stage of the run, from a state file, or from a checkpoint folder (nano or FLUX.2-klein);
with none of these a network of the configured shape begins from scratch. They leave as a checkpoint folder or,
where a LoRA was trained, as a LoRA file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from engine_build.config import CheckpointConfig, ModelConfig, ReferenceAttention
from engine_build.errors import RequestError
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.text_encoder import TextEncoder
from engine_build.model.weights import load_model, locate
from engine_build.runtime.sampling import Schedule
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.packed_batch import pack_samples
from engine_build.training.data.sample import Tokens
from engine_build.training.loop import adapters
from engine_build.training.loop.export import export
from engine_build.training.loop.kept import Kept
from engine_build.training.loop.learner import StageConfig
from engine_build.training.loop.nano_model import FlowConfig, NanoModel
from engine_build.training.loop.run import has_state, read_state
from engine_build.training.loop.text_tokens import FrozenInstructionEncoder, InstructionEncoder, NanoInstructionEncoder


class Backbone(nn.Module):
    """An MMDiT whose text encoder is no part of the training."""

    def __init__(self, dit: MMDiT) -> None:
        super().__init__()
        self.dit = dit


class TrainedMode:
    """The reference attention a network is trained with, kept in its state: whoever starts from it goes on with it."""

    def __init__(self, dit: MMDiT) -> None:
        self.mode = dit.config.reference_attention

    def state_dict(self) -> dict[str, str]:
        return {"reference_attention": self.mode}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["reference_attention"] != self.mode:
            raise RequestError(
                f"this run was trained with {state['reference_attention']} references and cannot go on with {self.mode}"
            )


@dataclass
class NetworkParts:
    """A network and what it works with. `network` holds `dit`, and `text` where the text encoder may learn."""

    network: nn.Module
    encode_instructions: InstructionEncoder
    encoder: Encoder
    schedule: Schedule
    write: Callable[[Path], object]

    @property
    def dit(self) -> MMDiT:
        return self.network.dit  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return self.dit.device


def conditioned(parts: NetworkParts, samples: Sequence[Tokens], draws: int = 1) -> PackedBatch:
    """Samples packed with the text tokens of their instructions."""
    joint = parts.dit.config.reference_attention == "joint"
    return pack_samples(samples, parts.encode_instructions([sample.instruction for sample in samples]), draws, joint)


@dataclass(frozen=True)
class RunSetup:
    """Where a run keeps its things and what its own networks look like.

    `autoencoder` and `tokenizer` serve networks of this run; a checkpoint folder brings its own. `kept` is the folder
    with the weights of the last stage that was kept, where a run goes on that lost its own folder. No file is larger
    than `largest_file` bytes, unless that is 0.
    """

    out: Path
    shape: ModelConfig
    device: torch.device
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    autoencoder: Callable[[], AutoencoderKLFlux2]
    default_steps: int = 4
    kept: Path | None = None
    largest_file: int = 0

    def going_on(self, stage: str) -> Kept | None:
        """The weights that a stage goes on from when it has no state of its own. Raises RequestError."""
        kept = Kept.read(self.kept)
        return kept if kept and kept.stage == stage and not has_state(self.out / f"{stage}.pt") else None

    def parts(self, config: StageConfig, reference_attention: ReferenceAttention | None = None) -> NetworkParts:
        """The parts a stage starts from. Raises RequestError or CheckpointError when they are not there."""
        start = config.start_from
        folder = Path(start).expanduser()
        state = self.out / f"{start}.pt" if start and has_state(self.out / f"{start}.pt") else folder
        kept = self.going_on(start)
        if kept and self.kept:
            state, saved = self.out / f"{start}.pt", kept.state(self.kept)
        else:
            saved = _read_state(state, start) if start and state.suffix == ".pt" else {}
        if saved and not any(key.startswith("text.") for key in saved["ema"]["values"]):
            # Began from a checkpoint: what it left holds the text encoder too.
            state, saved = state.with_suffix("") / "checkpoint", {}
        if start and state.suffix != ".pt":
            parts = self._of_checkpoint(locate(str(state) if state.is_dir() else start), config, reference_attention)
        else:
            parts = self._of_run(saved, config, reference_attention)
        adapters.merge_files(parts.dit, [Path(one) for one in config.loras])
        return parts

    def _of_run(self, saved: dict[str, Any], config: StageConfig, mode: ReferenceAttention | None) -> NetworkParts:
        tokenizer, vae = self.tokenizer(), self.autoencoder()
        torch.manual_seed(config.seed)
        trained = saved.get("network", {}).get("reference_attention", self.shape.reference_attention)
        model = NanoModel(replace(self.shape, reference_attention=mode or trained), len(tokenizer))
        if saved:
            model.load_state_dict(saved["ema"]["values"])
        model.to(self.device)
        written = FlowConfig(height=config.height, shot=config.shot, shift=config.shift)
        return NetworkParts(
            network=model,
            encode_instructions=NanoInstructionEncoder(model, tokenizer),
            encoder=Encoder(vae.to(self.device)),
            schedule=Schedule(config.shift, use_dynamic_shifting=False),
            write=lambda folder: export(folder, model, vae, tokenizer, written, self.default_steps, self.largest_file),
        )

    def _of_checkpoint(self, folder: Path, config: StageConfig, mode: ReferenceAttention | None) -> NetworkParts:
        checkpoint = CheckpointConfig.load(folder)
        dit = load_model(folder, device=self.device, reference_attention=mode)
        autoencoder = Autoencoder.load(folder, device=self.device, dtype=torch.float32)
        if config.train_text:
            raise RequestError(f"the text encoder of {folder} stays frozen: train_text is for networks of this run")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        text = TextEncoder.load(folder, checkpoint, device=self.device, dtype=dtype)
        return NetworkParts(
            network=Backbone(dit),
            encode_instructions=FrozenInstructionEncoder(text),
            encoder=Encoder(autoencoder.vae),
            schedule=Schedule.load(folder),
            write=lambda target: _write_over(folder, target, dit),
        )


def _read_state(path: Path, name: str) -> dict[str, Any]:
    if not has_state(path):
        raise RequestError(f"start_from {name!r}: there is no {path}; train that stage first")
    state = read_state(path)
    if not any(key.startswith("dit.") for key in state["ema"]["values"]):
        raise RequestError(f"{path} holds a LoRA: start from what it was trained on and name it in loras")
    return state


def autoencoder_in(folder: Path) -> AutoencoderKLFlux2:
    """The autoencoder of a checkpoint folder. Raises CheckpointError."""
    return Autoencoder.load(folder, device=torch.device("cpu"), dtype=torch.float32).vae


def _write_over(base: Path, folder: Path, dit: MMDiT) -> None:
    """A copy of the folder `base` with another transformer, in one float32 file."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(base / part, folder / part, dirs_exist_ok=True)
    shutil.copy(base / "model_index.json", folder)
    mode = dit.config.reference_attention
    replace(CheckpointConfig.load(base), reference_attention=mode).save(folder)
    home = folder / "transformer"
    home.mkdir(exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in dit.state_dict().items()}
    save_file(tensors, home / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(dit.config.to_diffusers(), indent=2)
    (home / "config.json").write_text(text + "\n", encoding="utf-8")
