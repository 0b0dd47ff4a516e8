"""Folders as VITON-HD, DressCode and their evaluations lay them out, and which result belongs to whom."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from drawn_set import draw_set

from engine_build.errors import RequestError
from engine_build.judging.samples import Picture
from engine_build.judging.similarity.subjects import find_results, read_subjects


def touch(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ids(folder: Path, split: str = "test") -> list[str]:
    return [one.id for one in read_subjects(folder, split)]


def test_viton_hd_with_and_without_its_list(tmp_path: Path) -> None:
    folder = touch(tmp_path / "v", [f"test/image/{n}_00.jpg" for n in (3, 1, 2)] + ["train/image/9_00.jpg"])
    assert ids(folder) == ["1_00", "2_00", "3_00"] and ids(folder, "train") == ["9_00"]
    (folder / "test_pairs.txt").write_text("3_00.jpg 1_00.jpg\n1_00.jpg 2_00.jpg\n3_00.jpg 2_00.jpg\n\n")
    assert ids(folder) == ["3_00", "1_00"]
    assert read_subjects(folder)[0].truth == folder / "test" / "image" / "3_00.jpg"
    (folder / "test_pairs.txt").write_text("../3_00.jpg 1_00.jpg\n")
    with pytest.raises(RequestError, match="is not the name of a photograph"):
        read_subjects(folder)


def test_dresscode_names_results_by_part_unless_one_part_alone_has_the_name(tmp_path: Path) -> None:
    names = ["upper_body/images/1_0.jpg", "upper_body/images/1_1.jpg", "dresses/images/1_0.jpg"]
    folder = touch(tmp_path / "d", [*names, "dresses/images/2_0.jpg", "lower_body/images/5_0.jpg"])
    (folder / "lower_body" / "test_pairs_paired.txt").write_text("5_0.jpg 5_1.jpg\n")
    found = {one.id: one for one in read_subjects(folder)}
    assert list(found) == ["upper_body/1_0", "lower_body/5_0", "dresses/1_0", "dresses/2_0"]
    assert found["dresses/2_0"].group == "dresses"
    results = touch(tmp_path / "r", ["upper_body/1_0.png", "dresses-1_0.jpg", "2_0.webp", "1_0.png"])
    dressed, missing = find_results(list(found.values()), results)
    assert {one.subject.id: one.result.relative_to(results).as_posix() for one in dressed} == {
        "upper_body/1_0": "upper_body/1_0.png",
        "dresses/1_0": "dresses-1_0.jpg",
        "dresses/2_0": "2_0.webp",
    }
    assert missing == ["lower_body/5_0"]


def test_a_set_and_a_plain_folder(tmp_path: Path) -> None:
    subjects = read_subjects(draw_set(tmp_path / "s", (1, 3)))
    assert [len(one.references) for one in subjects] == [1, 3]
    set_folder = tmp_path / "s" / "set"
    assert subjects[0].person == Picture(set_folder / "0_person.png")
    assert subjects[0].truth == Picture(set_folder / "0_truth.png")
    plain = touch(tmp_path / "p", ["b.png", "a.jpg", "notes.txt"])
    assert [(one.id, one.truth) for one in read_subjects(plain)] == [("a", plain / "a.jpg"), ("b", plain / "b.png")]


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a folder"):
        read_subjects(tmp_path / "none")
    with pytest.raises(RequestError, match=r"has no photographs.*VITON-HD"):
        read_subjects(touch(tmp_path / "e", ["notes.txt"]))
    subjects = read_subjects(touch(tmp_path / "p", ["a.jpg"]))
    with pytest.raises(RequestError, match="is not a folder of results"):
        find_results(subjects, tmp_path / "none")
    with pytest.raises(RequestError, match=r"a\.png, for one, is not there"):
        find_results(subjects, touch(tmp_path / "r", ["b.png"]))
