"""What a bench measures: modes, sizes, numbers of garments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from engine_build.config import PRESETS, ReferenceAttention
from engine_build.errors import RequestError
from engine_build.instruction import MAX_GARMENTS
from engine_build.runtime.loading import pick_device

GOALS = (1, 5)  # garments


@dataclass(frozen=True)
class Mode:
    """One way of making the same picture. `backend` None is diffusers."""

    name: str
    backend: str | None = None
    attention: ReferenceAttention = "joint"
    fp8: bool = False
    cached: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class BenchPlan:
    """What to measure. `fast` names the kernels of the fast modes."""

    preset: str = "klein-4b"
    device: str = "auto"
    sizes: tuple[tuple[int, int], ...] = ((1024, 1024), (768, 1024))
    garments: tuple[int, ...] = tuple(range(1, MAX_GARMENTS + 1))
    garment: int = 512
    steps: int = 4
    repeats: int = 10
    warmups: int = 3
    fast: str = "triton"
    modes: tuple[str, ...] = ()
    packed: tuple[int, ...] = (1, 2, 4, 8)
    packed_sizes: tuple[tuple[int, int], ...] = ((512, 512), (768, 1024), (1024, 1024))
    minutes: float | None = None

    @property
    def cases(self) -> list[tuple[tuple[int, int], int]]:
        """Sizes and numbers of garments, those that the stated goals name first."""
        return sorted(product(self.sizes, self.garments), key=lambda case: case[1] not in GOALS)

    @classmethod
    def of(
        cls, preset: str, device: str, repeats: int, modes: tuple[str, ...], minutes: float | None = None
    ) -> BenchPlan:
        """The plan of a preset: everything for the large ones, a few small cases for `nano`.

        Raises RequestError for a preset or a mode that does not exist.
        """
        if preset not in PRESETS:
            raise RequestError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        fast = "torch" if pick_device(device).type == "cpu" else "triton"
        unknown = sorted(set(modes) - {mode.name for mode in all_modes(fast)})
        if unknown:
            known = ", ".join(mode.name for mode in all_modes(fast))
            raise RequestError(f"no mode {unknown[0]!r}; there are: {known}")
        plan = cls(preset=preset, device=device, repeats=repeats, fast=fast, modes=modes, minutes=minutes)
        if preset != "nano":
            return plan
        return replace(
            plan, sizes=((72, 96),), garments=(1, 3), garment=64, warmups=1, packed=(1, 2), packed_sizes=((72, 96),),
        )  # fmt: skip


def all_modes(fast: str) -> tuple[Mode, ...]:
    """Every mode, slowest first, the fast ones with the named kernels."""
    return (
        Mode("diffusers"),
        Mode("diffusers + torch.compile", compiled=True),
        Mode("torch", "torch"),
        Mode("triton", "triton"),
        Mode("triton-tma", "triton-tma"),
        Mode(f"{fast} + reference KV", fast, "shared"),
        Mode(f"{fast} + reference KV + FP8", fast, "shared", fp8=True),
        Mode(f"{fast} + cached references", fast, "isolated", cached=True),
        Mode(f"{fast} + cached references + FP8", fast, "isolated", fp8=True, cached=True),
    )


def attention_kernels(fast: str) -> tuple[str, ...]:
    """The kinds of kernels whose attention is measured by itself: of Triton's both ways of reading keys."""
    return ("triton", "triton-tma") if fast == "triton" else (fast,)
