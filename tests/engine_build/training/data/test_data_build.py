"""Builds: both real layouts, what is dropped and why, twins, and an interrupted build that ends like a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_pairs import BODY, garment, parse, person, write_dresscode, write_viton_hd
from typer.testing import CliRunner

from engine_build.errors import RequestError
from engine_build.training.data.build import BuildPlan, build
from engine_build.training.data.candidate_entry import Rules
from engine_build.training.data.entry import Entry
from engine_build.training.data.origins import Folder, World
from engine_build.training.data.pictures import opened, read_map
from engine_build.training.data.reading import Shards
from engine_build.training.data.source import ShardSource
from engine_build.training.data.twins import Seen, look
from engine_build.world.scenes import HELD_OUT_SEED
from service.cli import app

RULES = Rules(min_side=64, min_garment=64)


def entries(folder: Path) -> list[Entry]:
    """All samples of a folder of shards, in order."""
    shards = Shards(str(folder), shuffled=False)
    return [shards.entry(i) for i in range(len(shards))]


def test_viton_hd_pairs_people_with_their_own_garment_and_hides_it(tmp_path: Path) -> None:
    source = write_viton_hd(tmp_path / "viton", 3)
    report = build(Folder(source, rules=RULES), tmp_path / "out", BuildPlan())
    assert (report.seen, report.written, report.masked) == (3, 3, 3)
    for i, one in enumerate(entries(tmp_path / "out")):
        assert one.target.data == (source / "train" / "image" / f"{i:05d}_00.jpg").read_bytes()
        assert one.references[0].picture.data == (source / "train" / "cloth" / f"{i:05d}_00.jpg").read_bytes()
        assert one.references[0].category == "tops" and "the top of image 2" in one.instruction
        shown, target = (np.asarray(opened(x.data), dtype=int) for x in (one.person, one.target))
        edited = np.asarray(read_map(one.maps["edited"])) >= 128
        assert np.abs(shown[edited] - 128).max() < 40
        assert np.abs(shown[~edited] - target[~edited]).mean() < 4
        left, top, right, bottom = BODY
        assert edited[top:bottom, left:right].all() and not edited[:30].any()


def test_viton_hd_prefers_the_authors_own_masks_and_other_photos_of_the_person(tmp_path: Path) -> None:
    source = write_viton_hd(tmp_path / "viton", 2, agnostic=True)
    people = tmp_path / "people"
    people.mkdir()
    person(0, "yellow").save(people / "00000_00.png")
    build(Folder(source, people=people, rules=RULES), tmp_path / "out", BuildPlan())
    first, second = entries(tmp_path / "out")
    assert first.person.data == (people / "00000_00.png").read_bytes() and not first.masked
    assert second.person.data == (source / "train" / "agnostic-v3.2" / "00001_00.jpg").read_bytes() and second.masked


def test_dresscode_gives_each_folder_its_category_and_tells_trousers_from_skirts(tmp_path: Path) -> None:
    source = write_dresscode(tmp_path / "dresscode")
    report = build(Folder(source, rules=RULES), tmp_path / "out", BuildPlan())
    assert [one.references[0].category for one in entries(tmp_path / "out")] == ["dresses", "tops", "pants", "skirts"]
    assert report.categories == {"dresses": 1, "tops": 1, "pants": 1, "skirts": 1}
    drawn = ShardSource(Shards(str(tmp_path / "out")), 64, 32, 16).draw(range(4))
    assert {sample.target.shape for sample in drawn} == {(3, 64, 48)}
    assert all(sample.edited is not None and 0 < sample.edited.mean() < 0.5 for sample in drawn)


def test_outfits_as_changeroom_samples_writes_them(tmp_path: Path) -> None:
    from engine_build.world.sample_files import write_samples

    write_samples(tmp_path / "in" / "one", 3, 4)
    request = json.loads((tmp_path / "in" / "one" / "request.json").read_text())
    build(Folder(tmp_path / "in", rules=Rules(32, 32)), tmp_path / "out", BuildPlan())
    (one,) = entries(tmp_path / "out")
    assert [r.category for r in one.references] == [row["category"] for row in request["garments"]]
    assert one.instruction == request["instruction"] and not one.masked
    request["person"] = "../../secret.png"
    (tmp_path / "in" / "one" / "request.json").write_text(json.dumps(request))
    with pytest.raises(RequestError, match="leads out of"):
        Folder(tmp_path / "in", rules=RULES)


def test_what_is_dropped_is_named_with_its_reason(tmp_path: Path) -> None:
    source = write_viton_hd(tmp_path / "viton", 9)
    base = source / "train"
    broken = base / "image" / "00001_00.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    (base / "cloth" / "00002_00.jpg").unlink()
    person(3).resize((48, 64)).save(base / "image" / "00003_00.jpg")
    garment(4).resize((200, 64)).save(base / "cloth" / "00004_00.jpg")
    (base / "image-parse-v3" / "00005_00.png").unlink()
    parse(5, (0, 0, 2, 2)).save(base / "image-parse-v3" / "00006_00.png")
    person(0).save(base / "image" / "00007_00.jpg", quality=35)
    garment(0).resize((192, 256)).save(base / "cloth" / "00007_00.jpg", quality=50)
    report = build(Folder(source, rules=RULES), tmp_path / "out", BuildPlan())
    assert report.written == 2 and report.seen == 9
    assert {reason: tally.count for reason, tally in report.dropped.items()} == {
        "target broken": 1,
        "garment missing": 1,
        "target too small": 1,
        "garment too narrow": 1,
        "no picture to edit": 1,
        "garment not seen on the person": 1,
        "duplicate": 1,
    }
    assert report.dropped["duplicate"].examples == ["00007_00 (of 00000_00)"]
    assert "dropped, garment missing: 1: 00002_00 (00002_00.jpg)" in (tmp_path / "out" / "report.txt").read_text()
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["dropped"]["target broken"]["examples"][0].startswith("00001_00 (00001_00.jpg")


def test_a_twin_survives_recompression_and_colours_of_one_cut_are_no_twins() -> None:
    seen = Seen()
    seen.add("first", (look(person(1)), look(garment(1))))
    for quality in (90, 60, 30):
        again = []
        for image in (person(1), garment(1)):
            again.append(look(_recompressed(image.resize((144, 192)), quality)))
        assert seen.twin(tuple(again)) == "first"
    recoloured = (look(person(1, "#204080")), look(garment(1, "#204080")))
    assert seen.twin(recoloured) is None
    assert all(seen.twin((look(person(i)), look(garment(i)))) is None for i in range(2, 40))


def _recompressed(image: Image.Image, quality: int) -> Image.Image:
    import io

    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return opened(stream.getvalue())


def test_private_metadata_does_not_reach_a_shard(tmp_path: Path) -> None:
    source = write_viton_hd(tmp_path / "viton", 1)
    exif = Image.Exif()
    exif[0x010E] = "Anna's phone, 52.5 N 13.4 E"
    person(0).save(source / "train" / "image" / "00000_00.jpg", exif=exif, quality=95)
    build(Folder(source, rules=RULES), tmp_path / "out", BuildPlan())
    assert b"Anna" not in (tmp_path / "out" / "shard-000000.tar").read_bytes()


class Interrupted(Exception):
    """What stops a build in these tests."""


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_an_interrupted_build_ends_like_a_whole_one(tmp_path: Path, stop: int) -> None:
    source = write_viton_hd(tmp_path / "viton", 8)
    for name, image in (("image", person(1)), ("cloth", garment(1))):
        image.save(source / "train" / name / "00006_00.jpg", quality=60)
    (source / "train" / "cloth" / "00002_00.jpg").unlink()
    plan = BuildPlan(shard_samples=2)
    build(Folder(source, rules=RULES), tmp_path / "whole", plan)

    def halt(done: int, total: int) -> None:
        if done == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        build(Folder(source, rules=RULES), tmp_path / "parts", plan, progress=halt)
    assert not list((tmp_path / "parts").glob(".*"))
    if (tmp_path / "parts" / "build.json").exists():
        with pytest.raises(RequestError, match="--resume"):
            build(Folder(source, rules=RULES), tmp_path / "parts", plan)
    with_other_rules = Folder(source, rules=Rules(32, 32))
    if stop > 2:
        with pytest.raises(RequestError, match="other options"):
            build(with_other_rules, tmp_path / "parts", plan, resume=True)
    build(Folder(source, rules=RULES), tmp_path / "parts", plan, resume=True)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == whole
    with pytest.raises(RequestError, match="finished"):
        build(Folder(source, rules=RULES), tmp_path / "parts", plan, resume=True)


def test_an_interrupted_build_of_the_world_too(tmp_path: Path) -> None:
    def halt(done: int, total: int) -> None:
        if done == 5:
            raise Interrupted

    world, plan = World("try-ons", 6, 0, 48, 24), BuildPlan(shard_samples=4)
    build(world, tmp_path / "whole", plan)
    with pytest.raises(Interrupted):
        build(world, tmp_path / "parts", plan, progress=halt)
    build(world, tmp_path / "parts", plan, resume=True)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_scenes_kept_for_evaluation_are_not_built() -> None:
    last = HELD_OUT_SEED // 64
    assert World("try-ons", 10, last - 10).total == 10
    with pytest.raises(RequestError, match="kept for evaluation"):
        World("try-ons", 10, last - 9)


def test_the_command_builds_inspects_and_says_what_is_wrong(tmp_path: Path) -> None:
    source, out = write_viton_hd(tmp_path / "viton", 2), tmp_path / "out"
    run = CliRunner().invoke
    built = run(app, ["data", "build", str(out), "--from", str(source), "--min-side", "64", "--min-garment", "64"])
    assert built.exit_code == 0, built.output
    assert "seen 2, written 2 in 1 shards" in built.output
    looked = run(app, ["data", "inspect", str(out), "--every", "--json", str(tmp_path / "found.json")])
    assert looked.exit_code == 0 and "2 samples in 1 shards" in looked.output
    assert json.loads((tmp_path / "found.json").read_text())["categories"] == {"tops": 2}
    none_left = run(app, ["data", "build", str(tmp_path / "none"), "--from", str(source)])
    assert none_left.exit_code == 1 and "no sample was left" in none_left.output
    assert "target too small: 2" in none_left.output
    assert run(app, ["data", "build", str(out)]).exit_code == 2
    elsewhere = run(app, ["data", "build", str(tmp_path / "x"), "--from", str(tmp_path)])
    assert elsewhere.exit_code == 1 and "none of the known layouts" in elsewhere.output
