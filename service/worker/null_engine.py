"""An engine that does no work, for measuring everything else: `make bench-gateway`, fault runs and tests.

Never chosen by itself: only the model names `null` and `null:STEPS:SECONDS` load it. It answers with the
person's own picture after STEPS pretended steps of SECONDS each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from PIL import Image

from engine_build.engine import EngineInfo, OnStep, Outcome, StepEvent, TryOnRequest
from service.errors import InvalidRequest

NAME = "null"


def is_null(model: str) -> bool:
    return model == NAME or model.startswith(NAME + ":")


class NullEngine:
    """Returns the person's picture; `steps` and `step_seconds` imitate a slow engine."""

    def __init__(self, steps: int = 1, step_seconds: float = 0.0) -> None:
        self.steps = steps
        self.step_seconds = step_seconds

    @classmethod
    def parse(cls, model: str) -> NullEngine:
        """Read `null` or `null:STEPS:SECONDS`. Raises InvalidRequest for anything else."""
        parts = model.split(":")
        try:
            if parts == [NAME]:
                return cls()
            if len(parts) == 3 and parts[0] == NAME and int(parts[1]) > 0 and float(parts[2]) >= 0:
                return cls(int(parts[1]), float(parts[2]))
        except ValueError:
            parts = []
        raise InvalidRequest(f"model {model!r} is not null or null:STEPS:SECONDS, for example null:8:0.25")

    def describe(self) -> EngineInfo:
        return EngineInfo(
            model=NAME,
            backend="null",
            device="none",
            reference_attention="isolated",
            max_references=7,
            default_size=(768, 1024),
            max_pixels=40_000_000,
            size_multiple=1,
            default_steps=self.steps,
            max_steps=64,
            token_budget=4,
            note="answers with the person's own picture; for measuring the service only",
        )

    def warm_up(self) -> None:
        return None

    def cost(self, width: int, height: int, garments: int) -> int:
        return 1

    def _picture(self, request: TryOnRequest) -> Image.Image:
        """The person at the size a real engine would answer with, by the cheapest resize there is."""
        person: Image.Image = request.person.image
        width, height = self.describe().default_size
        scale = min(1.0, math.sqrt(width * height / (person.width * person.height)))
        fitting = (max(1, round(person.width * scale)), max(1, round(person.height * scale)))
        size = request.size or fitting
        return person if size == person.size else person.resize(size, Image.Resampling.NEAREST)

    def run(self, requests: Sequence[TryOnRequest], on_step: OnStep | None = None) -> list[Outcome]:
        started = time.perf_counter()
        running = {request.id: request for request in requests}
        for step in range(1, self.steps + 1):
            if self.step_seconds:
                time.sleep(self.step_seconds)
            for request_id in list(running):
                event = StepEvent(request_id, step, self.steps)
                if on_step is not None and not on_step(event):
                    del running[request_id]
            if not running:
                break
        seconds = time.perf_counter() - started
        return [
            Outcome(r.id, "succeeded", image=self._picture(r), stages={"denoise": seconds}, nfe=self.steps)
            if r.id in running
            else Outcome(r.id, "canceled")
            for r in requests
        ]
