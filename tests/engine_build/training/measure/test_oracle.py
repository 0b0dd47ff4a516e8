"""The judge that knows: its forms are the exact scores rounded, and another judge's error is told against it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from scripted_judge import Asked, Scripted, judge_of, write_set
from vision_endpoint import serving

from engine_build.errors import RequestError
from engine_build.judging import cases
from engine_build.judging.calls import Endpoint, Question
from engine_build.judging.cases import Shares
from engine_build.judging.generating import write_baseline
from engine_build.judging.journal import NAME, read
from engine_build.judging.report import report
from engine_build.judging.run import Work, run
from engine_build.judging.scores import of_journal
from engine_build.judging.sets import JudgedSet, load_set
from engine_build.training.measure import classifier
from engine_build.training.measure.evaluate import held_out, tensor
from engine_build.training.measure.oracle import OracleJudge
from engine_build.training.measure.scores import judged as exactly
from engine_build.world.sample_files import write_samples
from engine_build.world.wrong_outfits import admissible

COUNT = 6


@pytest.fixture(scope="module")
def blurred(tmp_path_factory: pytest.TempPathFactory) -> tuple[JudgedSet, Path]:
    """Scenes of 1 to 6 garments with the truth out of focus as result."""
    folder = tmp_path_factory.mktemp("oracle")
    judged = load_set(f"world:{COUNT}")
    write_baseline(judged, folder / "results", "truth")
    for path in (folder / "results").iterdir():
        with Image.open(path) as image:
            small = image.resize((24, 32), Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.LANCZOS)
        small.save(path)
    run(Work(judged, (folder / "results",), OracleJudge(judged, classifier.load()), folder / "exact"), _all(judged))
    return judged, folder


def _all(judged: JudgedSet) -> list[cases.Case]:
    return list(cases.scoring(judged.samples, Shares()))


def test_the_forms_are_the_exact_scores_on_the_judges_scale(blurred: tuple[JudgedSet, Path]) -> None:
    judged, folder = blurred
    truths = admissible(held_out(COUNT, None), 96)
    outputs = [[tensor(Image.open(sample.result_in(folder / "results")))] for sample in judged.samples]
    exact = [row[0] for row in exactly(outputs, truths, classifier.load(), others=False)]
    said = of_journal(read(folder / "exact"))
    for one, scores in zip(said, exact, strict=True):
        assert (one.identity, one.background) == (round(scores.identity), round(scores.background))
        assert one.physics == round(scores.physics) and one.limbs is None
        shown = [item.score for item in one.items if item.score is not None]
        assert shown == [round(fidelity) for fidelity in scores.fidelity]
    value = report([folder / "exact"]).value["judged"][0]
    mean = sum(scores.overall for scores in exact) / COUNT
    assert value["exact"]["overall"]["mean"] == pytest.approx(mean, abs=1e-4)
    assert abs(value["figures"]["identity"]["mean"] - value["exact"]["identity"]["mean"]) <= 0.5
    assert "exact" in report([folder / "exact"]).text()


def test_truth_scores_ten_and_a_copy_has_no_garment(tmp_path: Path) -> None:
    judged = load_set("world:3")
    for of in ("copy", "truth"):
        write_baseline(judged, tmp_path / of, of)
        work = Work(judged, (tmp_path / of,), OracleJudge(judged, classifier.load()), tmp_path / f"{of}-judged")
        run(work, _all(judged))
        assert run(work, _all(judged)).asked == 0
    means = report([tmp_path / "copy-judged", tmp_path / "truth-judged"]).value["compared"]
    assert means["overall"]["means"][1] == 10 and means["garments"]["means"] == [1, 10]
    assert means["background"]["means"] == [10, 10]


def test_a_judges_error_is_told_against_the_truth(blurred: tuple[JudgedSet, Path]) -> None:
    """Three judges: one that knows and scores a point too low, one the other way about, one that says five."""
    judged, folder = blurred
    people = _people(judged)
    known = {one.id: one for one in of_journal(read(folder / "exact"))}

    class Own(Scripted):
        way = "low"

        def form(self, number: int, question: Asked) -> dict[str, object]:
            form = super().form(number, question)
            one = known[judged.samples[people.index(question.pictures[0])].id]

            def score(value: float | None) -> int | None:
                if value is None:
                    return None
                moved = {"low": value - 1, "turned": 11 - value, "five": 5}[self.way]
                return int(min(10, max(1, moved)))

            if question.form == "worn":
                form["identity"] = score(one.identity)
                for item, known_item in zip(form["garments"], one.items, strict=True):
                    item["score"] = score(known_item.score)
            else:
                form |= {"background": score(one.background), "physics": score(one.physics)}
            return form

    errors = {}
    for way in ("low", "turned", "five"):
        script = Own()
        script.way = way
        with serving(script) as server:
            judge = judge_of(server.url)
            run(Work(judged, (folder / "results",), judge, folder / way), _all(judged))
        errors[way] = report([folder / way], exact=folder / "exact").value["truth"][way]
    assert errors["low"]["samples"] == COUNT and errors["low"]["left_out"] == 0
    low, turned = errors["low"]["physics"], errors["turned"]["physics"]
    assert low["mean"] == pytest.approx(-1) and low["mean_size"] == pytest.approx(1) and low["deviation"] == 0
    assert low["tau"] == 1 and turned["tau"] == -1 and errors["five"]["physics"]["tau"] is None
    assert "tau" in report([folder / "low"], exact=folder / "exact").text()


def _people(judged: JudgedSet) -> list[str]:
    """The photos as a judge is sent them."""
    found = []
    for sample in judged.samples:
        picture = Image.open(io.BytesIO(sample.person.data()))
        body = Question("", (picture,), "", {}).request(Endpoint("http://x", "m", long_side=1024, quality=95))
        found.append(body["messages"][0]["content"][1]["image_url"]["url"])  # type: ignore[index]
    return found


def test_other_pictures_are_left_out_of_the_comparison_and_other_sets_refused(
    blurred: tuple[JudgedSet, Path], tmp_path: Path
) -> None:
    judged, folder = blurred
    results = tmp_path / "results"
    results.mkdir()
    for sample in judged.samples:
        data = sample.result_in(folder / "results").read_bytes()
        sample.result_in(results).write_bytes(data)
    with Image.open(judged.samples[0].result_in(results)) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(judged.samples[0].result_in(results))
    with serving(Scripted()) as server:
        run(Work(judged, (results,), judge_of(server.url), tmp_path / "judged"), _all(judged))
    found = report([tmp_path / "judged"], exact=folder / "exact").value["truth"]["judged"]
    assert (found["samples"], found["left_out"]) == (COUNT - 1, 1)
    other = load_set("world:2")
    write_baseline(other, tmp_path / "other", "copy")
    run(Work(other, (tmp_path / "other",), OracleJudge(other, classifier.load()), tmp_path / "exact"), _all(other))
    with pytest.raises(RequestError, match="the sets differ"):
        report([tmp_path / "judged"], exact=tmp_path / "exact")


def test_what_the_world_did_not_draw_has_no_exact_score(tmp_path: Path) -> None:
    other = load_set(str(write_set(tmp_path / "set", 1)))
    with pytest.raises(RequestError, match="s000 was not drawn"):
        OracleJudge(other, classifier.load())
    path = write_samples(tmp_path / "drawn", seed=3, garments=2)
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 4}))
    judged = load_set(str(tmp_path / "drawn"))
    write_baseline(judged, tmp_path / "results", "truth")
    with pytest.raises(RequestError, match="not the scene that this release draws"):
        run(
            Work(judged, (tmp_path / "results",), OracleJudge(judged, classifier.load()), tmp_path / "out"),
            _all(judged),
        )
    assert not (tmp_path / "out" / NAME).read_text().count('"kind": "answer"')
