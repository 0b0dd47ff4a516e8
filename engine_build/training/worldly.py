"""Scores of pictures of procedural scenes whose truth is drawn for the purpose, many pictures a scene."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from engine_build.training.alternatives import admissible
from engine_build.training.classifier import Classifier
from engine_build.training.evaluate import judged
from engine_build.training.scores import Sample
from engine_build.training.world_specs import Scene

DIMENSIONS = ("identity", "garment_fidelity", "background", "physics")


def world_scores(
    pictures: Sequence[list[Tensor]], scenes: Sequence[Scene], judge: Classifier, retrieval: bool = False
) -> list[list[Sample]]:
    """Judges pictures (3, H, W) of each scene against the nearest truth its instruction allows."""
    height = pictures[0][0].shape[1]
    return judged(list(pictures), admissible(list(scenes), height), judge, retrieval)
