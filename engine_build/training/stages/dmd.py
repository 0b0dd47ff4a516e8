"""Stage E, second half: distribution matching distillation of a flow to a few steps.

After Yin et al., arXiv 2311.18828 (DMD) and 2405.14867 (DMD2: two time scales, backward simulation), written
from the papers. The student's picture x is noised to tau; where the frozen teacher and a fake network, trained
along on the student's own pictures, disagree about what x was, the student moves from the fake's mind to the
teacher's. During training the student starts from states it reaches itself, as in inference.

Letters: M targets, T all their tokens, C channels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch
from engine_build.training.data.packed_batch import noise_like, noised, per_token, sample_means
from engine_build.training.data.sample import Stream, Tokens
from engine_build.training.loop.learner import Learner, StageConfig, autocast
from engine_build.training.loop.start_from import NetworkParts, conditioned
from engine_build.training.measure.sampler import guided, levels, references_of
from engine_build.training.stages.critic import Head, critic_loss, look, push
from engine_build.training.stages.matching import noise_levels
from kernels import Segments


@dataclass(frozen=True)
class DmdConfig(StageConfig):
    """`student_steps` evaluations a picture; `fake_updates` descents of the fake network for one of the student.

    `guidance` is the teacher's (1 for a CFG-distilled one), tau is uniform in [`low`, `high`]. With `fresh_noise`
    the student is re-noised with new noise between its steps, else it keeps its own, as Euler inference does. With
    `gan` a head on the fake network's features joins in (critic.py), weighed `gan_student` and `gan_critic`.
    """

    student_steps: int = 4
    fake_updates: int = 5
    fake_learning_rate: float = 2e-4
    learning_rate: float = 1e-4
    guidance: float = 1.0
    low: float = 0.02
    high: float = 0.98
    fresh_noise: bool = False
    drop: float = 0.0
    mix: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    gan: bool = False
    gan_student: float = 5e-3
    gan_critic: float = 1e-2


def matching_direction(x: Tensor, real: Tensor, fake: Tensor, segments: Segments) -> Tensor:
    """`g = (p_real - p_fake) / mean|p_real|` of each target, with `p = x - x0-prediction`; all (T, C)."""
    p_real, p_fake = x - real, x - fake
    scale = sample_means(p_real.abs(), segments).clamp_min(1e-5)
    return ((p_real - p_fake) / segments.per_token(scale[:, None])).detach()


def matching_loss(x: Tensor, direction: Tensor) -> Tensor:
    """`|x - sg(x - g)|^2 / 2`, averaged over tokens and channels: its gradient with respect to x is g."""
    return 0.5 * (x - (x - direction).detach()).square().mean()


def matching_levels(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(M,) noise levels tau, uniform in [low, high]."""
    return low + (high - low) * torch.rand(count, generator=generator)


def renoised(x0: Tensor, velocity: Tensor, sigma: Tensor | float, eps: Tensor | None) -> Tensor:
    """The next state at `sigma` of a student that predicted x0 (T, C): its own noise kept, or `eps` instead.

    With its own noise, `x0 + s (x0 + v) `, this is the Euler step that inference takes.
    """
    return (1 - sigma) * x0 + sigma * (x0 + velocity if eps is None else eps)


class Dmd:
    """One step: `fake_updates` descents of the fake on the student's pictures, then one of the student.

    `teacher` is a frozen copy of the network in `parts`, `fake` a trainable one with its learner, `head` the critic's
    part of what that learner trains, None without a critic.
    """

    def __init__(
        self,
        parts: NetworkParts,
        learner: Learner,
        config: DmdConfig,
        teacher: MMDiT,
        fake: tuple[MMDiT, Learner],
        stream: Stream,
        head: Head | None = None,
    ) -> None:
        self.parts, self.learner, self.config, self.stream = parts, learner, config, stream
        self.teacher, (self.fake, self.fake_learner), self.head = teacher, fake, head

    def __call__(self, step: int) -> dict[str, Tensor | float]:
        c = self.config
        visits = range(step * (c.fake_updates + 1), (step + 1) * (c.fake_updates + 1))
        losses = [self._fake_step(step, visit) for visit in visits[:-1]]
        told = self._student_step(step, visits[-1])
        names = losses[0] if losses else ()
        return {**told, **{name: sum(row[name] for row in losses) / len(losses) for name in names}}

    def _start(self, visit: int) -> tuple[list[Tokens], PackedBatch, torch.Generator]:
        place = self.learner.place
        samples = self.stream.batch(visit)
        generator = torch.Generator().manual_seed((self.config.seed << 40) + visit * place.world + place.rank)
        with torch.no_grad():
            return samples, conditioned(self.parts, samples, self.config.draws), generator

    def _roll(self, batch: PackedBatch, visit: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the student stands before its n-th step, n random: state (T, C) and noise levels (M,)."""
        c, schedule = self.config, levels(self.parts.schedule, batch, self.config.student_steps)
        taken = random.Random(f"{c.seed}/{visit}").randrange(c.student_steps)
        x = noise_like(batch, generator)
        with torch.no_grad():
            kv = references_of(self.parts.dit, batch) if taken else None
            for now, then in pairwise(schedule[: taken + 1]):
                velocity = self.parts.dit(batch.at(x, now), kv).float()
                x0 = x - per_token(batch, now) * velocity
                eps = noise_like(batch, generator) if c.fresh_noise else None
                x = renoised(x0, velocity, per_token(batch, then), eps)
        return x, schedule[taken]

    def _picture(self, batch: PackedBatch, state: Tensor, sigma: Tensor) -> Tensor:
        return state - per_token(batch, sigma) * self.parts.dit(batch.at(state, sigma)).float()

    def _fake_step(self, step: int, visit: int) -> dict[str, Tensor]:
        c = self.config
        with autocast(self.parts.device, c.bf16):
            _, batch, generator = self._start(visit)
            state, sigma = self._roll(batch, visit, generator)
            with torch.no_grad():
                x = self._picture(batch, state, sigma)
            tau = noise_levels(len(batch), c.shift, generator).to(x.device)
            eps = noise_like(batch, generator)
            noisy = noised(batch, x, eps, tau)
            if self.head is None:
                velocity = self.fake(noisy).float()
            else:
                velocity, fake = look(self.fake, self.head, noisy)
                truth = noised(batch, batch.target, noise_like(batch, generator), tau)
                _, real = look(self.fake, self.head, truth)
        loss = (velocity - (eps - x)).square().mean()
        told = {"fake_loss": loss.detach()}
        if self.head is not None:
            doubt = critic_loss(fake, real)
            loss, told["critic_loss"] = loss + c.gan_critic * doubt, doubt.detach()
        self.fake_learner.descend(loss, step)
        return told

    def _student_step(self, step: int, visit: int) -> dict[str, Tensor]:
        c, device = self.config, self.parts.device
        with autocast(device, c.bf16):
            samples, batch, generator = self._start(visit)
            state, sigma = self._roll(batch, visit, generator)
        with autocast(device, c.bf16):  # a new one: weights cast without gradients must not be met again
            x = self._picture(batch, state, sigma)
        with autocast(device, c.bf16), torch.no_grad():
            tau = matching_levels(len(batch), c.low, c.high, generator).to(x.device)
            noisy = noised(batch, x, noise_like(batch, generator), tau)
            real = self.teacher(noisy).float()
            if c.guidance != 1.0:
                null = conditioned(self.parts, [sample.unconditioned() for sample in samples], c.draws)
                real = guided(real, self.teacher(null.at(noisy.target, tau)).float(), c.guidance)
            fake = self.fake(noisy).float()
            ours, theirs = (noisy.target - per_token(batch, tau) * velocity for velocity in (real, fake))
            direction = matching_direction(x, ours, theirs, batch.target_segments)
        loss = matching_loss(x, direction)
        told = {"loss": loss.detach(), "strength": direction.abs().mean()}
        if self.head is not None:
            with autocast(device, c.bf16):
                told["passing_loss"], slope = push(self.fake, self.head, noisy)
            loss = loss + c.gan_student * (x * ((1 - per_token(batch, tau)) * slope)).sum()
        self.learner.descend(loss, step)
        return told
