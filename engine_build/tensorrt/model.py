"""An MMDiT, text encoder and VAE whose forwards are graphs of a runner, in the shapes the pipeline expects.

A runner is anything with `run(graph, feeds)`: TensorRT engines, or onnxruntime for checks without a GPU. With
these parts a `Pipeline` and its engine work as they do with torch, packing, caches and all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from engine_build.config import ModelConfig
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import ReferenceKV
from engine_build.tensorrt.feeds import Feeder, PassFeeds
from engine_build.tensorrt.ports import Attention
from kernels import Kernels, select


class GraphRunner(Protocol):
    """Runs a named graph; tensors in and out live on `device`, the model's own are of `dtype`."""

    device: torch.device
    dtype: torch.dtype

    def run(self, graph: str, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class GraphMMDiT:
    """`engine_build.model.mmdit.MMDiT` as far as the pipeline uses it, computed by a runner."""

    def __init__(self, config: ModelConfig, runner: GraphRunner, attention: Attention) -> None:
        self.config, self.runner = config, runner
        self.device, self.dtype = runner.device, runner.dtype
        self.kernels: Kernels = replace(select("torch"), name="tensorrt")
        self._feeder = Feeder(config, runner.dtype, attention == "plugin")

    def __call__(self, batch: PackedBatch, reference_kv: ReferenceKV | None = None) -> Tensor:
        """Velocity `(sum L, output channels)`; see `MMDiT.forward`."""
        return self.velocity(self.prepare(batch, reference_kv), batch.target, batch.sigma)

    def prepare(self, batch: PackedBatch, reference_kv: ReferenceKV | None = None) -> PassFeeds:
        """What stays the same from step to step. Raises ValueError for a batch the graphs cannot take."""
        _refuse_adapters(batch)
        if reference_kv is None and self.config.reference_attention != "joint" and batch.reference_segments.total:
            reference_kv = self.encode_references(batch)
        return self._feeder.pass_feeds(batch, reference_kv)

    def velocity(self, feeds: PassFeeds, target: Tensor, sigma: Tensor) -> Tensor:
        """One step: target `(sum L, C)` at sigma `(N,)` to velocity `(sum L, output channels)`."""
        parts = [self.runner.run(feeds.kind, given)["velocity"] for given in feeds.steps(target, sigma)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def encode_references(self, batch: PackedBatch, place: bool = True) -> ReferenceKV:
        """Keys and values of the batch's references; see `MMDiT.encode_references`."""
        c = self.config
        _refuse_adapters(batch)
        if c.reference_attention == "joint" or not batch.reference_segments.total:
            raise ValueError("only references of a shared or isolated checkpoint are encoded by themselves")
        isolated = c.reference_attention == "isolated"
        starts = torch.tensor(batch.reference_segments.offsets[:-1], device=batch.reference_ids.device)
        slots = batch.reference_ids.index_select(0, starts)[:, 0]
        ids = batch.reference_ids
        if isolated:
            ids = torch.cat((torch.zeros_like(ids[:, :1]), ids[:, 1:]), dim=1)
        elif not place:
            raise ValueError("shared references depend on their slots and cannot be kept without them")
        out = self.runner.run("references", self._feeder.references(batch, ids))
        keys = tuple(out[f"key_{i}"] for i in range(c.layers))
        values = tuple(out[f"value_{i}"] for i in range(c.layers))
        at = torch.zeros_like(slots) if isolated else slots
        kv = ReferenceKV(keys, values, batch.reference_segments, batch.reference_counts, at)
        return self.place(kv, slots) if isolated and place else kv

    def place(self, kv: ReferenceKV, slots: Tensor) -> ReferenceKV:
        """The same references at other t-coordinates `(R,)`; see `MMDiT.place`, which reads no weights."""
        return MMDiT.place(cast("MMDiT", self), kv, slots)


def _refuse_adapters(batch: PackedBatch) -> None:
    if batch.route is not None:
        raise ValueError("graphs have no adapters beside their weights")


class GraphText(nn.Module):
    """A Qwen3 as far as `TextEncoder` uses it."""

    def __init__(self, runner: GraphRunner, hidden_size: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.runner, self.layers = runner, layers
        self.config = SimpleNamespace(hidden_size=hidden_size)
        self.device = runner.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        out = self.runner.run("text", {"ids": input_ids, "mask": attention_mask})
        return SimpleNamespace(hidden_states={layer: out[f"state_{layer}"] for layer in self.layers})


class GraphVae:
    """An AutoencoderKLFlux2 as far as `Autoencoder` uses it."""

    def __init__(self, runner: GraphRunner) -> None:
        self.runner = runner
        self.dtype = runner.dtype

    def encode(self, pixels: Tensor) -> SimpleNamespace:
        latents = self.runner.run("vae_encoder", {"pixels": pixels})["latents"]
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (self.runner.run("vae_decoder", {"latents": latents})["pixels"],)
