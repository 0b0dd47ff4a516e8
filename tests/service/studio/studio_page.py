"""The studio page as a visitor meets it: what can be done on it and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 45.0
RECORDER = """
const detail = document.getElementById("now-detail");
window.heard = [];
new MutationObserver(() => {
  const line = `${document.getElementById("now").textContent} ${detail.textContent}`.trim();
  window.heard.push([line, document.getElementById("progress").getAttribute("value")]);
  if (arguments[0] && detail.textContent.startsWith(arguments[0])) document.getElementById("cancel").click();
}).observe(detail, { childList: true });
"""


class StudioPage:
    """One tab of a browser with the page in it."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Set the viewport in CSS pixels."""
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile},
        )

    def open(self, url: str) -> None:
        """Load the page with nothing remembered, and wait for the model's name."""
        self.browser.get(url)
        self.run("sessionStorage.clear()")
        self.until(lambda: self.at("model").get_attribute("data-state") != "checking")

    def at(self, element_id: str) -> WebElement:
        return self.browser.find_element(By.ID, element_id)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *args: Any) -> Any:
        return self.browser.execute_script(script, *args)

    def until(self, condition: Any) -> Any:
        """The condition's first true value."""
        return WebDriverWait(self.browser, PATIENCE_S, poll_frequency=0.1).until(lambda _: condition())

    def text(self, element_id: str) -> str:
        """The text of an element, whether it is visible or not."""
        return str(self.at(element_id).get_property("textContent")).strip()

    def choose_person(self, path: Path) -> None:
        self.at("person-input").send_keys(str(path))

    def add_garments(self, *paths: Path) -> None:
        self.at("garment-input").send_keys("\n".join(str(path) for path in paths))

    def pick(self, row: int, kind: str, value: str) -> None:
        """Choose `value` in the `kind` ('category' or 'layer') of garment `row`."""
        select = self.all(f"#garments .{kind}")[row]
        select.find_element(By.CSS_SELECTOR, f'option[value="{value}"]').click()

    def press(self, *keys: str) -> None:
        """Press keys on whatever has the focus."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self) -> WebElement:
        return self.browser.switch_to.active_element

    def record(self, cancel_at: str = "") -> None:
        """Note every line of progress from now on; press Cancel when a detail starts with `cancel_at`."""
        self.run(RECORDER, cancel_at)

    def heard(self) -> list[tuple[str, str | None]]:
        """(line, value of the bar or None) as they were shown."""
        return [(line, value) for line, value in self.run("return window.heard")]

    def go(self) -> None:
        """Press the button once every picture is drawn: one that arrives late moves the page under the pointer."""
        chosen = 'document.querySelectorAll("#person-picture, #garments img")'
        self.until(lambda: self.run(f"return [...{chosen}].every((i) => i.hidden || i.complete)"))
        self.at("go").click()

    @property
    def state(self) -> str:
        """empty, working, problem or done"""
        return str(self.at("result").get_attribute("data-state"))

    def wait_for(self, *states: str) -> str:
        """The first of `states` the stage reaches, with nothing running any more."""
        self.until(lambda: self.state in states and self.at("result").get_attribute("aria-busy") != "true")
        return self.state

    def drawn(self, element_id: str) -> bool:
        """Whether an img has decoded pixels and is visible."""
        img = self.at(element_id)
        return img.is_displayed() and bool(self.run("return arguments[0].naturalWidth > 0", img))

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than its window."""
        return int(self.run("return document.documentElement.scrollWidth - window.innerWidth"))

    def complaints(self) -> list[str]:
        """Errors and warnings of the browser's console since the last call."""
        return [
            entry["message"] for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]
