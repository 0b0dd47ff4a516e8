"""The page on the real gateway, queue and worker; the engine only answers with the person's own picture."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from selenium.webdriver.common.keys import Keys
from studio_page import StudioPage

pytestmark = pytest.mark.browser

NAMED = {"button", "textbox", "combobox", "slider", "link", "spinbutton", "img", "progressbar", "table"}


def filled(page: StudioPage, url: str, photos: Path) -> None:
    page.open(url)
    page.choose_person(photos / "person.jpg")
    page.add_garments(photos / "top.png", photos / "coat.png")


def unnamed(page: StudioPage) -> list[str]:
    """Roles of visible controls a screen reader would have no name for."""
    tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [n for n in tree if not n.get("ignored") and n.get("role", {}).get("value") in NAMED]
    assert controls
    return [n["role"]["value"] for n in controls if not n.get("name", {}).get("value", "").strip()]


def test_upload_progress_result(page: StudioPage, service_url: str, photos: Path) -> None:
    filled(page, service_url, photos)
    page.complaints()
    page.pick(0, "category", "tops")
    page.pick(0, "layer", "tucked in")
    page.pick(1, "category", "coats")
    page.pick(1, "layer", "open")
    page.at("words").send_keys("avant le café")
    page.all("#advanced summary")[0].click()
    page.at("seed").send_keys("42")
    page.record()
    page.go()
    assert page.wait_for("done", "problem") == "done"
    steps = [(line, value) for line, value in page.heard() if "step" in line]
    assert ("Painting step 3 of 6", "0.5") in steps
    assert len({line for line, _ in steps}) >= 3

    assert page.drawn("after") and page.drawn("before")
    assert page.text("caption") == "600 \u00d7 800 pixels"
    told = page.text("instruction")
    assert "top of image 2 tucked in" in told
    assert "coat of image 3 open, revealing the top" in told
    assert "avant le café" in told
    assert "Written by the built-in grammar." in page.text("instruction-by")
    facts = page.text("facts")
    assert "Seed42" in facts and "Modelnull" in facts
    rows = [row.text for row in page.all("#timings tr")]
    assert any("Painting" in row and " s" in row for row in rows), rows
    assert any("Seen from this page" in row for row in rows)
    assert page.text("announce").startswith("Your picture is ready")
    assert page.at("download").get_attribute("download").endswith(".jpg")
    assert page.complaints() == []

    width = page.at("compare").rect["width"]
    page.run("arguments[0].focus()", page.at("slider"))
    page.press(Keys.END)
    assert page.at("slider").get_attribute("aria-valuetext") == "100% original, 0% result"
    page.press(Keys.ARROW_LEFT)
    assert page.at("slider").get_attribute("aria-valuetext") == "99% original, 1% result"
    assert width > 200


def test_a_category_is_read_whole_while_there_is_no_layer_to_choose(
    page: StudioPage, service_url: str, photos: Path
) -> None:
    for width, mobile in ((1280, False), (390, True)):
        page.resize(width, 900, mobile=mobile)
        filled(page, service_url, photos)
        choices, category = page.all("#garments .choices")[0], page.all("#garments .category")[0]
        assert category.rect["width"] == pytest.approx(choices.rect["width"], abs=1)
        page.pick(0, "category", "tops")
        assert category.rect["width"] < choices.rect["width"] / 2


def test_a_reload_finds_the_result_again(page: StudioPage, service_url: str, photos: Path) -> None:
    filled(page, service_url, photos)
    page.go()
    page.until(lambda: "#try-on=" in page.browser.current_url)
    page.browser.refresh()
    assert page.wait_for("done", "problem") == "done"
    assert page.drawn("after")
    assert not page.at("slider").is_displayed()


def test_text_named_jpg_is_refused_in_words_and_nothing_is_lost(
    page: StudioPage, service_url: str, photos: Path
) -> None:
    page.open(service_url)
    page.choose_person(photos / "not-a-picture.jpg")
    page.add_garments(photos / "top.png")
    page.go()
    assert page.wait_for("problem", "done") == "problem"
    assert page.at("problem").get_attribute("role") == "alert"
    assert page.text("problem-title")
    assert page.text("problem-detail").startswith("Person: This file is not a picture")
    assert not page.at("again").is_displayed()
    assert len(page.all("#garments .garment")) == 1
    assert [one.get_attribute("id") for one in page.all(".refused")] == ["person-drop"]

    page.choose_person(photos / "person.jpg")
    assert not page.all(".refused")
    page.add_garments(photos / "not-a-picture.jpg")
    page.go()
    assert page.wait_for("problem", "done") == "problem"
    assert page.text("problem-detail").startswith("Garment 2: This file is not a picture")
    assert [one in page.all(".refused") for one in page.all("#garments .garment")] == [False, True]
    page.all("#garments .remove")[1].click()
    page.go()
    assert page.wait_for("done", "problem") == "done"


def test_what_is_missing_is_said_and_focused(page: StudioPage, service_url: str, photos: Path) -> None:
    page.open(service_url)
    page.go()
    assert page.state == "problem"
    assert page.text("problem-title") == "A person is missing"
    assert page.focused().get_attribute("id") == "person-input"
    page.choose_person(photos / "person.jpg")
    page.go()
    assert page.text("problem-title") == "A garment is missing"
    assert page.focused().get_attribute("id") == "garment-input"


def test_cancel_stops_a_running_job(page: StudioPage, service_url: str, photos: Path) -> None:
    filled(page, service_url, photos)
    page.record(cancel_at="step 1")
    page.go()
    page.until(lambda: page.text("announce") == "Canceled. Nothing was made.")
    assert page.wait_for("empty", "done", "problem") == "empty"
    assert page.at("go").is_displayed()


def test_the_seventh_garment_is_refused(page: StudioPage, service_url: str, photos: Path) -> None:
    page.open(service_url)
    page.add_garments(*[photos / "top.png"] * 7)
    assert len(page.all("#garments .garment")) == 6
    assert page.text("problem-title") == "The rail is full"
    assert not page.at("garment-input").is_enabled()
    page.all("#garments .remove")[0].click()
    assert page.text("garment-count") == "5"
    assert page.at("garment-input").is_enabled()


def test_pictures_can_be_dropped(page: StudioPage, service_url: str) -> None:
    page.open(service_url)
    page.run(
        """
        const bytes = Uint8Array.from([1, 2, 3]);
        for (const [zone, name] of [["person-drop", "p.png"], ["garment-drop", "g.png"]]) {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
          const options = { dataTransfer, bubbles: true, cancelable: true };
          document.getElementById(zone).dispatchEvent(new DragEvent("drop", options));
        }
        """
    )
    assert page.text("garment-count") == "1"
    page.until(lambda: page.text("person-unseen") == "p.png cannot be previewed here, but it can be sent")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_only_down(page: StudioPage, service_url: str, photos: Path, width: int) -> None:
    page.resize(width, 844, mobile=True)
    page.open(service_url)
    assert page.overflow() <= 0
    page.go()
    assert page.state == "problem" and page.overflow() <= 0
    page.choose_person(photos / "person.jpg")
    page.add_garments(photos / "top.png", photos / "coat.png")
    page.pick(0, "category", "tops")
    page.pick(1, "category", "coats")
    page.run("document.getElementById('advanced').open = true")
    assert page.overflow() <= 0
    page.go()
    page.until(lambda: page.text("now-detail").startswith("step"))
    assert page.overflow() <= 0
    assert page.wait_for("done", "problem") == "done"
    assert page.overflow() <= 0
    small = [
        (control.get_attribute("id") or control.get_attribute("class"), control.rect)
        for control in page.all("button, select, textarea, input, summary, a.primary")
        if control.is_displayed() and min(control.rect["width"], control.rect["height"]) < 40
    ]
    assert small == [], "too small for a finger"


def test_every_control_has_a_name(page: StudioPage, service_url: str, photos: Path) -> None:
    filled(page, service_url, photos)
    page.run("document.getElementById('advanced').open = true")
    assert unnamed(page) == []
    page.go()
    page.until(lambda: page.text("now-detail").startswith("step"))
    assert unnamed(page) == []
    page.wait_for("done")
    assert unnamed(page) == []


def test_a_result_outlives_a_complaint_and_erase_removes_it_from_the_server(
    page: StudioPage, service_url: str, photos: Path
) -> None:
    filled(page, service_url, photos)
    page.go()
    assert page.wait_for("done", "problem") == "done"
    page.add_garments(photos / "not-a-picture.jpg", *[photos / "top.png"] * 6)
    assert page.text("problem-title") == "The rail is full"
    page.all("#sample-people .sample")[0].click()
    page.until(lambda: page.state == "done")

    address = page.browser.current_url.replace("#try-on=", "v1/try-ons/")
    assert httpx.get(address, trust_env=False).status_code == 200
    page.at("erase").click()
    page.until(lambda: page.state == "empty")
    assert page.text("empty-title") == "Erased: its pictures are deleted, its words can no longer be read."
    assert httpx.get(address, trust_env=False).status_code == 410
    assert "#" not in page.browser.current_url
