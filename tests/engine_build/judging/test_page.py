"""The page without a browser: what it holds, what it hides, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from drawn_set import draw_set
from PIL import Image, PngImagePlugin

from engine_build.errors import RequestError
from engine_build.judging.people.page import Page, PagePlan, make_page
from engine_build.judging.sets import load_set

COUNTS = (1, 1, 2, 2, 3, 6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_set(tmp_path, COUNTS)
    return tmp_path


def page_of(root: Path, seed: int = 5, **plan: Any) -> Page:
    return make_page(load_set(str(root / "set")).samples, root / "a", root / "b", PagePlan(seed, **plan))


def data_of(page: Page) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.html, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def opened(data: dict[str, Any], name: str) -> Image.Image:
    kind, _, text = data["pictures"][name].partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_every_trial_shows_its_own_conditions_and_both_results_on_the_side_the_key_says(root: Path) -> None:
    page = page_of(root)
    data = data_of(page)
    assert len(data["trials"]) == len(COUNTS)
    rows = {sample.id: sample for sample in load_set(str(root / "set")).samples}
    for trial in data["trials"]:
        told = page.key["trials"][trial["id"]]
        sample = rows[told["sample"]]
        assert trial["instruction"] == sample.instruction
        assert [one["category"] for one in trial["garments"]] == [one.category for one in sample.references]
        assert told["garments"] == len(sample.references)
        for place, side in (("left", told["left"]), ("right", "b" if told["left"] == "a" else "a")):
            with Image.open(root / side / f"{sample.id}.png") as truth:
                shown = opened(data, trial[place]).getpixel((45, 60))
                wanted = truth.getpixel((45, 60))
                assert isinstance(shown, tuple) and isinstance(wanted, tuple)
                assert max(abs(p - q) for p, q in zip(shown, wanted, strict=True)) < 12


def test_the_page_does_not_tell_whose_a_picture_is(root: Path) -> None:
    for file in (root / "a").iterdir():
        info = PngImagePlugin.PngInfo()
        info.add_text("Software", "secret-system")
        with Image.open(file) as picture:
            picture.save(file, pnginfo=info)
    page = page_of(root)
    data = data_of(page)
    text = page.html.replace("\n", " ")
    assert not re.search(r'"(a|b|seed|sample)":', json.dumps(data["trials"]))
    for told in ("secret-system", str(root), ".png", '"s0"', '"s5"'):
        assert told not in text
    for name in data["pictures"]:
        assert set(opened(data, name).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert list(data["pictures"]) == sorted(data["pictures"])


def test_sides_are_balanced_within_a_garment_count_and_differ_between_seeds(root: Path) -> None:
    seen = set()
    for seed in range(12):
        key = page_of(root, seed).key
        sides = Counter((told["garments"], told["left"]) for told in key["trials"].values())
        assert sides[1, "a"] == sides[1, "b"] == 1 and sides[2, "a"] == sides[2, "b"] == 1
        seen.add(tuple((told["sample"], told["left"]) for told in key["trials"].values()))
    assert len(seen) == 12


def test_equal_seeds_give_equal_bytes_and_anything_shown_changes_the_hash(root: Path) -> None:
    first, second = page_of(root), page_of(root)
    assert first.html == second.html and first.key == second.key
    hashes = {first.key["page"], page_of(root, 6).key["page"], page_of(root, ship=True).key["page"]}
    hashes.add(page_of(root, question="Whose face is kept?").key["page"])
    with Image.open(root / "b" / "s3.png") as picture:
        picture.convert("L").convert("RGB").rotate(180).save(root / "b" / "s3.png")
    hashes.add(page_of(root).key["page"])
    assert len(hashes) == 5


def test_samples_without_a_result_are_left_out_and_named_in_the_key(root: Path) -> None:
    (root / "a" / "s1.png").unlink()
    (root / "b" / "s4.png").unlink()
    key = page_of(root).key
    assert key["missing"] == {"a": ["s1"], "b": ["s4"]}
    assert {told["sample"] for told in key["trials"].values()} == {"s0", "s2", "s3", "s5"}
    assert len(page_of(root, limit=2).key["trials"]) == 2


def test_large_pictures_are_bounded_and_turned_upright(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 300), "red").save(root / "a" / "s0.jpg", exif=exif)
    (root / "a" / "s0.png").unlink()
    page = page_of(root, height=200)
    trial = next(name for name, told in page.key["trials"].items() if told["sample"] == "s0")
    side = "left" if page.key["trials"][trial]["left"] == "a" else "right"
    data = data_of(page)
    shown = next(one for one in data["trials"] if one["id"] == trial)[side]
    assert opened(data, shown).size == (94, 200)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "set" / "set.jsonl").write_text("{}\n"), "line 1: not a sample"),
        (lambda root: (root / "set" / "set.jsonl").write_text("\n"), "holds no samples"),
        (lambda root: (root / "set" / "set.jsonl").unlink(), "none of the known layouts"),
        (lambda root: (root / "a" / "s2.png").write_text("words"), "s2.png cannot be read as a picture"),
        (lambda root: [file.unlink() for file in (root / "b").iterdir()], "no sample has a result in both"),
    ],
)
def test_what_cannot_become_a_page_is_said(root: Path, change: Any, said: str) -> None:
    change(root)
    with pytest.raises(RequestError, match=said):
        page_of(root)


@pytest.mark.parametrize("bad", ["../s0", "/s0", "", "a//b"])
def test_an_id_cannot_lead_out_of_the_results(root: Path, bad: str) -> None:
    path = root / "set" / "set.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**row, "id": bad}) + "\n")
    with pytest.raises(RequestError, match="cannot name a file"):
        load_set(str(root / "set"))


def test_an_id_stands_once_and_one_folder_is_not_two_systems(root: Path) -> None:
    with pytest.raises(RequestError, match="are one folder"):
        make_page(load_set(str(root / "set")).samples, root / "a", root / "a", PagePlan(0))
    path = root / "set" / "set.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(RequestError, match="two samples have the id"):
        load_set(str(root / "set"))
