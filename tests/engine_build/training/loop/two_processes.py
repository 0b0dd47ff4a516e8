"""What torchrun starts in test_sharding: several stages one after another in one group of processes.

    two_processes.py CONFIG PLAN     PLAN is a JSON list of [stage, name, changes of its table, resume, stop_after]

Each process leaves `out/NAME.rank-N.txt`, a digest of the state as it stands for that process when the stage ends.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine_build.training.config import TrainConfig
from engine_build.training.loop import run
from engine_build.training.loop.sharding import processes, whole
from engine_build.training.train import run_stage


def digest(tree: Any) -> str:
    """Of all tensors and plain values of a nested state."""
    if isinstance(tree, torch.Tensor):
        return hashlib.sha256(tree.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(tree, dict):
        return digest([[str(key), digest(value)] for key, value in tree.items()])
    if isinstance(tree, list | tuple):
        return hashlib.sha256("/".join(map(digest, tree)).encode()).hexdigest()
    return repr(tree)


def main(config: TrainConfig, plan: list[Any]) -> None:
    kept: list[Any] = []

    def gathered(tree: Any, keep: bool) -> Any:
        kept.append(whole(tree))
        return kept[-1] if keep else None

    run.whole = gathered
    with processes(torch.device("cpu")) as place:
        for stage, name, changes, resume, stop_after in plan:
            table = replace(config.stage(stage), **changes)
            run_stage(config, stage, resume, place, stop_after, name, table)
            (config.out / f"{name}.rank-{place.rank}.txt").write_text(digest(kept.pop()))
            kept.clear()


if __name__ == "__main__":
    main(TrainConfig.load(Path(sys.argv[1])), json.loads(sys.argv[2]))
