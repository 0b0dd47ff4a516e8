"""Stage E, first half: a student that does in one evaluation what guidance does in two.

`L = |v(z, c) - sg[v0 + w (vc - v0)]|^2` on noised data, both teacher velocities from one frozen network; v0 is
told nothing but the picture to edit (Meng et al., arXiv 2210.03142, for a fixed guidance).
"""

from __future__ import annotations

from torch import Tensor


def guided(conditioned: Tensor, unconditioned: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance of velocities (T, C): `v0 + w (vc - v0)`, w = 1 the condition alone."""
    return unconditioned + guidance * (conditioned - unconditioned)


def imitation_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Mean of `weight` (T,) times the squared distance of (T, C) velocities; the teacher is held constant."""
    return (weight[:, None] * (student - teacher.detach()).square()).mean()
