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

from engine_build.errors import RequestError
from engine_build.training.data.reading import Shards
from engine_build.training.data.sample import Source
from engine_build.training.data.world_edits import Edits
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop import adapters
from engine_build.training.loop.learner import Learner, StageConfig
from engine_build.training.loop.run import has_state
from engine_build.training.loop.sources import InTurn, Mixture, chosen, fitted
from engine_build.training.loop.start_from import Backbone
from engine_build.training.measure import classifier
from engine_build.training.measure.measures import Way
from engine_build.training.stages import isolation
from engine_build.training.stages.batch_size import with_batch
from engine_build.training.stages.cfg_distill import CfgDistill, CfgDistillConfig
from engine_build.training.stages.critic import Critic, Head
from engine_build.training.stages.dmd import Dmd, DmdConfig
from engine_build.training.stages.experts import ExpertConfig, ExpertShards, ExpertTryOns, describe, dressed
from engine_build.training.stages.isolation import IsolateConfig
from engine_build.training.stages.matching import Matching
from engine_build.training.stages.merging import MergeConfig, averages, merged
from engine_build.training.stages.nft import Nft, NftConfig
from engine_build.training.stages.packing_report import PackingConfig, measure
from engine_build.training.stages.stage_run import StageRun, fit_and_leave, prepare, token_stream
from engine_build.training.stages.tables import PretrainConfig, ResolutionConfig, TryOnConfig
from engine_build.training.stages.vision_rewards import rewards_of


def pretrain(stage_run: StageRun) -> Path:
    c: PretrainConfig = stage_run.config
    tryons = WorldTryOns(c.height, c.shot, traced=traced(c))
    return _matching(stage_run, chosen(c, Mixture(Edits(c.height, c.shot), tryons, c.tryon_share)))


def resolution(stage_run: StageRun) -> Path:
    c: ResolutionConfig = stage_run.config
    if (
        not len(c.heights) == len(c.shots) == len(c.begins)
        or c.begins[:1] != (0,)
        or list(c.begins) != sorted(c.begins)
    ):
        raise RequestError("[resolution] heights, shots and begins need one entry a size, begins rising from 0")
    sources = tuple(
        chosen(
            c, Mixture(Edits(height, shot), WorldTryOns(height, shot, traced=traced(c)), c.tryon_share), height, shot
        )
        for height, shot in zip(c.heights, c.shots, strict=True)
    )
    return _matching(stage_run, *sources, begins=c.begins)


def tryon(stage_run: StageRun) -> Path:
    c: TryOnConfig = stage_run.config
    source = chosen(c, WorldTryOns(c.height, c.shot, c.mix, rare=c.rare, rare_one_in=c.rare_one_in, traced=traced(c)))
    return _matching(stage_run, source, validate_every=c.validate_every)


def expert(stage_run: StageRun) -> Path:
    c: ExpertConfig = stage_run.config
    dressed(c)
    source = ExpertShards(Shards(c.data, c.data_seed), c.height, c.shot, expert=c) if c.data else ExpertTryOns(c)
    path = _matching(stage_run, source, region_only=c.region_loss)
    if path.exists() and stage_run.place.first:
        describe(c, path.parent)
    return path


def isolate(stage_run: StageRun) -> Path:
    """Fine-tune a joint network with isolated references, then write `isolation.json`."""
    c: IsolateConfig = stage_run.config
    path = _matching(stage_run, chosen(c, WorldTryOns(c.height, c.shot, c.mix, traced=traced(c))), mode="isolated")
    report = stage_run.folder / "isolation.json"
    if c.report_samples and stage_run.stop_after is None and stage_run.place.world == 1 and not report.exists():
        before = stage_run.setup.parts(c)
        after = stage_run.setup.parts(_tuned(stage_run, path), "isolated")
        networks = {"joint": before, "isolated, not tuned": isolation.with_mode(before, "isolated"), "isolated": after}
        result = isolation.report(networks, c, classifier.load())
        report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def _tuned(stage_run: StageRun, left: Path) -> StageConfig:
    """The stage's table, changed to start from what the stage left."""
    c: StageConfig = stage_run.config
    if c.lora_rank:
        return replace(c, loras=(*c.loras, str(left)))
    of_run = not c.start_from or c.start_from.endswith(".pt") or has_state(stage_run.setup.out / f"{c.start_from}.pt")
    return replace(c, start_from=stage_run.stage if of_run else str(left), loras=())


def nft(stage_run: StageRun) -> Path:
    c: NftConfig = stage_run.config
    if c.data and not c.judge_url:
        raise RequestError(
            "[nft] cannot learn from shards without judge_url: the world's own rewards need the truth behind a drawn "
            "scene, real pictures a vision model that scores them"
        )
    if c.prompts % stage_run.place.world:
        raise RequestError(f"[nft] {c.prompts} prompts do not divide among {stage_run.place.world} processes")
    parts, learner, copies = prepare(stage_run, copies=2)
    run = stage_run.run
    source = fitted(chosen(c, WorldTryOns(c.height, c.shot, c.mix)), parts)
    with rewards_of(c, parts.encoder) as rewards:
        step = Nft(parts, learner, c, (copies[0], copies[1]), source, rewards, run)
        more = {"old": step.old, "watch": step.watch}
        return fit_and_leave(stage_run, parts, learner, step, run, more, source, Way(c.sample_steps))


def cfg_distill(stage_run: StageRun) -> Path:
    c: CfgDistillConfig = stage_run.config
    parts, learner, (teacher,) = prepare(stage_run, copies=1)
    source = chosen(c, WorldTryOns(c.height, c.shot, c.mix))
    step = CfgDistill(parts, learner, c, teacher, token_stream(stage_run, parts, source))
    return fit_and_leave(stage_run, parts, learner, step, stage_run.run, {}, source, Way(8))


def dmd(stage_run: StageRun) -> Path:
    c: DmdConfig = stage_run.config
    parts, learner, (teacher, fake) = prepare(stage_run, copies=2, trainable=1)
    source = chosen(c, WorldTryOns(c.height, c.shot, c.mix))
    module: nn.Module = adapters.LoraWeights(fake) if c.lora_rank else Backbone(fake)
    head = Head(fake.config.width, c.seed).to(parts.device) if c.gan else None
    chaser = Learner(module if head is None else Critic(module, head), c, stage_run.place, c.fake_learning_rate)
    step = Dmd(parts, learner, c, teacher, (fake, chaser), token_stream(stage_run, parts, source), head)
    return fit_and_leave(stage_run, parts, learner, step, stage_run.run, {"fake": chaser}, source, Way(c.student_steps))


def merge(stage_run: StageRun) -> Path:
    """Average what several seeds' stages left; writes a checkpoint folder."""
    c: MergeConfig = stage_run.config
    parts = stage_run.parts()
    others = [averages(stage_run.setup.out, name) for name in c.of]
    parts.network.load_state_dict(merged(parts.network.state_dict(), others, c.share))
    parts.write(stage_run.folder / "checkpoint")
    return stage_run.folder / "checkpoint"


def packing(stage_run: StageRun) -> Path:
    """Measure packed against padded batches; writes `packing.json`."""
    parts = stage_run.parts()
    stage_run.setup.out.mkdir(parents=True, exist_ok=True)
    path = stage_run.setup.out / "packing.json"
    path.write_text(json.dumps(measure(parts, stage_run.config), indent=2) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Stage:
    """A stage's table in the configuration file and what runs it."""

    config: type[StageConfig]
    go: Callable[[StageRun], Path]


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

RECIPE = ("pretrain", "resolution", "tryon", "isolate", "nft", "cfg-distill", "dmd")
"""The stages that lead to one checkpoint, in order."""


def _matching(
    stage_run: StageRun,
    *sources: Source,
    begins: tuple[int, ...] = (0,),
    region_only: bool = False,
    validate_every: int = 0,
    mode: Any = None,
) -> Path:
    parts, learner, _ = prepare(stage_run, mode=mode)
    stage_run = with_batch(stage_run, parts, learner, sources[-1])
    streams = tuple(token_stream(stage_run, parts, source) for source in sources)
    stream = streams[0] if len(streams) == 1 else InTurn(streams, begins)
    step = Matching(parts, learner, stream, region_only, validate_every)
    return fit_and_leave(stage_run, parts, learner, step, stage_run.run, {}, sources[-1], Way(8))


def traced(c: StageConfig) -> bool:
    """Whether a stage learns from where each pixel comes from."""
    return c.attention_weight > 0
