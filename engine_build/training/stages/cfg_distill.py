"""Stage E, first half: a student that does in one evaluation what guidance does in two.

`L = |v(z, c) - sg[v0 + w (vc - v0)]|^2` on noised data, both teacher velocities from one frozen network; v0 is
told nothing but the picture to edit (Meng et al., arXiv 2210.03142, for a fixed guidance). A focused guidance
extrapolates only where the instruction asks for something, so that what should stay is not exaggerated too; the
student needs no map of it afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine_build.model.mmdit import MMDiT
from engine_build.training.data.packed_batch import noised, token_weights
from engine_build.training.data.sample import Stream
from engine_build.training.loop.learner import Learner, StageConfig, autocast
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.measure.sampler import guided, strength
from engine_build.training.stages.matching import chance


@dataclass(frozen=True)
class CfgDistillConfig(StageConfig):
    """`guidance` is the w the student takes over, `focus` it alone on what the instruction concerns.

    Samples never lose their condition here.
    """

    guidance: float = 2.5
    focus: bool = False
    drop: float = 0.0
    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def imitation_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Mean of `weight` (T,) times the squared distance of (T, C) velocities; the teacher is held constant."""
    return (weight[:, None] * (student - teacher.detach()).square()).mean()


class CfgDistill:
    """One step: noise a batch, let the frozen teacher guide itself, let the student imitate the result."""

    def __init__(
        self, parts: NetworkParts, learner: Learner, config: CfgDistillConfig, teacher: MMDiT, stream: Stream
    ) -> None:
        self.parts, self.learner, self.config = parts, learner, config
        self.teacher, self.stream = teacher, stream

    def __call__(self, step: int) -> dict[str, Tensor | float]:
        c = self.config
        samples = self.stream.batch(step)
        drawn = chance(samples, step, c, self.learner.place)
        with autocast(self.parts.device, c.bf16):
            with torch.no_grad():
                batch = conditioned(self.parts, samples, c.draws)
                null = conditioned(self.parts, [sample.unconditioned() for sample in samples], c.draws)
                noisy = noised(batch, batch.target, drawn.eps, drawn.sigma)
                without = self.teacher(null.at(noisy.target, drawn.sigma)).float()
                towards = strength(samples, c.guidance, c.focus, c.draws)
                target = guided(self.teacher(noisy).float(), without, towards)
            student = self.parts.dit(noisy).float()
        loss = imitation_loss(student, target, token_weights(samples, c.edit_weight, c.draws))
        self.learner.descend(loss, step)
        return {"loss": loss.detach()}
