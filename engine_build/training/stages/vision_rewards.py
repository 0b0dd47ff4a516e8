"""Rewards for real pictures: a vision model scores them over any OpenAI-compatible endpoint, where no truth is known.

Questions, forms and scores are those of `engine_build/judging`, two independent questions a picture. What the model
did not answer usably is missing (NaN), never guessed. Pictures leave this machine for the address the caller named and
no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from engine_build.errors import RequestError
from engine_build.judging import prompts
from engine_build.judging.answers import Place
from engine_build.judging.calls import Caller, Endpoint, NotJudged
from engine_build.judging.prompts import Garment
from engine_build.judging.scores import of_items
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.sample import Tokens
from engine_build.training.measure import classifier
from engine_build.training.measure.measures import DIMENSIONS
from engine_build.training.stages.nft import NftConfig, Rewards, WorldRewards
from engine_build.world.sample_files import picture


class VisionRewards:
    """The four dimensions of a group of pictures, `endpoint.parallel` questions at a time."""

    dimensions = DIMENSIONS

    def __init__(self, caller: Caller, encoder: Encoder) -> None:
        self.caller, self.encoder = caller, encoder
        self.parallel = max(1, caller.endpoint.parallel)

    def __call__(self, pictures: Sequence[Tensor], samples: Sequence[Tokens]) -> Tensor:
        """(P, G, 4) scores of pictures (G, 3, H, W) of each sample, NaN where the model gave none."""
        with ThreadPoolExecutor(self.parallel) as pool:
            asked = [
                [self._asked(pool, sample, shown, picture(one.cpu())) for one in group]
                for group, sample, shown in zip(pictures, samples, map(self._shown, samples), strict=True)
            ]
            return torch.tensor([[[*worn.result(), *place.result()] for worn, place in row] for row in asked])

    def _asked(
        self, pool: ThreadPoolExecutor, sample: Tokens, shown: list[Image.Image], result: Image.Image
    ) -> tuple[Future[tuple[float, float]], Future[tuple[float, float]]]:
        garments = [Garment(*one) for one in zip(shown[1:], sample.categories[1:], strict=True)]
        return (
            pool.submit(self._worn, shown[0], garments, result, sample.instruction),
            pool.submit(self._place, shown[0], result),
        )

    def _shown(self, sample: Tokens) -> list[Image.Image]:
        side = self.encoder.token_pixels
        tokens = zip(sample.references, sample.grids, strict=True)
        return [picture(self.encoder.decode(x[None], r * side, c * side)[0].cpu()) for x, (r, c) in tokens]

    def _worn(
        self, person: Image.Image, garments: list[Garment], result: Image.Image, instruction: str
    ) -> tuple[float, float]:
        question = prompts.worn(person, garments, result, instruction)
        said = self.caller.ask(question, prompts.reader_of_worn(len(garments))).value
        if isinstance(said, NotJudged):
            return math.nan, math.nan
        fidelity = of_items([item.score for item in said.garments])
        return float(said.identity), math.nan if fidelity is None else fidelity

    def _place(self, person: Image.Image, result: Image.Image) -> tuple[float, float]:
        said = self.caller.ask(prompts.place(person, result), Place.of).value
        return (math.nan, math.nan) if isinstance(said, NotJudged) else (float(said.background), float(said.physics))


@contextmanager
def rewards_of(c: NftConfig, encoder: Encoder) -> Iterator[Rewards]:
    """Those of the endpoint that the table names, the world's own where it names none.

    Raises RequestError for an endpoint without a model or with a key file that cannot be read.
    """
    if not c.judge_url:
        yield WorldRewards(classifier.load())
        return
    if not c.judge_model:
        raise RequestError("[nft] judge_url needs judge_model, the name of the model there")
    try:
        key = Path(c.judge_key_file).expanduser().read_text(encoding="utf-8").strip() if c.judge_key_file else ""
    except OSError as error:
        raise RequestError(f"[nft] judge_key_file cannot be read: {error}") from error
    with Caller(Endpoint(c.judge_url, c.judge_model, key, c.judge_budget, asked_again=1)) as caller:
        yield VisionRewards(caller, encoder)
