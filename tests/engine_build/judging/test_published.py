"""The published tables from scores of single samples: Overall is the mean of the samples' geometric means.

The scores of single samples were never published. published.json holds made-up ones, 1,000 a table, whose columns have
the published means to three digits; what they show is which rule gives the published Overall and which does not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine_build.judging.journal import Header, Row, Writer
from engine_build.judging.report import report
from engine_build.judging.scores import DIMENSIONS

TABLES: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text())


def journal_of(folder: Path, rows: list[list[int]]) -> Path:
    """A journal whose samples have these scores, as answers to the two questions."""
    scores = [row[:4] for row in rows for _ in range(row[4])]
    asked: list[Row] = [
        {"kind": "sample", "id": f"s{i}", "references": [{"category": "tops", "sub_style": ""}], "instruction": ""}
        for i in range(len(scores))
    ]
    answers = []
    for i, (identity, garment, background, physics) in enumerate(scores):
        common = {"kind": "answer", "sample": f"s{i}", "variant": "as it is", "repeat": 0, "requests": 1}
        common |= {"tokens": [0, 0], "served": "", "at": "", "results": ""}
        worn = {"identity": identity, "garments": [{"image": 2, "score": garment}]}
        place = {"background_kind": "plain", "background": background, "limbs": "fine", "physics": physics}
        answers += [{**common, "call": "worn", "key": f"w{i}", "form": worn}]
        answers += [{**common, "call": "place", "key": f"p{i}", "form": place}]
    with Writer(folder, Header("words", {"model": "published"}, "set", "set"), asked) as writer:
        path = writer.journal.path
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in answers))
    return folder


@pytest.mark.parametrize("table", TABLES)
def test_the_mean_of_geometric_means_gives_the_published_overall(tmp_path: Path, table: str) -> None:
    published = TABLES[table]["published"]
    value = report([journal_of(tmp_path, TABLES[table]["rows"])]).value["judged"][0]
    found = {name: row["mean"] for name, row in value["figures"].items()}
    assert {name: round(mean, 3) for name, mean in found.items()} == published
    assert value["figures"]["overall"]["coverage"] == 1 and value["samples"] == 1000
    of_columns = math.prod(published[name] for name in DIMENSIONS) ** 0.25
    assert of_columns - published["overall"] > 0.07, "the geometric mean of the columns is another number"
