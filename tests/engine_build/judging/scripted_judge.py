"""A judged set of coloured squares, and a judge of them over real HTTP that has moods.

The true scores of a sample stand in the colour of its result, so that a test knows what an unmoved judge would say.
"""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from vision_endpoint import Answer, said

from engine_build.judging.calls import Caller, Endpoint
from engine_build.judging.judges import EndpointJudge
from engine_build.judging.run import Work
from engine_build.judging.sets import JudgedSet, load_set

CATEGORIES = ("tops", "pants", "coats", "shoes", "bags", "hats")


def colour(number: int) -> tuple[int, int, int]:
    """A result's colour: its sample's number in all of red, green and blue, so that JPEG keeps it."""
    return (16 + 8 * number,) * 3


def write_set(folder: Path, count: int, garments: Callable[[int], int] = lambda number: 1 + number % 3) -> Path:
    """`count` samples of 1 to 3 garments, their results under results/."""
    (folder / "results").mkdir(parents=True)
    rows = []
    for number in range(count):
        _square(folder / f"person-{number}.png", (number, 200, 30))
        references = []
        for index in range(garments(number)):
            name = f"garment-{number}-{index}.png"
            _square(folder / name, (number, index, 220))
            references.append({"file": name, "category": CATEGORIES[index], "sub_style": f"style {index % 2}"})
        _square(folder / "results" / f"s{number:03d}.png", colour(number))
        row = {"id": f"s{number:03d}", "person": f"person-{number}.png", "references": references}
        rows.append(json.dumps({**row, "instruction": f"wear them, number {number}"}))
    (folder / "set.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def _square(path: Path, fill: tuple[int, int, int]) -> None:
    Image.new("RGB", (32, 32), fill).save(path)


def worn(identity: int, *scores: int | None) -> dict[str, Any]:
    """The first form."""
    items = [{"image": image, "faults": ["hem"], "score": score} for image, score in enumerate(scores, start=2)]
    return {"identity_faults": [], "identity": identity, "garments": items}


def place(background: int, physics: int, kind: str = "plain", limbs: str = "fine") -> dict[str, Any]:
    """The second form."""
    faults: dict[str, Any] = {"background_faults": [], "physics_faults": []}
    return {"background_kind": kind, "background": background, "limbs": limbs, "physics": physics, **faults}


@dataclass(frozen=True)
class Asked:
    """A request as the judge sees it: the form wanted, the number of garments, the sample's number by its picture."""

    form: str
    garments: int
    number: int
    pictures: tuple[str, ...]

    @property
    def question(self) -> tuple[str, tuple[str, ...]]:
        return self.form, self.pictures


def asked(request: dict[str, Any]) -> Asked:
    """What a request asks."""
    parts = request["messages"][0]["content"]
    uris = tuple(part["image_url"]["url"] for part in parts if "image_url" in part)
    form = request["response_format"]["json_schema"]["name"]
    results = 2 if form == "pair" else 1
    image = Image.open(io.BytesIO(base64.b64decode(uris[-1].partition(",")[2]))).convert("RGB")
    red = image.getpixel((16, 16))
    number = round((red[0] - 16) / 8) if isinstance(red, tuple) else -1
    return Asked(form, len(uris) - 1 - results, number, uris)


@dataclass
class Scripted:
    """Answers truly (`true`), with noise of at most `noise`, and in the moods that `mood(number, asked)` names.

    Moods: refuse, filter, filter-400, prose, fenced, broken, half, eleven, slow, busy, down. `seen` counts every
    question. Noise depends on what is asked and on how often it was, not on the order of requests.
    """

    noise: int = 0
    mood: Callable[[int, Asked], str] = lambda number, asked: ""
    seen: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)

    def __call__(self, number: int, request: dict[str, Any]) -> Answer:
        question = asked(request)
        self.seen[question.question] += 1
        mood = self.mood(number, question)
        form = self.form(number, question)
        if mood == "refuse":
            return _message({"refusal": "I will not judge people."})
        if mood == "refuse-in-words":
            return _message({"content": "I'm sorry, but I can't assist with that."})
        if mood == "filter":
            return _message({"content": ""}, "content_filter")
        if mood == "filter-400":
            return 400, {}, json.dumps({"error": {"code": "content_filter", "message": "flagged"}}).encode()
        if mood == "prose":
            return said("I would give it a solid 8 out of 10.")
        if mood == "fenced":
            return said(f"Here you are:\n```json\n{json.dumps(form)[:-1]},}}\n```\nAnything else?")
        if mood == "broken":
            return said(json.dumps(form)[: len(json.dumps(form)) // 2])
        if mood == "half":
            return _message({"content": json.dumps(form)[:20]}, "length")
        if mood == "eleven":
            return said({**form, "identity": 11, "background": 11})
        if mood == "slow":
            time.sleep(1.5)
        if mood == "busy":
            return 429, {"retry-after": "50"}, b"{}"
        if mood == "down":
            return 503, {}, b"no"
        return _message({"content": json.dumps(form)})

    def form(self, number: int, question: Asked) -> dict[str, Any]:
        true = truth(question.number)
        dice = random.Random(f"{self.noise}/{question.question}/{self.seen[question.question]}")

        def shaken(score: int) -> int:
            return min(10, max(1, score + dice.randint(-self.noise, self.noise)))

        if question.form == "worn":
            return worn(shaken(true[0]), *(shaken(true[1]) for _ in range(question.garments)))
        return place(shaken(true[2]), shaken(true[3]), "plain" if question.number % 2 else "complex")


def truth(number: int) -> tuple[int, int, int, int]:
    """The true scores of a sample: identity, each garment, background, physics."""
    return 4 + number % 6, 3 + number % 7, 5 + number % 5, 6 + number % 4


def _message(message: dict[str, Any], finish: str = "stop") -> Answer:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 900, "completion_tokens": 60}
    return 200, {}, json.dumps({"model": "seeing-2", "choices": [choice], "usage": usage}).encode()


def judge_of(url: str, sleep: Callable[[float], object] = lambda seconds: None, **changes: Any) -> EndpointJudge:
    """The judge at an address; waits are not waited."""
    settings: dict[str, Any] = {"asked_again": 1, "long_side": 1024, "quality": 95, "timeout_s": 20.0, **changes}
    return EndpointJudge(Caller(Endpoint(url, "seeing", **settings), sleep=sleep))


def work_of(folder: Path, judge: EndpointJudge, results: str = "results", out: str = "out") -> Work:
    """A set written by `write_set`, judged."""
    judged: JudgedSet = load_set(str(folder))
    return Work(judged, (folder / results,), judge, folder / out)
