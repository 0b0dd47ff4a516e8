"""A vision model's scores as rewards, from a real HTTP server: what it says counts, what it does not say is missing."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from real_pairs import write_viton_hd
from recipe import write_config
from vision_endpoint import Answer, said, serving

from engine_build.errors import RequestError
from engine_build.judging import prompts
from engine_build.judging.calls import Caller, Endpoint
from engine_build.model.weights import locate
from engine_build.training.config import TrainConfig
from engine_build.training.data.build import BuildPlan, build
from engine_build.training.data.candidate_entry import Rules
from engine_build.training.data.encoder import Encoder
from engine_build.training.data.origins import Folder
from engine_build.training.data.sample import Tokens, encode
from engine_build.training.data.world_tryons import WorldTryOns
from engine_build.training.loop.run import Run
from engine_build.training.loop.start_from import autoencoder_in
from engine_build.training.stages.nft import advantages, completed, geometric, optimality
from engine_build.training.stages.vision_rewards import VisionRewards
from engine_build.training.train import run_stage


@pytest.fixture(scope="module")
def shown() -> tuple[Encoder, list[Tokens]]:
    encoder = Encoder(autoencoder_in(locate("nano")))
    return encoder, encode(encoder, WorldTryOns(64, 32, (0.0, 1.0)).draw(range(1)))


def _pictures(request: dict[str, Any]) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in request["messages"][0]["content"] if "image_url" in part]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def _form(request: dict[str, Any]) -> str:
    return str(request["response_format"]["json_schema"]["name"])


def _level(image: Image.Image) -> float:
    return float(image.convert("L").resize((1, 1)).getpixel((0, 0)))


def _scores(answer: Any, shown: tuple[Encoder, list[Tokens]], budget: int = 100) -> tuple[torch.Tensor, list[Any]]:
    """Scores of a dark and a bright picture of one sample with two garments, and the requests made."""
    encoder, samples = shown
    pictures = [torch.stack([torch.full((3, 64, 48), level) for level in (0.1, 0.9)])]
    with serving(answer) as server:
        endpoint = Endpoint(server.url, "seeing", retries=0, budget=budget)
        with Caller(endpoint, sleep=lambda seconds: None) as caller:
            return VisionRewards(caller, encoder)(pictures, samples), server.requests


def test_both_questions_are_asked_of_every_picture_and_answered_by_dimension(
    shown: tuple[Encoder, list[Tokens]],
) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        bright = _level(_pictures(request)[-1]) > 128
        if _form(request) == "worn":
            return said(_worn(9 if bright else 2, 8, 2))
        return said(_place(7, 6 if bright else 3))

    scores, requests = _scores(answer, shown)
    assert scores.shape == (1, 2, 4)
    assert scores[0, 0].tolist() == pytest.approx([2, 4, 7, 3]) and scores[0, 1].tolist() == pytest.approx([9, 4, 7, 6])
    assert sorted((_form(one), len(_pictures(one))) for one in requests) == [("place", 2)] * 2 + [("worn", 4)] * 2
    (first, *_) = (one for one in requests if _form(one) == "worn")
    assert [image.size for image in _pictures(first)] == [(48, 64), (32, 32), (32, 32), (48, 64)]
    encoder, samples = shown
    told = first["messages"][0]["content"][0]["text"]
    assert prompts.IDENTITY in told and samples[0].instruction in told
    assert all(prompts.ATTEND[category] in told for category in samples[0].categories[1:])
    person = encoder.decode(samples[0].references[0][None], 64, 48).mean() * 255
    assert _level(_pictures(first)[0]) == pytest.approx(float(person), abs=25)


def _worn(identity: int, *scores: int | None) -> dict[str, Any]:
    items = [{"image": image, "faults": [], "score": score} for image, score in enumerate(scores, start=2)]
    return {"identity_faults": [], "identity": identity, "garments": items}


def _place(background: int, physics: int) -> dict[str, Any]:
    faults: dict[str, Any] = {"background_faults": [], "physics_faults": []}
    return {"background_kind": "plain", "background": background, "limbs": "fine", "physics": physics, **faults}


@pytest.mark.parametrize("worn", [_worn(11, 8, 2), _worn(5, 8), {"identity": 5}, "fine!"])
def test_what_does_not_fit_is_missing_and_the_rest_still_counts(shown: tuple[Encoder, list[Tokens]], worn: Any) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        return said(worn if _form(request) == "worn" else _place(4, 9))

    scores, _ = _scores(answer, shown)
    assert scores[..., :2].isnan().all() and scores[..., 2:].tolist() == [[[4, 9], [4, 9]]]
    assert geometric(scores)[0].tolist() == pytest.approx([6, 6])


def test_a_spent_budget_and_a_dead_endpoint_leave_pictures_unscored(shown: tuple[Encoder, list[Tokens]]) -> None:
    scores, requests = _scores(lambda number, request: (500, {}, b""), shown, budget=3)
    assert scores.isnan().all() and len(requests) == 3


def test_unscored_pictures_are_neither_good_nor_bad() -> None:
    rewards = torch.tensor([[2.0, math.nan, 6.0], [math.nan, math.nan, math.nan], [5.0, 5.0, 8.0]])
    whole = completed(rewards)
    assert whole[0].tolist() == [2, 4, 6] and whole[2].tolist() == [5, 5, 8]
    assert whole[1].tolist() == pytest.approx([5.2] * 3)
    good = optimality(advantages(whole))
    assert good[0, 1] == 0.5 and good[1].tolist() == [0.5] * 3 and good[0, 0] < 0.5 < good[0, 2]
    known = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(completed(known), known)


@pytest.fixture
def real(tmp_path: Path) -> TrainConfig:
    """A recipe whose reinforcement learns from real pairs."""
    source = write_viton_hd(tmp_path / "viton", 3)
    build(Folder(source, rules=Rules(min_side=64, min_garment=64)), tmp_path / "shards", BuildPlan())
    config = TrainConfig.load(write_config(tmp_path))
    own = {
        "start_from": "",
        "height": 32,
        "shot": 16,
        "sample_steps": 1,
        "updates": 1,
        "data": str(tmp_path / "shards"),
    }
    return replace(config, tables={"nft": replace(config.stage("nft"), steps=2, **own)})


def test_reinforcement_learns_from_shards_that_a_model_judges(real: TrainConfig) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        if _form(request) == "worn":
            return said(_worn(1 + number % 10, 5))
        return said(_place(5, 5))

    with serving(answer) as server:
        table = replace(real.stage("nft"), judge_url=server.url, judge_model="seeing", learning_rate=1e-2)
        run_stage(real, "nft", resume=False, table=table)
        assert len(server.requests) == 2 * 2 * 2 * 2
    rows = [json.loads(line) for line in (real.out / "nft.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["background"] == 5 and 1 <= row["reward"] <= 10 for row in rows)
    assert Run(real.out, "nft").load()["step"] == 2


def test_a_judge_that_says_nothing_ends_the_stage_rather_than_teaching_nothing(real: TrainConfig) -> None:
    with serving(lambda number, request: (401, {}, b"")) as server:
        table = replace(real.stage("nft"), judge_url=server.url, judge_model="seeing")
        with pytest.raises(RequestError, match="no picture of step 0 was scored"):
            run_stage(real, "nft", resume=False, table=table)
    for changes, message in (
        ({}, "without judge_url"),
        ({"judge_url": "http://127.0.0.1:9/v1"}, "needs judge_model"),
        ({"judge_url": "http://127.0.0.1:9/v1", "judge_model": "m", "judge_key_file": "absent"}, "cannot be read"),
    ):
        with pytest.raises(RequestError, match=message):
            run_stage(real, "nft", resume=False, table=replace(real.stage("nft"), **changes))
