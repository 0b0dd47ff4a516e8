"""Every training stage after the autoencoder, from a configuration to a checkpoint folder or a LoRA file.

    pretrain (A)  resolution (B)  tryon (C)  isolate  nft (D)  cfg-distill, dmd (E)  expert

Each stage starts from another one's averaged weights, leaves `out/STAGE.pt` (its state), `out/STAGE.jsonl` (its
log), `out/grids/STAGE-*.png`, and `out/STAGE/checkpoint` or `out/STAGE/lora.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from engine_build.config import ReferenceAttention
from engine_build.errors import RequestError
from engine_build.model.mmdit import MMDiT
from engine_build.training.data.reading import Shards
from engine_build.training.data.sample import Source
from engine_build.training.data.sizes import check_heights, check_squares
from engine_build.training.data.stream import TokenStream
from engine_build.training.data.world_edits import Edits
from engine_build.training.data.world_tryons import TryOns
from engine_build.training.loop import adapters
from engine_build.training.loop.learner import Learner, StageConfig, fit, recompute
from engine_build.training.loop.run import Run
from engine_build.training.loop.sharding import Place, shard
from engine_build.training.loop.sources import InTurn, Mixture, chosen, fitted
from engine_build.training.loop.start_from import Backbone, Mode, Parts, Workshop
from engine_build.training.measure import classifier
from engine_build.training.measure.measures import Way
from engine_build.training.measure.sheets import write_sheet
from engine_build.training.stages import isolation
from engine_build.training.stages.cfg_distill import CfgDistill, CfgDistillConfig
from engine_build.training.stages.critic import Critic, Head
from engine_build.training.stages.dmd import Dmd, DmdConfig
from engine_build.training.stages.experts import DOMAINS, ExpertConfig, ExpertShards, ExpertTryOns
from engine_build.training.stages.isolation import IsolateConfig
from engine_build.training.stages.matching import Matching
from engine_build.training.stages.merging import MergeConfig, averages, merged
from engine_build.training.stages.nft import Nft, NftConfig
from engine_build.training.stages.packing_report import PackingConfig, measure
from engine_build.training.stages.tables import PretrainConfig, ResolutionConfig, TryOnConfig
from engine_build.training.stages.vision_rewards import rewards_of


@dataclass(frozen=True)
class Job:
    """One call of a stage: its name and table, where it works, and how it was asked to go on."""

    stage: str
    config: Any
    shop: Workshop
    place: Place
    resume: bool = False
    tensorboard: bool = False
    stop_after: int | None = None

    @property
    def run(self) -> Run:
        return Run(self.shop.out, self.stage, self.place, self.tensorboard)

    @property
    def folder(self) -> Path:
        return self.shop.out / self.stage

    @property
    def table(self) -> str:
        """The stage's table in the configuration file, under whatever name it runs."""
        return next(name for name, stage in STAGES.items() if stage.config is type(self.config))

    def parts(self, mode: ReferenceAttention | None = None) -> Parts:
        """The parts to start from. Raises RequestError for sizes that do not divide into whole tokens."""
        c, parts = self.config, self.shop.parts(self.config, mode)
        own_pictures = not c.data or getattr(c, "validate_every", 0) or getattr(c, "report_samples", 0)
        if own_pictures:
            side = parts.encoder.token_pixels
            check_heights(self.table, (*getattr(c, "heights", ()), c.height), side)
            check_squares(self.table, "shot", (*getattr(c, "shots", ()), c.shot), side)
        return parts


def pretrain(job: Job) -> Path:
    c: PretrainConfig = job.config
    return _matching(job, chosen(c, Mixture(Edits(c.height, c.shot), TryOns(c.height, c.shot), c.tryon_share)))


def resolution(job: Job) -> Path:
    c: ResolutionConfig = job.config
    if (
        not len(c.heights) == len(c.shots) == len(c.begins)
        or c.begins[:1] != (0,)
        or list(c.begins) != sorted(c.begins)
    ):
        raise RequestError("[resolution] heights, shots and begins need one entry a size, begins rising from 0")
    sources = tuple(
        chosen(c, Mixture(Edits(height, shot), TryOns(height, shot), c.tryon_share), height, shot)
        for height, shot in zip(c.heights, c.shots, strict=True)
    )
    return _matching(job, *sources, begins=c.begins)


def tryon(job: Job) -> Path:
    c: TryOnConfig = job.config
    source = chosen(c, TryOns(c.height, c.shot, c.mix, rare=c.rare, rare_one_in=c.rare_one_in))
    return _matching(job, source, validate_every=c.validate_every)


def expert(job: Job) -> Path:
    c: ExpertConfig = job.config
    if c.domain not in DOMAINS:
        raise RequestError(f"there is no domain {c.domain!r}; choose from {', '.join(DOMAINS)}")
    source = ExpertShards(Shards(c.data, c.data_seed), c.height, c.shot, expert=c) if c.data else ExpertTryOns(c)
    return _matching(job, source, region_only=c.region_loss)


def isolate(job: Job) -> Path:
    """Fine-tune a joint network with isolated references, then write `isolation.json`."""
    c: IsolateConfig = job.config
    path = _matching(job, chosen(c, TryOns(c.height, c.shot, c.mix)), mode="isolated")
    report = job.folder / "isolation.json"
    if c.report_samples and job.stop_after is None and job.place.world == 1 and not report.exists():
        before = job.shop.parts(c)
        after = job.shop.parts(_tuned(job, path), "isolated")
        networks = {"joint": before, "isolated, not tuned": isolation.with_mode(before, "isolated"), "isolated": after}
        result = isolation.report(networks, c, classifier.load())
        report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def _tuned(job: Job, left: Path) -> StageConfig:
    """The stage's table, changed to start from what the stage left."""
    c: StageConfig = job.config
    if c.lora_rank:
        return replace(c, loras=(*c.loras, str(left)))
    of_run = not c.start_from or c.start_from.endswith(".pt") or (job.shop.out / f"{c.start_from}.pt").exists()
    return replace(c, start_from=job.stage if of_run else str(left), loras=())


def nft(job: Job) -> Path:
    c: NftConfig = job.config
    if c.data and not c.judge_url:
        raise RequestError(
            "[nft] cannot learn from shards without judge_url: the world's own rewards need the truth behind a drawn "
            "scene, real pictures a vision model that scores them"
        )
    if c.prompts % job.place.world:
        raise RequestError(f"[nft] {c.prompts} prompts do not divide among {job.place.world} processes")
    parts, learner, copies = _prepare(job, copies=2)
    run = job.run
    source = fitted(chosen(c, TryOns(c.height, c.shot, c.mix)), parts)
    with rewards_of(c, parts.encoder) as rewards:
        step = Nft(parts, learner, c, (copies[0], copies[1]), source, rewards, run)
        more = {"old": step.old, "watch": step.watch}
        return _fit(job, parts, learner, step, run, more, source, Way(c.sample_steps))


def cfg_distill(job: Job) -> Path:
    c: CfgDistillConfig = job.config
    parts, learner, (teacher,) = _prepare(job, copies=1)
    source = chosen(c, TryOns(c.height, c.shot, c.mix))
    step = CfgDistill(parts, learner, c, teacher, _stream(job, parts, source))
    return _fit(job, parts, learner, step, job.run, {}, source, Way(8))


def dmd(job: Job) -> Path:
    c: DmdConfig = job.config
    parts, learner, (teacher, fake) = _prepare(job, copies=2, trainable=1)
    source = chosen(c, TryOns(c.height, c.shot, c.mix))
    module: nn.Module = adapters.LoraWeights(fake) if c.lora_rank else Backbone(fake)
    head = Head(fake.config.width, c.seed).to(parts.device) if c.gan else None
    chaser = Learner(module if head is None else Critic(module, head), c, job.place, c.fake_learning_rate)
    step = Dmd(parts, learner, c, teacher, (fake, chaser), _stream(job, parts, source), head)
    return _fit(job, parts, learner, step, job.run, {"fake": chaser}, source, Way(c.student_steps))


def merge(job: Job) -> Path:
    """Average what several seeds' stages left; writes a checkpoint folder."""
    c: MergeConfig = job.config
    parts = job.parts()
    others = [averages(job.shop.out, name) for name in c.of]
    parts.network.load_state_dict(merged(parts.network.state_dict(), others, c.share))
    parts.write(job.folder / "checkpoint")
    return job.folder / "checkpoint"


def packing(job: Job) -> Path:
    """Measure packed against padded batches; writes `packing.json`."""
    parts = job.parts()
    job.shop.out.mkdir(parents=True, exist_ok=True)
    path = job.shop.out / "packing.json"
    path.write_text(json.dumps(measure(parts, job.config), indent=2) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Stage:
    """A stage's table in the configuration file and what runs it."""

    config: type[StageConfig]
    go: Callable[[Job], Path]


STAGES: dict[str, Stage] = {
    "pretrain": Stage(PretrainConfig, pretrain),
    "resolution": Stage(ResolutionConfig, resolution),
    "tryon": Stage(TryOnConfig, tryon),
    "isolate": Stage(IsolateConfig, isolate),
    "nft": Stage(NftConfig, nft),
    "cfg-distill": Stage(CfgDistillConfig, cfg_distill),
    "dmd": Stage(DmdConfig, dmd),
    "expert": Stage(ExpertConfig, expert),
    "merge": Stage(MergeConfig, merge),
    "packing": Stage(PackingConfig, packing),
}


def _matching(
    job: Job,
    *sources: Source,
    begins: tuple[int, ...] = (0,),
    region_only: bool = False,
    validate_every: int = 0,
    mode: Any = None,
) -> Path:
    parts, learner, _ = _prepare(job, mode=mode)
    streams = tuple(_stream(job, parts, source) for source in sources)
    stream = streams[0] if len(streams) == 1 else InTurn(streams, begins)
    step = Matching(parts, learner, stream, region_only, validate_every)
    return _fit(job, parts, learner, step, job.run, {}, sources[-1], Way(8))


def _stream(job: Job, parts: Parts, source: Source) -> TokenStream:
    c: StageConfig = job.config
    place, read = job.place, fitted(source, parts)
    return TokenStream(read, parts.encoder, c.batch, c.passes, c.chunk, c.first_seed, place.rank, place.world)


def _prepare(
    job: Job, copies: int = 0, trainable: int | None = None, mode: Any = None
) -> tuple[Parts, Learner, list[MMDiT]]:
    """Parts, the learner of what the stage trains, and copies of the network, frozen but for copy `trainable`."""
    c: StageConfig = job.config
    parts = job.parts(mode)
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
        shard(network, job.place, c.bf16)
    module: nn.Module = adapters.LoraWeights(parts.dit) if c.lora_rank else parts.network
    return parts, Learner(module, c, job.place), others


def _fit(
    job: Job,
    parts: Parts,
    learner: Learner,
    step: Callable[[int], Any],
    run: Run,
    more: dict[str, Any],
    source: Source,
    way: Way,
) -> Path:
    """Run the loop; write what the stage leaves."""
    c: StageConfig = job.config

    def show(index: int) -> None:
        sheet = job.shop.out / "grids" / f"{job.stage}-{index}.png"
        write_sheet(sheet, parts, fitted(source, parts), way, write=job.place.first)

    remembered = {**more, "network": Mode(parts.dit)}
    fit(run, learner, step, job.resume, remembered, show if c.show_every else None, job.stop_after)
    return _leave(job, parts, learner)


def _leave(job: Job, parts: Parts, learner: Learner) -> Path:
    """A checkpoint folder or a LoRA file of the averaged weights; only one process at the end of a whole run writes."""
    if isinstance(learner.module, adapters.LoraWeights):
        path = job.folder / "lora.safetensors"
        if job.place.first:
            adapters.write(path, learner.module, learner.ema.values)
        return path
    folder = job.folder / "checkpoint"
    if job.place.world > 1:
        return job.shop.out / f"{job.stage}.pt"
    with learner.ema.applied(learner.module):
        parts.write(folder)
    return folder
