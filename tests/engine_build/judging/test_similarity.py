"""Whole measurements of folders: conventions, what is left out, and figures that must come out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_set import draw_set
from noise_pictures import noise_folder
from PIL import Image, ImageDraw
from tiny_networks import backbone_file, clip_folder, dino_folder, inception_file

from engine_build.errors import RequestError
from engine_build.judging.pictures import upright
from engine_build.judging.similarity.distances import frechet_distance, kernel_distance
from engine_build.judging.similarity.inception import Inception
from engine_build.judging.similarity.likeness import Likeness
from engine_build.judging.similarity.measure import Folders, Tools, at_height, measure
from engine_build.judging.similarity.perceptual import Lpips
from engine_build.judging.similarity.structure import ssim
from engine_build.judging.similarity.usability import usability


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    folder = tmp_path_factory.mktemp("networks")
    dino, clip = folder / "dino", folder / "clip"
    return Tools(
        Inception(inception_file(folder)),
        Lpips(backbone_file(folder)),
        Likeness(dino_folder(dino), "dino"),
        Likeness(clip_folder(clip), "clip"),
    )


def each(folder: Path, out: Path, change: Callable[[Image.Image], Image.Image]) -> Path:
    """A changed copy of every picture, losslessly."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        change(upright(path)).save(out / f"{path.stem}.png")
    return out


def shifted(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(picture), 3, axis=1))


def test_photographs_as_results_are_perfect(tmp_path: Path, tools: Tools) -> None:
    truths = noise_folder(tmp_path / "photos", 6, 1)
    report = measure(
        Folders(truths, each(truths, tmp_path / "r", lambda x: x), each(truths, tmp_path / "u", shifted)), tools
    )
    paired, unpaired = report.rows
    assert (paired.kind, paired.group, paired.samples) == ("paired", "all", 6)
    assert paired.fid == pytest.approx(0.0, abs=1e-6) and paired.lpips == pytest.approx(0.0, abs=1e-9)
    assert paired.ssim == pytest.approx(1.0, abs=1e-9)
    assert unpaired.ssim is None and unpaired.lpips is None
    assert unpaired.fid is not None and unpaired.fid > 1e-5
    assert report.weights.keys() == {"inception", "lpips squeeze"} and all(
        len(x) == 64 for x in report.weights.values()
    )


def test_truths_are_resized_by_lanczos_to_the_height_of_the_result(tmp_path: Path, tools: Tools) -> None:
    """The same figures by hand, from pictures resized by hand; 61 * 24 / 48 is cut to 30 pixels."""
    truths = noise_folder(tmp_path / "photos", 5, 2, size=(61, 48))
    results = noise_folder(tmp_path / "r", 5, 3, 40, 220, size=(30, 24))
    small = each(truths, tmp_path / "s", lambda x: x.resize((30, 24), Image.Resampling.LANCZOS))
    assert tools.inception is not None and tools.lpips is not None
    a, b = (tools.inception.features(upright(path) for path in sorted(one.iterdir())) for one in (small, results))
    (row,) = measure(Folders(truths, results), tools).rows
    assert row.fid == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert row.kid == pytest.approx(1000 * kernel_distance(a, b)[0], rel=1e-9)

    def tensor(path: Path) -> torch.Tensor:
        return torch.from_numpy(np.asarray(upright(path), np.float32) / 255).permute(2, 0, 1)

    pairs = [(tensor(small / f"{i:02d}.png"), tensor(results / f"{i:02d}.png")) for i in range(5)]
    assert row.ssim == pytest.approx(np.mean([ssim(x, y) for x, y in pairs]), rel=1e-9)
    assert row.lpips == pytest.approx(np.mean([tools.lpips.distance(x, y) for x, y in pairs]), rel=1e-6)
    assert at_height(Image.new("RGB", (61, 48)), 48).size == (61, 48)


def test_a_part_of_dresscode_has_a_row_of_its_own_and_missing_results_are_counted(tmp_path: Path, tools: Tools) -> None:
    data = tmp_path / "dresscode"
    for part, seed in (("upper_body", 4), ("dresses", 5)):
        for path in noise_folder(tmp_path / part, 4, seed).iterdir():
            (data / part / "images").mkdir(parents=True, exist_ok=True)
            path.rename(data / part / "images" / f"{path.stem}_0.png")
        noise_folder(tmp_path / "r" / part, 4, seed + 10)
        for path in list((tmp_path / "r" / part).iterdir()):
            path.rename(path.with_stem(f"{path.stem}_0"))
    (tmp_path / "r" / "dresses" / "02_0.png").unlink()
    report = measure(Folders(data, tmp_path / "r"), Tools(tools.inception))
    assert [(row.group, row.samples) for row in report.rows] == [("dresses", 3), ("upper_body", 4), ("all", 7)]
    assert report.missing == {"paired": ["dresses/02_0"]}
    assert all(row.fid is not None and row.lpips is None for row in report.rows)
    text = report.text()
    assert "7 of 8 have a result" in text and "LPIPS is not measured: name its backbone with --lpips" in text


def masked_set(root: Path) -> Path:
    """The first result is the person with a red square, which is its mask; the mask of the second is all white."""
    folder = draw_set(root, (1, 2), (64, 80))
    person = upright(folder / "0_person.png")
    ImageDraw.Draw(person).rectangle((20, 30, 39, 49), fill="#cc2222")
    person.save(root / "a" / "s0.png")
    mask = Image.new("L", person.size)
    ImageDraw.Draw(mask).rectangle((20, 30, 39, 49), fill=255)
    (root / "masks").mkdir()
    mask.save(root / "masks" / "s0.png")
    Image.new("L", person.size, 255).save(root / "masks" / "s1_mask.png")
    return folder


def test_outside_a_mask_only_what_is_elsewhere_counts(tmp_path: Path, tools: Tools) -> None:
    folders = Folders(masked_set(tmp_path), tmp_path / "a", masks=tmp_path / "masks")
    outside = measure(folders, tools).outside
    for name, perfect in (("ssim", 1.0), ("lpips", 0.0)):
        assert outside[name].mean == pytest.approx(perfect, abs=1e-6) and outside[name].n == 1
        assert outside[name].left_out == {"the mask is all white": 1}

    spotted = upright(tmp_path / "a" / "s0.png")
    ImageDraw.Draw(spotted).rectangle((2, 2, 9, 9), fill="#000000")
    spotted.save(tmp_path / "a" / "s0.png")
    worse = measure(folders, tools).outside
    assert worse["ssim"].mean is not None and worse["ssim"].mean < 0.99
    assert worse["lpips"].mean is not None and worse["lpips"].mean > 1e-4
    assert "lpips" not in measure(folders, Tools()).outside


def test_garments_are_compared_where_there_are_masks(tmp_path: Path, tools: Tools) -> None:
    """The first garment is worn as given; of the second sample's two, one mask is empty and one is not there."""
    root = tmp_path / "s"
    folder = masked_set(root)
    given = Image.new("RGB", (64, 80), "#eeeeee")
    ImageDraw.Draw(given).rectangle((20, 30, 39, 49), fill="#cc2222")
    given.save(folder / "0_0.png")
    upright(root / "masks" / "s0.png").save(folder / "0_0_mask.png")
    Image.new("L", (64, 80)).save(root / "masks" / "s1-1.png")
    folders = Folders(folder, root / "a", masks=root / "masks")
    found = measure(folders, tools).likeness
    for name in ("m_dino", "m_clip_i"):
        assert found[name].mean == pytest.approx(1.0, abs=1e-6)
        assert (found[name].n, found[name].left_out) == (1, {"no mask": 1, "the mask is empty": 1})
    given.paste("#22cc22", (20, 30, 40, 50))
    given.save(folder / "0_0.png")
    other = measure(folders, tools).likeness["m_dino"].mean
    assert other is not None and other < 0.9999
    assert measure(folders, Tools()).likeness == {}


def test_a_result_of_other_proportions_is_refused(tmp_path: Path) -> None:
    truths = noise_folder(tmp_path / "photos", 2, 1, size=(40, 48))
    results = noise_folder(tmp_path / "r", 2, 1, size=(30, 24))
    with pytest.raises(RequestError, match=r"00\.png is 30x24, but 00 at that height is 20 wide"):
        measure(Folders(truths, results), Tools())


def test_a_set_without_truths_says_that_nothing_can_be_measured(tmp_path: Path) -> None:
    folder = draw_set(tmp_path, (1,))
    path = folder / "set.jsonl"
    row = json.loads(path.read_text())
    del row["truth"]
    path.write_text(json.dumps(row))
    report = measure(Folders(folder, tmp_path / "a"), Tools())
    assert report.rows == [] and "no sample has a photograph" in report.text()


def test_the_usability_rate_averages_verdicts_of_a_sample_first(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"
    rows = [("s0", True), ("s0", False), ("s1", True), ("s2", False), ("s2", False)]
    file.write_text("".join(json.dumps({"id": name, "usable": usable}) + "\n" for name, usable in rows))
    found = usability(file, {"s0", "s1", "s2", "s3"})
    assert (found.share, found.n) == (0.5, 3) and 0 < found.low < 0.5 < found.high < 1
    folder = draw_set(tmp_path / "s", (1, 1, 1))
    report = measure(Folders(folder, tmp_path / "s" / "a", verdicts=file), Tools())
    assert "good enough to ship: 50%" in report.text() and report.as_dict()["usable"]["n"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words", "line 1: not a verdict"),
        ('{"id": "s0"}', "line 1: not a verdict"),
        ('{"id": "s0", "usable": 1}', "usable is true or false, not 1"),
        ('\n{"id": "s9", "usable": true}', "line 2: there is no sample 's9'"),
        ("", "holds no verdicts"),
    ],
)
def test_rows_that_are_no_verdicts_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "v.jsonl").write_text(text)
    with pytest.raises(RequestError, match=said):
        usability(tmp_path / "v.jsonl", {"s0"})


def test_a_report_is_plain_json_and_the_same_twice(tmp_path: Path, tools: Tools) -> None:
    truths = noise_folder(tmp_path / "photos", 3, 1)
    results = each(truths, tmp_path / "r", shifted)
    first, second = (json.dumps(measure(Folders(truths, results), tools).as_dict()) for _ in range(2))
    assert first == second and json.loads(first)["rows"][0]["samples"] == 3
