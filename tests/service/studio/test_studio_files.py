"""The page's files without a browser: no outside asset, no inline code, readable colours, shared words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import service.gateway
from engine_build.instruction import CATEGORIES, LAYER_WORDS, MAX_GARMENTS

STUDIO = Path(service.gateway.__file__).parent / "studio"
OUTSIDE = re.compile(r"https?://|(?<![:\w])//[a-z]")
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'


class Tags(HTMLParser):
    """Every tag with its attributes, and the text inside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def page() -> list[tuple[str, dict[str, str | None]]]:
    return Tags((STUDIO / "index.html").read_text()).seen


@pytest.mark.parametrize("name", sorted(p.name for p in STUDIO.iterdir() if p.is_file()))
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    text = (STUDIO / name).read_text().replace(NAMESPACE, "")
    code = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    assert OUTSIDE.findall(code) == []


def test_words_stay_apart_where_a_line_break_is_left_out() -> None:
    """A phone hides some breaks."""
    assert not re.search(r"[^\s>]<br>", (STUDIO / "index.html").read_text())


def test_no_inline_script_or_style() -> None:
    for tag, attributes in page():
        assert tag != "style"
        assert "style" not in attributes
        assert tag != "script" or attributes.get("src", "").startswith("/studio/")
        assert not [name for name in attributes if name.startswith("on")]


def test_every_module_that_is_imported_exists() -> None:
    for path in STUDIO.glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', path.read_text()):
            assert (STUDIO / name).is_file(), f"{path.name} imports {name}"


def test_ids_are_unique_and_labels_point_somewhere() -> None:
    ids = [attributes["id"] for _, attributes in page() if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page():
        for name in ("for", "aria-labelledby", "aria-describedby"):
            for target in (attributes.get(name) or "").split():
                assert target in ids, f"{name}={target}"


def test_the_page_knows_the_layers_of_the_grammar() -> None:
    source = (STUDIO / "wording.js").read_text()
    found = re.search(r"export const LAYERS = (\{.*?\n\});", source, re.DOTALL)
    assert found is not None
    layers = {category: tuple(words) for category, words in json.loads(found[1]).items()}
    assert layers == dict(LAYER_WORDS)
    assert set(layers) == set(CATEGORIES)


def test_the_page_knows_how_many_garments_a_try_on_takes() -> None:
    text = (STUDIO / "index.html").read_text()
    in_words = {6: "six"}[MAX_GARMENTS]
    assert re.findall(r"export const MOST = (\d+);", (STUDIO / "garments.js").read_text()) == [str(MAX_GARMENTS)]
    assert re.findall(r"up to (\w+) garments", text) == [in_words, in_words]
    assert re.findall(r'id="garment-count">0</span> of (\d+)<', text) == [str(MAX_GARMENTS)]


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(scheme: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", (STUDIO / "style.css").read_text(), re.DOTALL)
    used = colours(light) | (colours(dark) if scheme == "dark" else {})
    for front in ("ink", "soft", "accent"):
        for back in ("paper", "card", "sunk"):
            assert contrast(used[front], used[back]) >= 4.5, (front, back)
    assert contrast(used["on-accent"], used["accent"]) >= 4.5
    assert contrast(used["on-accent"], used["accent-deep"]) >= 4.5
    for front in ("ink", "bad", "soft"):
        assert contrast(used[front], used["bad-paper"]) >= 4.5, front
    assert contrast(used["edge"], used["card"]) >= 3, "borders of fields"
