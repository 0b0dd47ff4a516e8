"""The gallery: one click for a whole look, and a try-on with nothing but a keyboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from studio_page import StudioPage

import service.gateway
from engine_build.instruction import CATEGORIES, LAYER_WORDS

SAMPLES = Path(service.gateway.__file__).parent / "studio" / "samples"
MOST_TABS = 80
RING = """
const shown = (element) => element && getComputedStyle(element).outlineStyle !== "none";
const at = arguments[0];
return shown(at) || shown(at.closest("label")) || shown(at.parentElement.querySelector(".handle svg"));
"""


def tab_to(page: StudioPage, wanted: Callable[[WebElement], bool]) -> WebElement:
    """Press Tab until `wanted` has the focus; every stop on the way must show that it has it."""
    for _ in range(MOST_TABS):
        page.press(Keys.TAB)
        element = page.focused()
        if element.tag_name == "body":
            continue
        assert page.run(RING, element), f"no focus ring on {element.get_attribute('outerHTML')[:120]}"
        if wanted(element):
            return element
    raise AssertionError("not reachable by Tab")


def inside(container: str) -> Callable[[WebElement], bool]:
    return lambda element: element.find_element("xpath", "..").get_attribute("id") == container


def named(element_id: str) -> Callable[[WebElement], bool]:
    return lambda element: element.get_attribute("id") == element_id


def test_every_sample_exists_and_is_described() -> None:
    manifest = json.loads((SAMPLES / "manifest.json").read_text())
    people = {entry["file"] for entry in manifest["people"]}
    categories = {entry["file"]: entry["category"] for entry in manifest["garments"]}
    assert people and categories and manifest["outfits"]
    for entry in [*manifest["people"], *manifest["garments"]]:
        assert entry["label"]
        with Image.open(SAMPLES / entry["file"]) as picture:
            picture.verify()
    assert set(categories.values()) <= set(CATEGORIES)
    for outfit in manifest["outfits"]:
        assert outfit["person"] in people
        assert 1 <= len(outfit["garments"]) <= 6
        for garment in outfit["garments"]:
            layer = garment.get("layer")
            assert layer is None or layer in LAYER_WORDS[categories[garment["file"]]]


@pytest.mark.browser
def test_one_click_dresses_a_whole_look(page: StudioPage, service_url: str) -> None:
    page.open(service_url)
    page.until(lambda: page.all(".outfit"))
    outfit = json.loads((SAMPLES / "manifest.json").read_text())["outfits"][0]
    page.all(".outfit")[0].click()
    assert page.wait_for("done", "problem") == "done"
    assert page.drawn("after") and page.drawn("before")
    assert len(page.all("#garments .garment")) == len(outfit["garments"])
    assert len(page.all('#sample-people [aria-pressed="true"]')) == 1


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_nano_dresses_a_sample_with_previews(page: StudioPage, nano_url: str) -> None:
    page.open(nano_url)
    page.until(lambda: page.text("model-name").startswith("nano"))
    assert "illustrated" in page.text("model-note")
    page.until(lambda: page.all(".outfit"))
    page.record()
    page.all(".outfit")[0].click()
    assert page.wait_for("done", "problem") == "done"
    assert any(line.startswith("Painting step") for line, _ in page.heard())
    assert str(page.at("preview").get_attribute("src")).startswith("data:image/")
    assert page.text("caption").endswith("pixels, shown enlarged")
    assert page.at("download").get_attribute("download").endswith(".png")
    rows = {row.get_attribute("title") for row in page.all("#timings tr")}
    assert {"queue", "denoise", "vae_decode"} <= rows


@pytest.mark.browser
def test_sample_garments_are_hung_and_taken_off(page: StudioPage, service_url: str) -> None:
    page.open(service_url)
    page.until(lambda: page.all("#sample-garments .sample"))
    first = page.all("#sample-garments .sample")[0]
    first.click()
    page.until(lambda: first.get_attribute("aria-pressed") == "true")
    assert page.text("garment-count") == "1"
    first.click()
    page.until(lambda: first.get_attribute("aria-pressed") == "false")
    assert page.text("garment-count") == "0"


@pytest.mark.browser
def test_a_try_on_with_nothing_but_a_keyboard(page: StudioPage, service_url: str) -> None:
    page.open(service_url)
    page.until(lambda: page.all("#sample-garments .sample"))
    tab_to(page, inside("sample-people"))
    page.press(Keys.ENTER)
    page.until(lambda: page.all('#sample-people [aria-pressed="true"]'))
    tab_to(page, inside("sample-garments"))
    page.press(Keys.SPACE)
    page.until(lambda: page.all('#sample-garments [aria-pressed="true"]'))
    tab_to(page, named("words"))
    page.press("summer")
    tab_to(page, named("go"))
    page.press(Keys.ENTER)
    assert page.wait_for("done", "problem") == "done"
    tab_to(page, named("slider"))
    page.press(Keys.ARROW_RIGHT)
    assert page.at("slider").get_attribute("value") == "51"
    tab_to(page, named("download"))
