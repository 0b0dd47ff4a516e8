"""What every stage after the first shares: its configuration, the network it trains, and the loop round its step.

A `Learner` is the trained module with its optimizers and its average. `fit` calls a stage's step, keeps and
restores everything the next step depends on, logs, and shows sample grids of the averaged weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine_build.errors import RequestError
from engine_build.model.mmdit import MMDiT
from engine_build.training.loop.muon import Muon
from engine_build.training.loop.run import Ema, Run, Stateful, descend, warm_then_decay
from engine_build.training.loop.sharding import ENTRANCES, Place, mean, placed, placed_state

BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")
WHOLE = ("text.", "head.")
"""Parts of a trained module that every process holds whole."""


@dataclass(frozen=True)
class StageConfig:
    """What every stage can be told. Sizes in pixels, `batch` over all processes, seeds of data in samples.

    `batch` 0 takes as many samples as the accelerator's memory holds; stages of flow matching alone can.

    `start_from` is another stage of the same run, a state file or a checkpoint folder, `loras` are files merged
    into it. `lora_rank` 0 trains all weights, else only a LoRA beside layers whose names hold one of
    `lora_layers`. `bf16` runs under autocast where the processor is faster so (`precision.py`), `checkpointing`
    recomputes blocks in the backward pass. `data` names shards (`changeroom data build`) to learn from instead of the
    procedural world, their order drawn from `data_seed`.
    Channels of a token weigh in flow matching as they show in the picture, to the power `channel_power`
    (`stages.channel_weights`). `attention_weight` above 0 tells `attention_heads` heads of each of `attention_layers`
    which reference tokens a target shows (`stages.attention`), less and less over the last share `attention_fade` of
    the steps.
    """

    start_from: str = ""
    data: str = ""
    data_seed: int = 0
    loras: tuple[str, ...] = ()
    steps: int = 1000
    height: int = 64
    shot: int = 32
    batch: int = 8
    draws: int = 3
    optimizer: str = "muon"
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warm_up: int = 50
    decay_steps: int = 300
    ema: float = 0.998
    shift: float = 1.8
    edit_weight: float = 4.0
    drop: float = 0.1
    channel_power: float = 0.0
    attention_weight: float = 0.0
    attention_layers: tuple[int, ...] = (2, 3, 4)
    attention_heads: int = 2
    attention_fade: float = 0.3
    passes: int = 3
    chunk: int = 48
    seed: int = 0
    first_seed: int = 0
    train_text: bool = False
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_layers: tuple[str, ...] = ("transformer_blocks",)
    bf16: bool = False
    checkpointing: bool = False
    log_every: int = 25
    save_every: int = 200
    show_every: int = 1000


class Learner:
    """A module in training. Only parameters that require gradients are optimised.

    Raises RequestError for an unknown optimizer or when nothing requires gradients.
    """

    def __init__(
        self, module: nn.Module, config: StageConfig, place: Place | None = None, learning_rate: float | None = None
    ) -> None:
        self.module, self.config, self.place = module, config, place or Place()
        self.learning_rate = learning_rate or config.learning_rate
        self.optimizers = optimizers(module, config, self.learning_rate)
        self.ema = Ema(module, config.ema)

    def descend(self, loss: Tensor, step: int) -> None:
        """One optimizer step at the rate this step of the stage has, then one of the average.

        Rates rise with this learner's own updates, which are fewer than `step` where it went on from kept weights.
        """
        c = self.config
        rate = self.learning_rate * warm_then_decay(step, c.steps, c.warm_up, c.decay_steps, self.ema.updates)
        descend(loss, self.module, self.optimizers, rate, self.place)
        self.ema.update(self.module)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.module.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        like = self.module.state_dict()
        self.module.load_state_dict({name: placed(value, like[name]) for name, value in state["model"].items()})
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(placed_state(saved, optimizer))


def optimizers(module: nn.Module, config: StageConfig, learning_rate: float) -> list[torch.optim.Optimizer]:
    """`muon`: Muon for the blocks' matrices, AdamW for everything else; `adamw`: AdamW alone.

    A text encoder and a critic's head have an optimizer of their own: sharded and whole parameters cannot share one.
    """
    name, weight_decay = config.optimizer, config.weight_decay
    if name not in ("muon", "adamw"):
        raise RequestError(f"optimizer {name!r} is not one of muon, adamw")
    matrices, apart, others = [], [], []
    for key, value in module.named_parameters():
        if value.requires_grad:
            inner = any(f".{block}" in f".{key}" for block in BLOCKS) and value.ndim == 2
            (apart if key.startswith(WHOLE) else matrices if name == "muon" and inner else others).append(value)
    if not matrices and not apart and not others:
        raise RequestError("nothing to train: no parameter requires gradients")
    decay = weight_decay if name == "adamw" else 0.0
    result: list[torch.optim.Optimizer] = []
    if matrices:
        result.append(Muon(matrices, learning_rate, weight_decay=weight_decay, bf16=config.bf16))
    for some in (apart, others):
        if some:
            result.append(torch.optim.AdamW(some, lr=learning_rate, betas=(0.9, 0.98), weight_decay=decay))
    return result


def fit(
    run: Run,
    learner: Learner,
    step: Callable[[int], Mapping[str, Tensor | float]],
    resume: bool,
    more: Mapping[str, Stateful] | None = None,
    show: Callable[[int], object] | None = None,
    stop_after: int | None = None,
    begin: int = 0,
    until: float | None = None,
) -> None:
    """Call `step` for every step not taken yet; it descends by itself and returns what to log.

    Without a saved state the first step is `begin`. `show` is called with the learner's module holding its averages.
    With `stop_after` the loop ends, saved, after that many steps of this call, as if it had been interrupted; with
    `until`, a time of time.monotonic(), after the first step that ends later.
    """
    config = learner.config
    saved = (learner.module, learner.ema, learner.optimizers, more)
    start = (run.restore(*saved) if resume else None) or begin
    for index, bar, task in run.progress(start, config.steps):
        values = step(index)
        if index % config.log_every == 0:
            logged = mean(values, run.place)
            run.log(index, **logged)
            bar.update(
                task, description=f"{run.stage} " + " ".join(f"{k} {v:.3f}" for k, v in list(logged.items())[:2])
            )
        last = index + 1 == config.steps or (stop_after is not None and index + 1 - start >= stop_after)
        last = last or (until is not None and time.monotonic() >= until)
        if last or (index + 1) % config.save_every == 0:
            run.keep(index + 1, *saved)
        if show is not None and (last or (index + 1) % config.show_every == 0):
            with learner.ema.applied(learner.module):
                show(index + 1)
        if last:
            break


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def recompute(dit: MMDiT) -> None:
    """Gradient checkpointing: each block keeps its inputs alone and is run again in the backward pass."""
    for block in (*dit.transformer_blocks, *dit.single_transformer_blocks):
        for method in ("forward", *ENTRANCES):
            if hasattr(block, method):
                setattr(block, method, partial(checkpoint, getattr(block, method), use_reentrant=False))
