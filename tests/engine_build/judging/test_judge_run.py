"""A run against a judge over real HTTP: what it says is kept, what it does not say is missing, nothing twice."""

from __future__ import annotations

import base64
import io
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_judge import Asked, Scripted, judge_of, truth, work_of, write_set
from vision_endpoint import VisionEndpoint, serving

from engine_build.errors import RequestError
from engine_build.judging import cases, prompts
from engine_build.judging.cases import Shares
from engine_build.judging.cost import Prices
from engine_build.judging.journal import NAME, Writer, read
from engine_build.judging.report import report
from engine_build.judging.run import Outcome, estimate, run
from engine_build.judging.scores import SHAM, of_journal
from engine_build.judging.sets import load_set


def judged(
    folder: Path,
    server: VisionEndpoint,
    shares: Shares = Shares(),  # noqa: B008
    results: str = "results",
    out: str = "out",
    **changes: Any,
) -> Outcome:
    """A whole run of the set in `folder`."""
    work = work_of(folder, judge_of(server.url, **changes), results, out)
    return run(work, cases.scoring(work.judged.samples, shares))


def rows(folder: Path, out: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / out / NAME).read_text().splitlines()]


def test_two_independent_questions_a_sample_and_every_item_kept(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 4)
    script = Scripted()
    with serving(script) as server:
        outcome = judged(folder, server)
        requests = list(server.requests)
    assert (outcome.asked, outcome.requests, outcome.absent, outcome.tokens) == (8, 8, 0, (7200, 480))
    assert max(script.seen.values()) == 1
    pictures = sorted((form, len(shown)) for form, shown in script.seen)
    assert pictures == [("place", 2)] * 4 + [("worn", 3)] * 2 + [("worn", 4), ("worn", 5)]
    told = [request["messages"][0]["content"][0]["text"] for request in requests]
    of_place = [text for text in told if prompts.BACKGROUND in text]
    assert len(of_place) == 4 and not any("wear them" in text or "Garment" in text for text in of_place)
    of_worn = [text for text in told if prompts.IDENTITY in text and prompts.GARMENTS in text]
    assert sum("Picture 3: pants (style 1); look at length" in text for text in of_worn) == 2
    assert sum('The instruction was: "wear them, number 2"' in text for text in of_worn) == 1
    for number, one in enumerate(of_journal(read(folder / "out"))):
        identity, garment, background, physics = truth(number)
        assert (one.identity, one.background, one.physics) == (identity, background, physics)
        assert [item.score for item in one.items] == [garment] * (1 + number % 3)
        assert one.overall == pytest.approx((identity * garment * background * physics) ** 0.25)
        assert one.background_kind == ("plain" if number % 2 else "complex") and one.limbs == "fine"


def test_items_combine_by_their_geometric_mean_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3, lambda number: 3)
    items = {0: (10, 1, 5), 1: (9, None, 4), 2: (None, None, None)}

    class Own(Scripted):
        def form(self, number: int, question: Asked) -> dict[str, Any]:
            form = super().form(number, question)
            for item, score in zip(form.get("garments", ()), items[question.number], strict=False):
                item["score"] = score
            return form

    with serving(Own()) as server:
        judged(folder, server)
    first, second, third = of_journal(read(folder / "out"))
    assert first.garments == pytest.approx(50 ** (1 / 3)) and second.garments == pytest.approx(6)
    assert report([folder / "out"]).value["judged"][0]["hidden_items"] == 4
    assert third.garments is None and third.overall is None and third.missing == (("worn", "hidden"),)


@pytest.mark.parametrize(
    ("mood", "reason", "requests"),
    [
        ("refuse", "refusal", 1),
        ("refuse-in-words", "refusal", 1),
        ("filter", "content-filter", 1),
        ("filter-400", "content-filter", 1),
        ("prose", "malformed", 2),
        ("broken", "malformed", 2),
        ("eleven", "malformed", 2),
        ("half", "cut off", 2),
    ],
)
def test_what_the_judge_does_not_say_is_missing_with_its_reason(
    tmp_path: Path, mood: str, reason: str, requests: int
) -> None:
    folder = write_set(tmp_path / "set", 3)

    def moody(number: int, question: Asked) -> str:
        return mood if (question.form, question.number) == ("worn", 1) else ""

    with serving(Scripted(mood=moody)) as server:
        outcome = judged(folder, server)
        again = judged(folder, server)
    assert outcome.requests == 5 + requests
    assert (again.requests, again.answered) == (0, 6), "a judge's own refusal is an answer of a kind"
    one = of_journal(read(folder / "out"))[1]
    assert one.missing == (("worn", reason),) and one.identity is None and one.garments is None
    assert one.background == truth(1)[2] and one.overall is None
    value = report([folder / "out"]).value["judged"][0]
    assert value["missing"] == {f"worn: {reason}": 1}
    assert value["figures"]["identity"]["coverage"] == pytest.approx(2 / 3, abs=1e-4)
    assert value["figures"]["background"]["coverage"] == 1
    assert "(2/3)" in report([folder / "out"]).text()


def test_words_and_fences_round_the_form_are_taken_away_and_nothing_else_is_mended(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    with serving(Scripted(mood=lambda number, question: "fenced")) as server:
        outcome = judged(folder, server)
    assert outcome.requests == 4 and report([folder / "out"]).value["judged"][0]["mended"] == 4
    assert [one.identity for one in of_journal(read(folder / "out"))] == [truth(0)[0], truth(1)[0]]


def test_pictures_are_shown_upright_on_white_and_no_larger_than_said(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 1)
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste("blue", (40, 0, 80, 40))
    turned = Image.Exif()
    turned[0x0112] = 6
    wide.save(folder / "person-0.png", exif=turned)
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(folder / "garment-0-0.png")
    script = Scripted()
    with serving(script) as server:
        judged(folder, server, long_side=64)
    (shown,) = (pictures for form, pictures in script.seen if form == "worn")
    person, garment, _ = (Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in shown)
    assert person.size == (32, 64)
    top, bottom = (person.getpixel((16, y)) for y in (8, 56))
    assert isinstance(top, tuple) and isinstance(bottom, tuple) and top[0] > 200 and bottom[2] > 200
    corner = garment.getpixel((20, 20))
    assert garment.size == (40, 40) and isinstance(corner, tuple) and min(corner) > 250


def test_an_answer_that_does_not_fit_is_asked_for_once_more(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 1)
    with serving(Scripted(mood=lambda number, question: "prose" if number == 0 else "")) as server:
        outcome = judged(folder, server, parallel=1)
    (one,) = of_journal(read(folder / "out"))
    assert outcome.requests == 3 and one.identity == truth(0)[0] and one.missing == ()


def test_busy_and_broken_endpoints_are_waited_for_and_asked_again_by_the_next_run(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    waits: list[float] = []
    moods = {0: "busy", 1: "down"}
    with serving(Scripted(mood=lambda number, question: moods.get(number, ""))) as server:
        outcome = judged(folder, server, sleep=waits.append, parallel=1, retries=1, max_wait_s=60.0)
        assert waits[0] == 50.0 and 0 < waits[1] <= 50.0, "another question waits for the busy endpoint too"
        assert outcome.requests == 7
        assert {row.get("missing") for row in rows(folder) if row["kind"] == "answer"} == {"http-503", None}
        again = judged(folder, server, parallel=1)
        assert (again.requests, again.answered) == (1, 5)
    assert all(one.overall is not None for one in of_journal(read(folder / "out")))


def test_a_timeout_is_missing_until_the_next_run(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 1)
    with serving(Scripted(mood=lambda number, question: "slow")) as server:
        judged(folder, server, timeout_s=0.3, retries=0)
    assert of_journal(read(folder / "out"))[0].missing == (("worn", "timeout"), ("place", "timeout"))
    with serving(Scripted()) as server:
        assert judged(folder, server).asked == 2


def test_a_dead_endpoint_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 20)
    with serving(Scripted(mood=lambda number, question: "down" if number >= 10 else "")) as server:
        outcome = judged(folder, server, parallel=1, retries=0)
        assert outcome.stopped == "endpoint failing" and len(server.requests) == 15
    with serving(Scripted()) as server:
        outcome = judged(folder, server)
        assert (outcome.asked, outcome.answered, outcome.stopped) == (30, 10, "")


def test_budgets_of_requests_and_dollars_end_a_run_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 6)
    script = Scripted()
    with serving(script) as server:
        assert judged(folder, server, budget=5).stopped == "budget spent" and len(server.requests) == 5
        work = work_of(folder, judge_of(server.url, parallel=1))
        prices = Prices(read=1000.0, written=0.0)
        left = estimate(work, cases.scoring(work.judged.samples, Shares()))
        assert (left.questions, left.answered, left.written) == (7, 5, 7 * 800) and len(server.requests) == 5
        assert "7 questions to ask, 5 answered already" in left.text(prices) and "at most $" in left.text(prices)
        outcome = run(work, cases.scoring(work.judged.samples, Shares()), prices, max_cost=1.5)
        assert outcome.stopped == "cost reached" and outcome.requests == 2
        assert judged(folder, server).stopped == ""
    assert max(script.seen.values()) == 1 and len(script.seen) == 12


def test_other_words_judges_and_sets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set(tmp_path / "set", 2)
    with serving(Scripted()) as server:
        judged(folder, server)
        with pytest.raises(RequestError, match=r"judges differ \(decoding: .*0\.7.*another --out"):
            judged(folder, server, decoding={"temperature": 0.7})
        judged(folder, server, out="hot", decoding={"temperature": 0.7})
        with pytest.raises(RequestError, match="cannot be compared: the judges differ"):
            report([folder / "out", folder / "hot"])
        monkeypatch.setattr(prompts, "RUBRIC", "other")
        with pytest.raises(RequestError, match="the judge's words differ"):
            judged(folder, server)
        monkeypatch.undo()
        other = write_set(tmp_path / "other", 3)
        judged(other, server)
        with pytest.raises(RequestError, match="the sets differ"):
            report([folder / "out", other / "out"])
        with pytest.raises(RequestError, match="the sets differ"):
            run(replace(work_of(other, judge_of(server.url)), out=folder / "out"), [])
    lines = (folder / "out" / NAME).read_text().splitlines(keepends=True)
    (folder / "out" / NAME).write_text(lines[0].replace('"temperature": 0', '"temperature": 1') + "".join(lines[1:]))
    with pytest.raises(RequestError, match="judge_hash"):
        read(folder / "out")


def test_results_that_changed_are_judged_anew_and_the_old_ones_not_again(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    path = folder / "results" / "s000.png"
    before = path.read_bytes()
    with serving(Scripted()) as server:
        judged(folder, server)
        Image.new("RGB", (32, 32), (40, 40, 40)).save(path)
        assert judged(folder, server).asked == 2
        assert of_journal(read(folder / "out"))[0].identity == truth(3)[0]
        path.write_bytes(before)
        assert judged(folder, server).asked == 0
        assert of_journal(read(folder / "out"))[0].identity == truth(0)[0]
        path.unlink()
        assert judged(folder, server).absent == 1
        one = of_journal(read(folder / "out"))[0]
        assert one.missing == (("worn", "no result"), ("place", "no result")) and one.overall is None
        path.write_bytes(b"no picture")
        assert judged(folder, server).requests == 0
        assert of_journal(read(folder / "out"))[0].missing[0] == ("worn", "picture unreadable")
        path.write_bytes(before)
        assert judged(folder, server).requests == 0
    assert of_journal(read(folder / "out"))[0].identity == truth(0)[0]


def test_a_set_may_be_begun_with_its_first_samples(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 6)
    with serving(Scripted()) as server:
        work = work_of(folder, judge_of(server.url))
        some = replace(work, judged=load_set(str(folder), limit=2))
        assert run(some, cases.scoring(some.judged.samples, Shares())).asked == 4
        assert report([folder / "out"]).value["judged"][0]["samples"] == 2
        assert run(work, cases.scoring(work.judged.samples, Shares())).asked == 8
    assert report([folder / "out"]).value["judged"][0]["figures"]["overall"]["of"] == 6


def test_one_process_writes_and_no_password_is_written(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 1)
    with serving(Scripted()) as server:
        secret = server.url.replace("//", "//me:hush@")
        work = work_of(folder, judge_of(secret, key="s3cret"))
        run(work, cases.scoring(work.judged.samples, Shares()))
        text = (folder / "out" / NAME).read_text()
        assert "hush" not in text and "s3cret" not in text and server.url in text
        with (
            Writer(folder / "out", work.header(), []),
            pytest.raises(RequestError, match="another process writes"),
        ):
            run(work, cases.scoring(work.judged.samples, Shares()))


def test_a_folder_without_any_result_is_said_at_once(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    for path in (folder / "results").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(RequestError, match=r"s000\.png is looked for, xs000\.png, xs001\.png is there"):
        run(work_of(folder, judge_of("http://127.0.0.1:9/v1")), [])
    (folder / "set.jsonl").unlink()
    with pytest.raises(RequestError, match="none of the known layouts"):
        work_of(folder, judge_of("http://127.0.0.1:9/v1"))


def test_a_torn_line_is_cut_off_and_only_its_answer_is_asked_for_again(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 4)
    with serving(Scripted()) as server:
        judged(folder, server)
        whole = (folder / "out" / NAME).read_bytes()
        lines = whole.splitlines(keepends=True)
        for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
            (folder / "out" / NAME).write_bytes(whole[:-cut])
            assert judged(folder, server).asked == 1
        (folder / "out" / NAME).write_bytes(lines[0][: len(lines[0]) // 2])
        assert judged(folder, server).asked == 8
        (folder / "out" / NAME).write_bytes(b"".join(lines[:3]) + b"{broken}\n" + b"".join(lines[3:]))
        with pytest.raises(RequestError, match="line 4 is damaged"):
            judged(folder, server)


def test_the_same_journal_gives_the_same_bytes_whatever_the_order_of_its_answers(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 12)
    with serving(Scripted(noise=2)) as server:
        judged(folder, server, Shares(again=0.5, repeats=2, sham=0.5))
    made = report([folder / "out"])
    assert (made.json(), made.text()) == (report([folder / "out"]).json(), report([folder / "out"]).text())
    path = folder / "out" / NAME
    lines = path.read_text().splitlines(keepends=True)
    answers = [line for line in lines if '"kind": "answer"' in line]
    random.Random(5).shuffle(answers)
    path.write_text("".join([line for line in lines if line not in answers] + answers))
    assert report([folder / "out"]).json() == made.json()


def test_a_share_is_asked_again_and_a_sham_set_shows_the_noise_floor(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 24)
    with serving(Scripted(noise=2)) as server:
        judged(folder, server, Shares(again=0.5, repeats=2, sham=1.0), out="noisy")
    with serving(Scripted()) as server:
        judged(folder, server, Shares(again=0.5, repeats=2, sham=1.0), out="steady")
    noisy, steady = (report([folder / name]).value["judged"][0] for name in ("noisy", "steady"))
    journal = read(folder / "noisy")
    assert len({case[0] for case in journal.answers if case[3] == 2}) == 12
    assert len([case for case in journal.answers if case[2] == SHAM]) == 48
    shown = {case: row["key"] for case, row in journal.answers.items()}
    assert len(set(shown.values())) == len(shown), "a sham shows other bytes, a repeat is another question"
    for name in ("identity", "garments", "overall"):
        assert steady["sham"][name] == {"n": 24, "mean": 0, "low": 0, "high": 0, "mean_size": 0, "deviation": 0}
        assert noisy["sham"][name]["n"] == 24 and noisy["sham"][name]["mean_size"] > 0.3
        assert noisy["sham"][name]["low"] <= 0 <= noisy["sham"][name]["high"], "a difference of nothing"
        assert noisy["again"][name]["samples"] == 12 and noisy["again"][name]["n"] == 24
        assert noisy["again"][name]["deviation"] > 0.5 and noisy["again"][name]["alpha"] < 1
    assert steady["again"]["identity"]["alpha"] == 1
    overall = noisy["figures"]["overall"]
    assert overall["low"] < overall["mean"] < overall["high"]


def test_models_are_compared_on_the_samples_that_all_have(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 8)
    better = folder / "better"
    better.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (16 + 8 * 5,) * 3).save(better / f"s{number:03d}.png")

    def refusing(number: int, question: Asked) -> str:
        return "refuse" if question.form == "worn" and question.number in (1, 2) else ""

    with serving(Scripted(mood=refusing)) as server:
        judged(folder, server)
        judged(folder, server, results="better", out="b")
    found = report([folder / "out", folder / "b"]).value["compared"]
    assert (found["identity"]["n"], found["identity"]["of"], found["background"]["n"]) == (6, 8, 8)
    ours = [truth(number)[0] for number in (0, 3, 4, 5, 6, 7)]
    assert found["identity"]["means"] == pytest.approx([sum(ours) / 6, truth(5)[0]], abs=1e-4)
    apart = found["identity"]["less_the_first"][0]
    assert apart["mean"] == pytest.approx(truth(5)[0] - sum(ours) / 6, abs=1e-4) and apart["low"] > 0
