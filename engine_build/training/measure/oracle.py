"""The judge that knows: the procedural world's exact scores as answers to the questions of `engine_build/judging`.

It fills in the same forms, each exact score rounded to a whole one from 1 to 10, so its journal is reported like any
other's; what a judge of pictures says of the same results, less this, is that judge's error. A garment that no pixel of
the truth shows has no score. The exact scores stand beside them, as `changeroom evaluate` has them: there items are
combined by their arithmetic mean, and an outfit of which nothing shows has nothing wrong.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from PIL import Image

from engine_build.errors import RequestError
from engine_build.judging.answers import Form, Item, Worn
from engine_build.judging.calls import NotJudged, Reply
from engine_build.judging.cases import UNREADABLE, Case, Shown
from engine_build.judging.folders import DRAWN
from engine_build.judging.prompts import PLACE, WORN
from engine_build.judging.samples import JudgedSet, Sample
from engine_build.judging.world_set import scene_of
from engine_build.training.measure.classifier import Classifier
from engine_build.training.measure.evaluate import tensor
from engine_build.training.measure.scores import Scores, judged
from engine_build.world.specs import Scene
from engine_build.world.wrong_outfits import Truth, admissible

RUBRIC = "world"
"""Stands where other judges have the hash of their words."""


class ExactWorn(Worn):
    """The first form, with the scores before they were rounded."""

    exact: dict[str, float]


class ExactPlace(Form):
    """The second form without the limbs, which no exact score is about. A room is plain, a street complex."""

    background_kind: Literal["plain", "complex"]
    background: int
    physics: int
    exact: dict[str, float]


class OracleJudge:
    """Answers from the truth of drawn scenes, one at a time. Raises RequestError for a set that was not drawn here."""

    def __init__(self, judged_set: JudgedSet, classifier: Classifier) -> None:
        for sample in judged_set.samples:
            if DRAWN not in sample.facts:
                raise RequestError(f"{judged_set.name}: {sample.id} was not drawn by the procedural world")
        self.classifier, self._lock = classifier, threading.Lock()
        self._scores = lru_cache(maxsize=64)(self._scored)

    rubric = RUBRIC
    parallel = 1
    at = "this machine"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"model": "oracle", "scores": "exact, rounded"}

    def words(self, case: Case, pictures: Shown) -> str:
        return f"{case.call} {case.sample.facts[DRAWN]}"

    def ask(self, case: Case, pictures: Shown) -> Reply[Form]:
        if case.call not in (WORN, PLACE):
            return Reply(NotJudged("not asked of the oracle"))
        try:
            with self._lock:
                scores = self._scores(case.sample.id, case.sample.facts[DRAWN], pictures.person, pictures.results[0])
        except UNREADABLE as error:
            return Reply(NotJudged("picture unreadable"), said=str(error)[:300])
        if case.call == WORN:
            return Reply(worn(scores, case.sample), served="oracle")
        return Reply(place(scores, scene_of(*case.sample.facts[DRAWN])), served="oracle")

    def _scored(self, name: str, drawn: tuple[int, int], person: bytes, result: bytes) -> Scores:
        photo = tensor(Image.open(io.BytesIO(person)))
        truths = _truths(*drawn, photo.shape[1])
        if photo.shape != truths[0].person.shape or float((photo - truths[0].person).abs().max()) > 0.51 / 255:
            raise RequestError(f"{name} is not the scene that this release draws for its seed")
        picture = Image.open(io.BytesIO(result)).convert("RGB")
        size = (photo.shape[2], photo.shape[1])
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        return judged([[tensor(picture)]], [truths], self.classifier, others=False)[0][0]


def worn(scores: Scores, sample: Sample) -> ExactWorn:
    """The first form, from exact scores."""
    known = dict(zip(scores.categories, scores.fidelity, strict=True))
    exact = [known.get(reference.category) for reference in sample.references]
    return ExactWorn(
        identity=_whole(scores.identity),
        garments=tuple(
            Item(image=image, score=None if one is None else _whole(one)) for image, one in enumerate(exact, start=2)
        ),
        exact={"identity": scores.identity, "garments": scores.garment_fidelity},
    )


def place(scores: Scores, scene: Scene) -> ExactPlace:
    """The second form, from exact scores."""
    return ExactPlace(
        background_kind="complex" if scene.backdrop.street else "plain",
        background=_whole(scores.background),
        physics=_whole(scores.physics),
        exact={"background": scores.background, "physics": scores.physics},
    )


@lru_cache(maxsize=8)
def _truths(number: int, garments: int, height: int) -> list[Truth]:
    (truths,) = admissible([scene_of(number, garments)], height)
    return truths


def _whole(score: float) -> int:
    return min(10, max(1, round(score)))
