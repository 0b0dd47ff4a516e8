"""A person votes by keyboard in a real Chromium, goes away, comes back, saves; the votes are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count as count_up
from pathlib import Path
from typing import Any

import pytest
from drawn_set import draw_set
from headless import launch
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from engine_build.judging.people.page import PagePlan, make_page
from engine_build.judging.people.votes import count
from engine_build.judging.sets import load_set

pytestmark = pytest.mark.browser
COUNTS = (1, 2, 3, 6)
SEEDS = count_up(7)
"""Each test has a page of its own: the browser is shared, and with it what pages keep."""
PATIENCE_S = 45.0
VOTE_KEYS = {"left": Keys.ARROW_LEFT, "same": Keys.ARROW_DOWN, "right": Keys.ARROW_RIGHT}


class Voter:
    """One person before the page."""

    def __init__(self, browser: webdriver.Chrome, file: Path) -> None:
        self.browser = browser
        self.file = file

    def open(self) -> None:
        self.browser.get(self.file.as_uri())

    def come_back(self, count: str) -> None:
        """Open the page anew until it says `count`: Chromium hands on what a page kept a moment after the page did."""

        def opened(_: object) -> bool:
            self.open()
            return self.text("count") == count

        WebDriverWait(self.browser, PATIENCE_S, poll_frequency=0.1).until(opened)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def text(self, element: str) -> str:
        return self.browser.find_element(By.ID, element).text

    def see(self, element: str) -> bool:
        return self.browser.find_element(By.ID, element).is_displayed()

    def resize(self, width: int, height: int, mobile: bool) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def wait_for_pictures(self) -> None:
        drawn = "return [...document.querySelectorAll('#trial img')].every((one) => one.naturalWidth > 0)"
        WebDriverWait(self.browser, PATIENCE_S, poll_frequency=0.1).until(lambda it: it.execute_script(drawn))

    def complaints(self) -> list[str]:
        levels = ("SEVERE", "WARNING")
        return [line["message"] for line in self.browser.get_log("browser") if line["level"] in levels]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with launch(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def key(tmp_path: Path) -> dict[str, Any]:
    """The key of tmp_path/page.html, which also asks what is good enough to ship."""
    draw_set(tmp_path, COUNTS)
    samples, plan = load_set(str(tmp_path / "set")).samples, PagePlan(next(SEEDS), ship=True)
    made = make_page(samples, tmp_path / "a", tmp_path / "b", plan)
    (tmp_path / "page.html").write_text(made.html, encoding="utf-8")
    (tmp_path / "page.key.json").write_text(json.dumps(made.key))
    return made.key


@pytest.fixture
def voter(chromium: webdriver.Chrome, key: dict[str, Any], tmp_path: Path) -> Voter:
    folder = {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    found = Voter(chromium, tmp_path / "page.html")
    found.resize(1366, 768, mobile=False)
    found.open()
    return found


def saved(folder: Path) -> Path:
    def whole() -> Path | None:
        return next(iter(folder.glob("*.json")), None) if folder.is_dir() else None

    found = WebDriverWait(folder, PATIENCE_S, poll_frequency=0.1).until(lambda _: whole())
    assert isinstance(found, Path)
    return found


def test_votes_by_keyboard_are_kept_over_a_reload_saved_and_counted(
    voter: Voter, key: dict[str, Any], tmp_path: Path
) -> None:
    prefers_a = {name: told["left"] == "a" for name, told in key["trials"].items()}
    names = list(key["trials"])
    assert voter.text("count") == "1 of 4" and voter.see("trial") and not voter.see("done")
    for name in names[:2]:
        voter.press("1" if prefers_a[name] else "2", VOTE_KEYS["left" if prefers_a[name] else "right"])
    assert voter.text("count") == "3 of 4"

    voter.come_back("3 of 4")
    voter.press(Keys.ARROW_UP)
    assert voter.text("count") == "2 of 4"
    ticked = voter.browser.find_element(By.ID, "ship-left" if prefers_a[names[1]] else "ship-right")
    assert ticked.is_selected()
    voter.press(VOTE_KEYS["same"])
    voter.press(VOTE_KEYS["right" if prefers_a[names[2]] else "left"])
    voter.press(VOTE_KEYS["same"])
    assert voter.see("done") and voter.text("count") == "4 of 4"
    assert not (tmp_path / "saved").exists()
    voter.press(Keys.ENTER)

    file = saved(tmp_path / "saved")
    told = json.loads(file.read_text(encoding="utf-8"))
    assert told["page"] == key["page"] and set(told["votes"]) == set(names)
    assert file.read_text(encoding="utf-8") == voter.browser.find_element(By.ID, "copy").get_property("value")
    tally = count([file], tmp_path / "page.key.json")
    every = tally.rows[-1]
    assert (every.win.share, every.tie.share, every.lose.share) == (0.25, 0.5, 0.25)
    assert tally.usable["a"].share == 0.5 and tally.usable["b"].share == 0.0
    assert voter.complaints() == []


@pytest.mark.parametrize(("width", "height", "mobile"), [(390, 844, True), (1366, 768, False)])
def test_votes_by_touch_or_pointer_and_nothing_lies_outside_the_window(
    voter: Voter, width: int, height: int, mobile: bool
) -> None:
    voter.resize(width, height, mobile)
    voter.open()
    for vote in ("left", "same", "right", "left"):
        voter.wait_for_pictures()
        size = "return [document.documentElement.scrollWidth - innerWidth, scrollY]"
        assert voter.browser.execute_script(size) == [0, 0]
        button = voter.browser.find_element(By.CSS_SELECTOR, f'[data-vote="{vote}"]')
        inside = "const r = arguments[0].getBoundingClientRect(); return r.bottom <= innerHeight && r.top >= 0"
        assert voter.browser.execute_script(inside, button)
        button.click()
    assert voter.see("done")
    assert voter.complaints() == []


def test_two_tabs_do_not_lose_each_others_votes(voter: Voter) -> None:
    first = voter.browser.current_window_handle
    voter.browser.switch_to.new_window("tab")
    voter.open()
    voter.press(Keys.ARROW_UP, Keys.ARROW_LEFT)
    voter.come_back("2 of 4")
    second = voter.browser.current_window_handle
    voter.browser.switch_to.window(first)
    voter.browser.execute_script("go(1)")
    voter.press(Keys.ARROW_DOWN)
    voter.come_back("3 of 4")
    assert voter.browser.execute_script("return Object.values(sitting.votes).map((one) => one.vote)") == [
        "left",
        "same",
    ]
    voter.browser.switch_to.window(second)
    voter.browser.close()
    voter.browser.switch_to.window(first)


def test_a_browser_that_keeps_nothing_says_so_and_still_saves(voter: Voter, tmp_path: Path) -> None:
    broken = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }"
    script = voter.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": broken})
    voter.open()
    assert voter.text("warning").startswith("This browser keeps nothing")
    voter.press(*[Keys.ARROW_RIGHT] * len(COUNTS))
    voter.press(Keys.ENTER)
    assert len(json.loads(saved(tmp_path / "saved").read_text())["votes"]) == len(COUNTS)
    voter.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script["identifier"]})


def test_a_tick_on_a_pair_voted_on_before_counts_without_another_vote(voter: Voter) -> None:
    voter.press(Keys.ARROW_LEFT, Keys.ARROW_UP, "2")
    voter.come_back("2 of 4")
    kept = voter.browser.execute_script("return sitting.votes[page.trials[0].id]")
    assert (kept["vote"], kept["ship"]) == ("left", {"left": False, "right": True})


def test_a_double_click_is_one_vote(voter: Voter) -> None:
    button = voter.browser.find_element(By.CSS_SELECTOR, '[data-vote="same"]')
    ActionChains(voter.browser).double_click(button).perform()
    assert voter.text("count") == "2 of 4"


def test_pictures_enlarge_and_arrows_then_turn_them_without_voting(voter: Voter) -> None:
    voter.press(" ")
    assert voter.text("large-name") == "Left result"
    voter.press(Keys.ARROW_RIGHT)
    assert voter.text("large-name") == "Right result"
    voter.press(Keys.ARROW_RIGHT)
    assert voter.text("large-name") == "The person"
    voter.press(Keys.ESCAPE)
    assert not voter.see("large")
    assert voter.text("count") == "1 of 4"
    assert voter.browser.execute_script("return Object.keys(sitting.votes).length") == 0


def test_an_instruction_is_words_and_never_markup(voter: Voter, key: dict[str, Any], tmp_path: Path) -> None:
    wanted = {sample.id: sample.instruction for sample in load_set(str(tmp_path / "set")).samples}
    for told in key["trials"].values():
        assert voter.text("instruction") == wanted[told["sample"]]
        voter.press(Keys.ARROW_DOWN)


def test_a_name_is_kept_and_arrows_in_its_field_do_not_leave_the_end(voter: Voter) -> None:
    voter.press(*[Keys.ARROW_DOWN] * len(COUNTS))
    field = voter.browser.find_element(By.ID, "voter")
    field.send_keys("Ana", Keys.ARROW_UP)
    assert voter.see("done")
    voter.browser.find_element(By.ID, "again").click()
    voter.come_back("4 of 4")
    assert voter.browser.find_element(By.ID, "voter").get_property("value") == "Ana"
