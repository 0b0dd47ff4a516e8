"""Parquet by the user's own table: lists, structs and single columns; what is missing is said with what is there."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow.parquet import write_table

from engine_build.errors import RequestError
from engine_build.judging.sets import Picture, load_set

LISTS = """
[columns]
id = "sample"
person = "model.image"
instruction = "prompt"
truth = "answer"
[references]
pictures = "items.picture"
categories = "items.kind"
sub_styles = "items.style"
[categories]
upper = "tops"
"""


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 32), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


def level(picture: Picture | None) -> Any:
    assert picture is not None
    value = Image.open(io.BytesIO(picture.data())).convert("L").getpixel((0, 0))
    return value


def written(path: Path, rows: list[dict[str, Any]], table: str, **how: Any) -> tuple[str, Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.Table.from_pylist(rows), path, **how)
    columns = path.parent / "columns.toml"
    columns.write_text(table)
    return str(path), columns


def in_lists(number: int) -> dict[str, Any]:
    items = [
        {"picture": {"bytes": png(100 + 10 * number + i), "path": None}, "kind": kind, "style": f"style {i}"}
        for i, kind in enumerate(("upper", "sunglasses")[: 1 + number % 2])
    ]
    return {
        "sample": f"case {number}",
        "model": {"image": png(number), "age": 3},
        "prompt": f"put it on, {number}" if number else None,
        "items": items,
        "answer": png(200 + number),
        "unused": b"x" * 100,
    }


def test_lists_of_structs_over_several_row_groups(tmp_path: Path) -> None:
    said, columns = written(tmp_path / "set" / "a.parquet", [in_lists(i) for i in range(7)], LISTS, row_group_size=2)
    for name in (said, str(tmp_path / "set")):
        judged = load_set(name, columns=columns)
        assert [sample.id for sample in judged.samples] == [f"case-{i}" for i in range(7)]
        one = judged.samples[5]
        assert [(r.category, r.sub_style) for r in one.references] == [("tops", "style 0"), ("sunglasses", "style 1")]
        assert [level(r.picture) for r in one.references] == [150, 151]
        assert (level(one.person), level(one.truth), one.instruction) == (5, 205, "put it on, 5")
        assert judged.samples[0].instruction.endswith("wearing the top of image 2.")


def test_a_column_for_each_reference_and_pictures_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "me.png").write_bytes(png(9))
    rows = [
        {"p": "pictures/me.png", "a": png(1), "a_kind": "coats", "b": None},
        {"p": "pictures/me.png", "a": png(2), "a_kind": "skirts", "b": png(3)},
        {"p": "../me.png", "a": png(2), "a_kind": "skirts", "b": png(3)},
    ]
    table = """
    columns = { person = "p" }
    [[reference]]
    picture = "a"
    category = "a_kind"
    [[reference]]
    picture = "b"
    category_is = "hats"
    """
    said, columns = written(tmp_path / "x.parquet", rows, table)
    judged = load_set(said, columns=columns)
    assert [[r.category for r in sample.references] for sample in judged.samples[:2]] == [["coats"], ["skirts", "hats"]]
    assert [sample.id for sample in judged.samples][:2] == ["row-00000", "row-00001"]
    assert level(judged.samples[1].references[1].picture) == 3 and level(judged.samples[0].person) == 9
    with pytest.raises(RequestError, match="leads out of"):
        judged.samples[2].person.data()


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, columns = written(tmp_path / "c.parquet", [in_lists(0)], LISTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RequestError, match=r"pip install 'changeroom\[judge\]'"):
        load_set(said, columns=columns)


def test_what_is_missing_is_said_with_what_is_there(tmp_path: Path) -> None:
    found = r"found sample \(string\), model \(struct<image: binary, age: int64>\), prompt \(string\), items \(list<"
    said, columns = written(tmp_path / "a.parquet", [in_lists(i) for i in range(2)], LISTS)
    with pytest.raises(RequestError, match=rf"--columns FILE\.toml; {found}"):
        load_set(said)
    for wrong, right in (("model.photo", "model.image"), ("garments.kind", "items.kind")):
        columns.write_text(LISTS.replace(right, wrong))
        with pytest.raises(RequestError, match=rf"has no column '{wrong}'; {found}"):
            load_set(said, columns=columns)
    for table, message in (
        ('[columns]\nperson = "model.image"', "either .references. with pictures and categories"),
        (LISTS.replace("[references]", "[refs]"), "unknown refs"),
        (LISTS.replace("sub_styles", "styles"), "unknown styles"),
        ("[columns", "columns.toml"),
    ):
        columns.write_text(table)
        with pytest.raises(RequestError, match=message):
            load_set(said, columns=columns)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    columns.write_text(LISTS)
    with pytest.raises(RequestError, match="cannot be read as parquet"):
        load_set(str(tmp_path / "b.parquet"), columns=columns)
