"""One call of a stage, and what every stage that trains does alike: its parts and learner, its samples, its loop.

registry.py says what each stage trains on and with which loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from engine_build.config import ReferenceAttention
from engine_build.model.mmdit import MMDiT
from engine_build.training.data.sample import Source
from engine_build.training.data.sizes import check_heights, check_squares
from engine_build.training.data.stream import TokenStream
from engine_build.training.loop import adapters
from engine_build.training.loop.kept import Kept
from engine_build.training.loop.learner import Learner, StageConfig, fit, recompute
from engine_build.training.loop.run import Run
from engine_build.training.loop.sharding import Place, shard
from engine_build.training.loop.sources import fitted, on_device
from engine_build.training.loop.start_from import NetworkParts, RunSetup, TrainedMode
from engine_build.training.measure.measures import Way
from engine_build.training.measure.sheets import write_sheet


@dataclass(frozen=True)
class StageRun:
    """One call of a stage: the name it runs under, its table, where it works, and how it was asked to go on.

    `table` names the table in the configuration file, whatever the run is called, and `config` is its content. It ends
    early, saved, after `stop_after` steps or at `until`, a time of time.monotonic().
    """

    stage: str
    table: str
    config: Any
    setup: RunSetup
    place: Place
    resume: bool = False
    tensorboard: bool = False
    stop_after: int | None = None
    until: float | None = None

    @property
    def run(self) -> Run:
        return Run(self.setup.out, self.stage, self.place, self.tensorboard, self.setup.largest_file)

    @property
    def folder(self) -> Path:
        return self.setup.out / self.stage

    @property
    def kept(self) -> Kept | None:
        """The kept weights that this call goes on from, having no state of its own."""
        return self.setup.going_on(self.stage) if self.resume else None

    def parts(self, mode: ReferenceAttention | None = None) -> NetworkParts:
        """The parts to start from. Raises RequestError for sizes that do not divide into whole tokens."""
        c = self.config
        parts = self.setup.parts(replace(c, start_from=self.stage, loras=()) if self.kept else c, mode)
        own_pictures = not c.data or getattr(c, "validate_every", 0) or getattr(c, "report_samples", 0)
        if own_pictures:
            side = parts.encoder.token_pixels
            check_heights(self.table, (*getattr(c, "heights", ()), c.height), side)
            check_squares(self.table, "shot", (*getattr(c, "shots", ()), c.shot), side)
        return parts


def token_stream(stage_run: StageRun, parts: NetworkParts, source: Source) -> TokenStream:
    """This process's samples of a source, at the stage's batch size, in whole tokens."""
    c: StageConfig = stage_run.config
    place, read = stage_run.place, on_device(fitted(source, parts), parts.device)
    return TokenStream(read, parts.encoder, c.batch, c.passes, c.chunk, c.first_seed, place.rank, place.world)


def prepare(
    stage_run: StageRun, copies: int = 0, trainable: int | None = None, mode: Any = None
) -> tuple[NetworkParts, Learner, list[MMDiT]]:
    """The network with its parts, the learner of what the stage trains, and copies of the network.

    The copies are frozen, but for copy number `trainable`.
    """
    c: StageConfig = stage_run.config
    parts = stage_run.parts(mode)
    text: nn.Module | None = getattr(parts.network, "text", None)
    parts.network.requires_grad_(True)
    if text is not None and (not c.train_text or c.lora_rank):
        text.requires_grad_(False)
    if c.lora_rank:
        adapters.attach(parts.dit, c.lora_rank, c.lora_alpha, c.lora_layers, c.seed)
    others = [adapters.twin(parts.dit) for _ in range(copies)]
    if trainable is not None:
        for tensor in adapters.tensors_of(others[trainable]).values():
            tensor.requires_grad_(True)
    for network in (parts.dit, *others):
        if c.checkpointing:
            recompute(network)
        shard(network, stage_run.place, c.bf16)
    module: nn.Module = adapters.LoraWeights(parts.dit) if c.lora_rank else parts.network
    return parts, Learner(module, c, stage_run.place), others


def fit_and_leave(
    stage_run: StageRun,
    parts: NetworkParts,
    learner: Learner,
    step: Callable[[int], Any],
    run: Run,
    more: dict[str, Any],
    source: Source,
    way: Way,
) -> Path:
    """Run the loop; write what the stage leaves."""
    c: StageConfig = stage_run.config

    def show(index: int) -> None:
        sheet = stage_run.setup.out / "grids" / f"{stage_run.stage}-{index}.png"
        write_sheet(sheet, parts, fitted(source, parts), way, write=stage_run.place.first)

    remembered = {**more, "network": TrainedMode(parts.dit)}
    shown, begin = show if c.show_every else None, stage_run.kept.step if stage_run.kept else 0
    fit(run, learner, step, stage_run.resume, remembered, shown, stage_run.stop_after, begin, stage_run.until)
    return _leave(stage_run, parts, learner)


def _leave(stage_run: StageRun, parts: NetworkParts, learner: Learner) -> Path:
    """A checkpoint folder or a LoRA file of the averaged weights; only one process at the end of a whole run writes."""
    if isinstance(learner.module, adapters.LoraWeights):
        path = stage_run.folder / "lora.safetensors"
        if stage_run.place.first:
            adapters.write(path, learner.module, learner.ema.values)
        return path
    folder = stage_run.folder / "checkpoint"
    if stage_run.place.world > 1:
        return stage_run.setup.out / f"{stage_run.stage}.pt"
    with learner.ema.applied(learner.module):
        parts.write(folder)
    return folder
