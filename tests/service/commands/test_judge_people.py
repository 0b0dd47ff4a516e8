"""`changeroom judge page`, `votes` and `similarity` as a user meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_set import draw_set
from noise_pictures import noise_folder
from tiny_networks import backbone_file, inception_file

from service.cli import app

Changeroom = Callable[..., tuple[int, str, str]]


@pytest.fixture
def changeroom(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Changeroom:
    """Runs a command in this process; returns its exit code, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit_:
            app([str(word) for word in words], prog_name="changeroom")
        told = capfd.readouterr()
        return int(exit_.value.code or 0), told.out, told.err

    return run


@pytest.mark.parametrize("command", ["page", "votes", "similarity"])
def test_help_has_an_example(changeroom: Changeroom, command: str) -> None:
    code, out, _ = changeroom("judge", command, "--help")
    assert code == 0 and f"Example: changeroom judge {command}" in " ".join(out.split())


def test_a_page_is_made_and_its_votes_are_counted(
    changeroom: Changeroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_set(tmp_path, (1, 1, 3))
    (tmp_path / "b" / "s1.png").unlink()
    page, key = tmp_path / "out" / "page.html", tmp_path / "out" / "page.key.json"
    code, out, err = changeroom(
        "judge",
        "page",
        tmp_path / "a",
        tmp_path / "b",
        "--set",
        tmp_path / "set",
        "--out",
        page,
        "--question",
        "Whose?",
    )
    assert (code, err.strip()) == (0, "") and "2 pairs" in out and "no result for them: 1" in out
    told = json.loads(key.read_text())
    assert told["page"] in page.read_text(encoding="utf-8") and "Whose?" in page.read_text(encoding="utf-8")

    votes = {trial: {"vote": "left" if one["left"] == "a" else "right"} for trial, one in told["trials"].items()}
    file = tmp_path / "out" / "votes.json"
    file.write_text(json.dumps({"kind": "changeroom-votes", "page": told["page"], "sitting": "x", "votes": votes}))
    tally = tmp_path / "tally.json"
    code, out, err = changeroom("judge", "votes", file, "--json", tally)
    assert (code, err) == (0, "") and "2 of 2 pairs voted on" in out
    assert json.loads(tally.read_text())["rows"][-1]["win"]["share"] == 1.0

    file.write_text(file.read_text().replace(told["page"], "0" * 64))
    code, _, err = changeroom("judge", "votes", file, "--key", key)
    assert code == 1 and "votes on the page 00000000" in err and len(err.splitlines()) == 1


def test_two_pages_of_the_same_results_differ_unless_the_seed_is_named(changeroom: Changeroom, tmp_path: Path) -> None:
    draw_set(tmp_path, (1,) * 12)
    words = ["judge", "page", tmp_path / "a", tmp_path / "b", "--set", tmp_path / "set", "--out"]
    bytes_of = []
    for name, more in (("1", []), ("2", []), ("3", ["--seed", "4"]), ("4", ["--seed", "4"])):
        assert changeroom(*words, tmp_path / f"{name}.html", *more)[0] == 0
        bytes_of.append((tmp_path / f"{name}.html").read_bytes())
    assert bytes_of[0] != bytes_of[1] and bytes_of[2] == bytes_of[3]


@pytest.mark.parametrize(
    "words", [["page", "a", "b"], ["page", "a", "b", "--set", "s", "--out", "page.txt"], ["votes"]]
)
def test_wrong_usage_exits_2(changeroom: Changeroom, words: list[str]) -> None:
    assert changeroom("judge", *words)[0] == 2


def test_similarity_measures_folders_with_networks_of_ones_own(changeroom: Changeroom, tmp_path: Path) -> None:
    photographs = noise_folder(tmp_path / "photos", 4, 1)
    results = noise_folder(tmp_path / "r", 4, 2)
    words = ["judge", "similarity", results, "--set", photographs, "--unpaired", results, "--device", "cpu"]
    nets = ["--inception", inception_file(tmp_path), "--lpips", backbone_file(tmp_path)]
    code, out, err = changeroom(*words, *nets, "--json", tmp_path / "s.json")
    assert (code, err.strip()) == (0, "") and "paired" in out and "KID x1000" in out and "not measured" not in out
    paired, unpaired = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert paired["fid"] == unpaired["fid"] > 0 and paired["lpips"] > 0 and unpaired["lpips"] is None

    code, out, _ = changeroom(*words)
    assert code == 0 and "FID and KID are not measured: name the network with --inception" in out
    code, _, err = changeroom(*words, "--inception", tmp_path / "none.pt")
    assert code == 1 and "none.pt is not there" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "s"],
        ["r"],
        ["r", "--set", "s", "--dino", "d"],
        ["--unpaired", "u", "--set", "s", "--lpips", "f"],
        ["--unpaired", "u", "--set", "s", "--masks", "m"],
        ["r", "--set", "s", "--lpips-net", "vgg"],
    ],
    ids=" ".join,
)
def test_options_of_similarity_that_would_do_nothing_are_wrong_usage(changeroom: Changeroom, words: list[str]) -> None:
    assert changeroom("judge", "similarity", *words)[0] == 2


def test_similarity_without_its_extra_says_what_to_install(
    changeroom: Changeroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    code, _, err = changeroom("judge", "similarity", tmp_path, "--set", tmp_path)
    assert code == 1 and "pip install 'changeroom[judge]'" in err
