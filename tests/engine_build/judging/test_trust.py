"""A judge against people and against itself in both orders; against the truth in training/measure/test_oracle.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_judge import Asked, Scripted, asked, judge_of, truth, work_of, write_set
from vision_endpoint import Answer, said, serving

from engine_build.errors import RequestError
from engine_build.judging import cases
from engine_build.judging.cases import Shares
from engine_build.judging.journal import read
from engine_build.judging.preferences import verdicts
from engine_build.judging.report import report
from engine_build.judging.run import Work, run


def two_folders(folder: Path, count: int, other: Any) -> tuple[Path, Path]:
    """The results of a set, and those of another system, coloured by `other(number)`."""
    b = folder / "b"
    b.mkdir()
    for number in range(count):
        Image.new("RGB", (32, 32), (other(number),) * 3).save(b / f"s{number:03d}.png")
    return folder / "results", b


def levels(question: Asked) -> tuple[int, int]:
    """How bright the two results of a pair are."""
    request = {"messages": [{"content": [{"image_url": {"url": uri}} for uri in question.pictures[:-1]]}]}
    request |= {"response_format": {"json_schema": {"name": "worn"}}}
    return asked(request).number, question.number


def test_every_pair_is_asked_in_both_orders_and_a_flip_is_no_verdict(tmp_path: Path) -> None:
    """The brighter result is better; equal ones are the same; of samples 2 and 5 the judge likes the first place."""
    folder = write_set(tmp_path / "set", 8, lambda number: 1 + number // 4)
    shades = {0: 200, 1: 0, 2: 200, 3: 40, 4: 200, 5: 0, 6: 0, 7: 200}
    a, b = two_folders(folder, 8, shades.__getitem__)

    def answer(number: int, request: dict[str, Any]) -> Answer:
        question = asked(request)
        first, second = levels(question)
        sample = next(n for n in range(8) if {16 + 8 * n, shades[n]} >= {16 + 8 * first, 16 + 8 * second})
        if sample == 7:
            return said("no form")
        better = "first" if first > second else "second" if second > first else "same"
        return said({"why": "", "better": "first" if sample in (2, 5) else better})

    with serving(answer) as server:
        work = work_of(folder, judge_of(server.url))
        work = Work(work.judged, (a, b), work.judge, folder / "pairs")
        outcome = run(work, cases.pairing(work.judged.samples))
        assert outcome.requests == 6 * 2 + 1 + 2 * 2, "the equal pair is one question, not two"
        assert run(work, cases.pairing(work.judged.samples)).requests == 0
    made = report([folder / "pairs"])
    found = made.value["preferences"]
    assert found["by_count"]["all"] == {"a": 2, "same": 1, "b": 2, "flipped": 2, "missing": 1}
    assert found["by_count"]["1"] == {"a": 1, "same": 1, "b": 1, "flipped": 1, "missing": 0}
    assert found["flipped"] == pytest.approx(2 / 7, abs=1e-4) and (found["judged"], found["of"]) == (7, 8)
    assert found["first_place_won"] == pytest.approx(8 / 12, abs=1e-4)
    assert "flipped with the order: 28.6%" in made.text()
    with pytest.raises(RequestError, match="by itself"):
        report([folder / "pairs", folder / "pairs"])


def test_a_pair_with_one_result_only_is_not_asked(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    a, b = two_folders(folder, 2, lambda number: 100)
    with serving(lambda number, request: said({"better": "same"})) as server:
        work = work_of(folder, judge_of(server.url))
        work = Work(work.judged, (a, b), work.judge, folder / "pairs")
        assert run(work, cases.pairing(work.judged.samples)).absent == 1
    assert verdicts(read(folder / "pairs")) == {"s000": "same", "s001": "same", "s002": "missing"}


def test_the_judge_ranks_pairs_as_people_do_or_not(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 6)
    a, b = two_folders(folder, 6, lambda number: 16 + 8 * 3)
    with serving(Scripted()) as server:
        for results, out in ((a, "ours"), (b, "theirs")):
            work = work_of(folder, judge_of(server.url), results.name, out)
            run(work, cases.scoring(work.judged.samples, Shares()))
    better = {n: (truth(n)[0] > truth(3)[0]) - (truth(n)[0] < truth(3)[0]) for n in range(6)}

    def vote(number: int, turned: bool) -> str:
        """What a person says who sees identity as the judge does; every second pair has A on the right."""
        side = better[number] * (-1 if turned else 1) * (-1 if number % 2 else 1)
        return {1: "left", 0: "same", -1: "right"}[side]

    trials = {f"t{n}": {"sample": f"s{n:03d}", "garments": 1, "left": "b" if n % 2 else "a"} for n in range(6)}
    key = folder / "page.key.json"
    told_key = {"kind": "changeroom-key", "page": "p1", "a": "ours", "b": "theirs", "ship": False}
    key.write_text(json.dumps({**told_key, "missing": {"a": [], "b": []}, "trials": trials}))
    for name, turned in (("agree", False), ("contrary", True)):
        told = {f"t{n}": {"vote": vote(n, turned)} for n in range(6)}
        votes = {"kind": "changeroom-votes", "page": "p1", "sitting": name, "votes": told}
        (folder / f"{name}.json").write_text(json.dumps(votes))
    folders = [folder / "ours", folder / "theirs"]
    agree = report(folders, votes=[folder / "agree.json"], key=key).value["people"]["identity"]
    contrary = report(folders, votes=[folder / "contrary.json"], key=key).value["people"]["identity"]
    assert agree["n"] == 6 and agree["tau"] > 0.7 and contrary["tau"] == -agree["tau"]
    (folder / "agree.json").write_text(json.dumps({"kind": "changeroom-votes", "page": "p2", "votes": {}}))
    with pytest.raises(RequestError, match="on the page p2"):
        report(folders, votes=[folder / "agree.json"], key=key)
    with pytest.raises(RequestError, match="none are named"):
        report(folders, key=key)
    with pytest.raises(RequestError, match="two folders of results"):
        report(folders[:1], votes=[folder / "agree.json"], key=key)
