"""Sets from wherever they are kept: a manifest, folders of others, requests of the world, the world itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from real_pairs import garment, person, write_dresscode, write_viton_hd
from scripted_judge import write_set

from engine_build.errors import RequestError
from engine_build.judging.folders import DRAWN
from engine_build.judging.samples import identifier
from engine_build.judging.sets import Picture, load_set
from engine_build.world.sample_files import write_samples


def size(picture: Picture | None) -> tuple[int, int]:
    assert picture is not None
    return Image.open(io.BytesIO(picture.data())).size


def test_a_manifest_says_all_there_is_and_the_grammar_the_rest(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    rows = [json.loads(line) for line in (folder / "set.jsonl").read_text().splitlines()]
    del rows[2]["instruction"]
    rows[2]["truth"] = "person-2.png"
    rows[2]["references"][2] |= {"layer": "open", "category": "coats"}
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for said in (str(folder), str(folder / "set.jsonl")):
        judged = load_set(said)
        assert [sample.id for sample in judged.samples] == ["s000", "s001", "s002"]
        one = judged.samples[2]
        assert one.instruction.endswith("pants of image 3 and the coat of image 4 open, revealing the top.")
        assert [(r.category, r.sub_style) for r in one.references][:2] == [("tops", "style 0"), ("pants", "style 1")]
        assert size(one.truth) == size(one.references[0].picture) == (32, 32) and judged.samples[0].truth is None
        assert one.result_in(tmp_path) == tmp_path / "s002.png"
    assert load_set(str(folder), limit=2).samples == judged.samples[:2]
    before = load_set(str(folder)).digest
    rows[0]["references"][0]["category"] = "hats"
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_set(str(folder)).digest != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a/b"}, "cannot name a file"),
        ({"id": "s001"}, "two samples have the id 's001'"),
        ({"references": []}, "has no reference|1 to 6 garments"),
        ({"person": "../p.png"}, "leads out of"),
        ({"references": [{"file": "x.png"}]}, "line 1: not a sample"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    folder = write_set(tmp_path / "set", 2)
    rows = [json.loads(line) for line in (folder / "set.jsonl").read_text().splitlines()]
    (folder / "set.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ({**rows[0], **row}, rows[1])))
    with pytest.raises(RequestError, match=message):
        load_set(str(folder))


def test_viton_hd_in_both_pairings(tmp_path: Path) -> None:
    folder = write_viton_hd(tmp_path / "viton", 3)
    unpaired = load_set(str(folder), split="train")
    assert [sample.id for sample in unpaired.samples] == ["00000_00", "00001_00", "00002_00"]
    first = unpaired.samples[0]
    assert first.references[0].picture.path == folder / "train" / "cloth" / "00001_00.jpg" and first.truth is None
    assert "wearing the top of image 2." in first.instruction
    paired = load_set(str(folder), split="train", pairs="paired").samples[0]
    assert paired.references[0].picture.path == folder / "train" / "cloth" / "00000_00.jpg"
    assert paired.truth == paired.person and size(paired.person) == (96, 128)
    (folder / "train_pairs.txt").unlink()
    assert len(load_set(str(folder), split="train", pairs="paired").samples) == 3
    with pytest.raises(RequestError, match="no list that pairs people"):
        load_set(str(folder), split="train")
    with pytest.raises(RequestError, match=r"also tried .*viton/test"):
        load_set(str(tmp_path / "viton"), split="test")
    with pytest.raises(RequestError, match="unpaired or paired"):
        load_set(str(folder), pairs="both")


def test_dresscode_part_by_part(tmp_path: Path) -> None:
    folder = write_dresscode(tmp_path / "dresscode")
    (folder / "dresses" / "test_pairs_unpaired.txt").write_text("000000_0.jpg 000009_1.jpg\n")
    person(9).save(folder / "dresses" / "images" / "000009_0.jpg")
    garment(9).save(folder / "dresses" / "images" / "000009_1.jpg")
    for part in ("upper_body", "lower_body"):
        (folder / part / "train_pairs.txt").rename(folder / part / "test_pairs.txt")
    unpaired = load_set(str(folder))
    assert [sample.id for sample in unpaired.samples][:2] == ["dresses-000000_0", "upper_body-000001_0"]
    assert unpaired.samples[0].references[0].picture.path == folder / "dresses" / "images" / "000009_1.jpg"
    assert [sample.references[0].category for sample in unpaired.samples] == ["dresses", "tops", "auto", "auto"]


def test_the_world_and_its_samples_are_the_same_scene(tmp_path: Path) -> None:
    judged = load_set("world:8")
    assert [len(sample.references) for sample in judged.samples] == [1, 2, 3, 4, 5, 6, 1, 2]
    assert {len(sample.references) for sample in load_set("world:4:3:128").samples} == {3}
    assert size(load_set("world:1:3:128").samples[0].person) == (96, 128)
    write_samples(tmp_path / "one", seed=2, garments=3)
    (one,) = load_set(str(tmp_path / "one")).samples
    (other,) = load_set(str(tmp_path)).samples
    drawn = judged.samples[2]
    assert one.id == other.id == "one" and one.facts == drawn.facts == {DRAWN: (2, 3)}
    assert one.instruction == drawn.instruction
    for ours, theirs in ((one.person, drawn.person), (one.truth, drawn.truth)):
        assert ours is not None and theirs is not None
        assert Image.open(io.BytesIO(ours.data())).tobytes() == Image.open(io.BytesIO(theirs.data())).tobytes()
    assert [r.layer for r in one.references] == [r.layer for r in drawn.references]
    for said in ("world:", "world:3:9", "world:3:1:97", "world:x"):
        with pytest.raises(RequestError, match="world:"):
            load_set(said)
    with pytest.raises(RequestError, match="holds no samples"):
        load_set("world:0")


def test_identifiers_can_name_files() -> None:
    assert identifier("dresses/12 a.jpg") == "dresses-12-a.jpg" and identifier("..") == "sample"
