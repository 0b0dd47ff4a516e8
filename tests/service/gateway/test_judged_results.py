"""Results for judging, made through the real gateway: what it is sent is what the set asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gateway_live import Live
from PIL import Image
from scripted_judge import write_set

from engine_build.judging import generating
from engine_build.judging.generating import Service, generate
from engine_build.judging.sets import load_set
from service.gateway.shapes.request import CATEGORIES


def test_the_service_words_a_drawn_scene_as_the_set_does(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, seen, real = load_set("world:12"), {}, generating._job

    def job(answer: Any, expected: tuple[int, ...]) -> dict[str, Any]:
        view = real(answer, expected)
        seen[view["id"]] = view
        return view

    monkeypatch.setattr(generating, "_job", job)
    made = generate(judged, tmp_path, Service(live.url, seed=3))
    assert (made.made, made.failed) == (12, {})
    assert sorted(view["instruction"]["text"] for view in seen.values()) == sorted(
        s.instruction for s in judged.samples
    )
    assert {view["seed"] for view in seen.values()} == {3}
    for sample in judged.samples:
        with Image.open(sample.result_in(tmp_path)) as image:
            assert image.format == "PNG"


def test_categories_the_service_does_not_know_are_sent_as_any_garment(live: Live, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    text = (folder / "set.jsonl").read_text()
    (folder / "set.jsonl").write_text(text.replace('"tops"', '"sunglasses"'))
    assert "sunglasses" not in CATEGORIES
    made = generate(load_set(str(folder)), folder / "made", Service(live.url, steps=2, size="96x128"))
    assert (made.made, made.failed) == (2, {})
    with Image.open(folder / "made" / "s000.png") as image:
        assert image.size == (96, 128)
