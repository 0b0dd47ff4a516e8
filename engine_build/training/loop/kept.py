"""Weights kept in the repository: where a run goes on when its own folder is gone.

`keep` writes a stage's averaged weights in fp16, with how far they had come. A stage that is told to resume, and has no
state of its own, goes on from them at their step. Optimisers begin anew (their state would treble the size), so rates
and averages warm up again: learner.py counts both from the first update of its own.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine_build.errors import RequestError

WEIGHTS = "kept.safetensors"
FACTS = "kept.json"


@dataclass(frozen=True)
class Kept:
    """Weights of `stage` after `step` of its steps, in a folder; `reference_attention` as they were trained."""

    stage: str
    step: int
    reference_attention: str

    @classmethod
    def read(cls, folder: Path | None) -> Kept | None:
        """What a folder keeps, None where nothing is kept. Raises RequestError for facts that cannot be read."""
        if folder is None or not (folder / FACTS).exists():
            return None
        try:
            return cls(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RequestError(f"{folder / FACTS} is not what `changeroom train keep` writes: {error}") from error

    def state(self, folder: Path) -> dict[str, Any]:
        """What a stage's state file says of its network, in float32."""
        values = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        return {"ema": {"values": values}, "network": {"reference_attention": self.reference_attention}}


def keep(folder: Path, stage: str, state: dict[str, Any]) -> Kept:
    """Write the averages of a state file's content. Raises RequestError for a LoRA or another's text encoder."""
    values = state["ema"]["values"]
    if not any(name.startswith("text.") for name in values):
        raise RequestError(f"{stage} did not train a whole network of its own: only such weights are kept")
    kept = Kept(stage, int(state["step"]), state["network"]["reference_attention"])
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: value.to(torch.float16).contiguous() for name, value in values.items()}
    temporary = folder / f"{WEIGHTS}.tmp"
    save_file(halves, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    os.replace(temporary, folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps(asdict(kept), indent=2) + "\n", encoding="utf-8")
    return kept
