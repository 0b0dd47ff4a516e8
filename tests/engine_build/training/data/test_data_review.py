"""The vision model's part, against a real HTTP server: judged, captioned, or not judged and never guessed."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from real_pairs import garment, person, write_dresscode, write_viton_hd
from vision_endpoint import Answer, said, serving, usable

from engine_build.errors import RequestError
from engine_build.judging.calls import GIVE_UP_AFTER, Endpoint, NotJudged
from engine_build.training.data.build import BuildPlan, build
from engine_build.training.data.candidate_entry import Rules
from engine_build.training.data.origins import Folder
from engine_build.training.data.reading import Shards
from engine_build.training.data.review import Review, Reviewer

RULES = Rules(min_side=64, min_garment=64)
BAD = {"usable": False, "problem": "text or watermark", "garments": []}


def ask(answer: Any, retries: int = 2, budget: int = 10, timeout_s: float = 20.0) -> tuple[Any, int, list[float]]:
    """One sample reviewed by a server that answers so: the outcome, requests made, and waits between them."""
    waits: list[float] = []
    with serving(answer) as server:
        endpoint = Endpoint(server.url, "seeing", retries=retries, budget=budget, timeout_s=timeout_s)
        with Reviewer(endpoint, sleep=waits.append) as reviewer:
            return reviewer.review(person(0), [garment(0)]), len(server.requests), waits


def test_the_question_holds_the_pictures_and_a_schema(tmp_path: Path) -> None:
    with serving(lambda number, request: said(usable())) as server:
        with Reviewer(Endpoint(server.url, "seeing", key="s3cret")) as reviewer:
            large = person(0).resize((1536, 2048))
            assert isinstance(reviewer.review(large, [garment(0)]), Review)
        (request,) = server.requests
        assert (request["path"], request["model"], server.keys) == ("/v1/chat/completions", "seeing", ["Bearer s3cret"])
        assert request["response_format"]["json_schema"]["strict"] is True
        pictures = [part["image_url"]["url"] for part in request["messages"][0]["content"] if "image_url" in part]
        sizes = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))).size for one in pictures]
        assert sizes == [(384, 512), (96, 128)]


@pytest.mark.parametrize(
    "form",
    [
        "I think it is fine!",
        "{}",
        {**usable(), "usable": False},
        {**usable(), "problem": "ugly"},
        {**usable(), "extra": 1},
        {**usable(), "garments": []},
        usable("spaceships"),
        {**usable(), "garments": [*usable()["garments"], *usable()["garments"]]},
        {**usable(), "usable": "true"},
    ],
)
def test_an_answer_that_does_not_fit_is_not_judged_and_not_asked_again(form: Any) -> None:
    assert ask(lambda number, request: said(form))[:2] == (NotJudged("malformed"), 1)


def test_an_endless_answer_is_cut_off() -> None:
    assert ask(lambda number, request: (200, {}, b" " * 200_000))[:2] == (NotJudged("malformed"), 1)


def test_busy_and_failing_servers_are_asked_again_but_not_for_ever() -> None:
    def second_time(number: int, request: dict[str, Any]) -> Answer:
        return said(BAD) if number else (429, {"retry-after": "3"}, b"")

    assert ask(second_time) == (Review("text or watermark", ()), 2, [3.0])
    assert ask(lambda number, request: (503, {"retry-after": "900"}, b"")) == (NotJudged("http-503"), 3, [8.0, 8.0])
    assert ask(lambda number, request: (401, {}, b""))[:2] == (NotJudged("http-401"), 1)
    assert ask(lambda number, request: (500, {}, b""), budget=2)[:2] == (NotJudged("budget spent"), 2)
    assert ask(lambda number, request: (307, {"location": "http://127.0.0.1:9/"}, b""))[:2] == (
        NotJudged("http-307"),
        1,
    )


def test_silence_is_a_timeout_and_nobody_there_is_unreachable() -> None:
    def late(number: int, request: dict[str, Any]) -> Answer:
        time.sleep(1.0)
        return said(usable())

    assert ask(late, retries=0, timeout_s=0.2)[0] == NotJudged("timeout")
    with Reviewer(Endpoint("http://127.0.0.1:9/v1", "m", retries=1), sleep=lambda s: None) as reviewer:
        for _ in range(GIVE_UP_AFTER):
            assert reviewer.review(person(0), [garment(0)]) == NotJudged("unreachable")
        asked = reviewer.asked
        assert reviewer.review(person(0), [garment(0)]) == NotJudged("endpoint failing")
        assert reviewer.asked == asked == 2 * GIVE_UP_AFTER
    with pytest.raises(RequestError, match="not the address"):
        Reviewer(Endpoint("file:///etc/passwd", "m"))


def test_refused_samples_are_dropped_and_twins_are_not_paid_for(tmp_path: Path) -> None:
    source = write_viton_hd(tmp_path / "viton", 20)
    for name, image in (("image", person(0)), ("cloth", garment(0))):
        image.save(source / "train" / name / "00019_00.jpg", quality=60)

    def second_refused(number: int, request: dict[str, Any]) -> Answer:
        return said(BAD if number == 1 else usable())

    with serving(second_refused) as server:
        plan = BuildPlan(endpoint=Endpoint(server.url, "seeing", parallel=1))
        report = build(Folder(source, rules=RULES), tmp_path / "out", plan)
    assert {reason: tally.examples for reason, tally in report.dropped.items()} == {
        "vision model: text or watermark": ["00001_00"],
        "duplicate": ["00019_00 (of 00000_00)"],
    }
    assert (report.written, report.asked, len(server.requests)) == (18, 19, 19)
    shards = Shards(str(tmp_path / "out"))
    assert all(shards.entry(i).facts["judged"] is True for i in range(18))


@pytest.mark.parametrize("unjudged", ["keep", "drop"])
def test_a_spent_budget_leaves_samples_not_judged(tmp_path: Path, unjudged: str) -> None:
    source = write_viton_hd(tmp_path / "viton", 4)
    with serving(lambda number, request: said(usable())) as server:
        endpoint = Endpoint(server.url, "seeing", budget=3, parallel=1)
        plan = BuildPlan(endpoint=endpoint, unjudged=unjudged)
        report = build(Folder(source, rules=RULES), tmp_path / "out", plan)
    assert report.not_judged["budget spent"].examples == ["00003_00"] and report.asked == 3
    assert report.written == (4 if unjudged == "keep" else 3)
    if unjudged == "keep":
        assert Shards(str(tmp_path / "out"), shuffled=False).entry(3).facts["judged"] is False
    else:
        assert report.dropped["not judged"].count == 1


def test_the_model_describes_and_the_grammar_speaks(tmp_path: Path) -> None:
    source = write_dresscode(tmp_path / "dresscode")
    for path in (source / "lower_body" / "label_maps").iterdir():
        Image.new("L", (96, 128), 0).save(path)
    people = tmp_path / "people"
    for part in ("dresses", "upper_body", "lower_body"):
        (people / part).mkdir(parents=True)
        for path in (source / part / "images").glob("*_0.jpg"):
            person(int(path.stem[:6]) + 50, "yellow").save(people / part / path.name)

    def described(number: int, request: dict[str, Any]) -> Answer:
        return said(usable("skirts", "over the pants", 'red "pleated" of image 7'))

    with serving(described) as server:
        plan = BuildPlan(endpoint=Endpoint(server.url, "seeing"), caption="model")
        build(Folder(source, people=people, rules=RULES), tmp_path / "out", plan)
    shards = Shards(str(tmp_path / "out"), shuffled=False)
    dress, *_, skirt = (shards.entry(i) for i in range(4))
    assert dress.references[0].category == "dresses" and "the red pleated 7 dress of image 2" in dress.instruction
    assert skirt.references[0].category == "skirts"
    assert "the red pleated 7 skirt of image 2 over the pants." in skirt.instruction
