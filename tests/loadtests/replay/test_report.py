"""The HTML report in a real Chromium: no errors, no requests, data in every plot, readable in light and dark."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from loadtests.replay.open_loop import RunRecord
from loadtests.replay.outcomes import ClientOutcome
from loadtests.replay.probe import ProbeReading
from loadtests.replay.report import page
from loadtests.replay.summary import summarise
from loadtests.replay.verdict import Objectives, judge

PLOTS = ("arrivals", "latency", "queue", "faults", "garments", "lateness")
ENDS = ("succeeded",) * 14 + ("failed", "expired", "rejected", "refused", "unreachable", "gave up")
OBJECTIVES = Objectives(p95_s=3.0, availability=0.9, max_rejected=0.1)
CONTRAST = """
const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
const part = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = text => { const [r, g, b] = rgb(text).map(part); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = node => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/^rgba\\(0, 0, 0, 0\\)$/.test(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};
const poor = [];
for (const node of document.querySelectorAll('h1, h2, p, td, th, li, dt, dd, figcaption, svg text, .verdict')) {
  const style = getComputedStyle(node);
  const [a, b] = [light(node instanceof SVGElement ? style.fill : style.color), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(node.tagName + ' ' + node.textContent.slice(0, 30) + ' ' + ratio.toFixed(2));
}
return poor;
"""


def busy_run() -> RunRecord:
    """Two minutes with every kind of end and a queue, drawn by seed."""
    rng = random.Random(5)
    found = RunRecord(datetime(2026, 11, 21, 20, 0, tzinfo=UTC), 600)
    for index in range(600):
        one = ClientOutcome(index, index * 0.2, 1 + index % 6, rng.choice(["high", "normal"]), None)
        one.end = rng.choice(ENDS)  # type: ignore[assignment]
        one.late, one.attempts = rng.random() * 0.02, 1
        one.latency = rng.lognormvariate(0, 0.5)
        one.server = {"queue": one.latency / 3, "denoise": one.latency / 2}
        if one.end == "rejected":
            one.code = rng.choice(["queue-full", "rate-limited"])
            one.rejections = [(503 if one.code == "queue-full" else 429, 0.02, 0.02)]
        found.outcomes.append(one)
    found.readings = [
        ProbeReading(float(at), {"waiting": float(at % 30), "running": 2.0, "backlog_s": 1.0})
        for at in range(0, 120, 2)
    ]
    found.wall_s = 122.0
    return found


def write(folder: Path, record: RunRecord, title: str = "Evening <script>alert(1)</script>") -> Path:
    summary = summarise(record)
    settings = {"url": "http://127.0.0.1:1", "arrivals": 'Poisson & "bursts"'}
    path = folder / "report.html"
    path.write_text(page(title, record, summary, judge(summary, OBJECTIVES), OBJECTIVES, settings))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        message = "Chromium or chromedriver is missing: the load test report is NOT tested"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1000,900")
    for flag in (*flags, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.mark.browser
def test_every_plot_has_data_and_the_page_needs_nothing_else(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = write(tmp_path, busy_run())
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    addresses = {match for text in requests for match in re.findall(r'"url":"([^"]+)"', text)}
    assert path.as_uri() in addresses
    assert not {address for address in addresses if address.startswith(("http", "ws", "ftp", "//"))}
    assert browser.execute_script("return document.scripts.length") == 0
    for name in PLOTS:
        marks = browser.execute_script(
            "return [...document.querySelectorAll(`#${arguments[0]} svg .mark`)].map(mark => {"
            "const box = mark.getBBox(); return box.width > 0 || box.height > 0; })",
            name,
        )
        assert marks and all(marks), f"{name} is empty"
        words = browser.execute_script(
            "const f = document.getElementById(arguments[0]);"
            "return [f.querySelectorAll('svg .title').length, f.querySelectorAll('svg .tick').length,"
            "f.querySelector('figcaption').textContent.length, f.querySelector('svg').getAttribute('aria-label')]",
            name,
        )
        assert words[0] == 2 and words[1] >= 6 and words[2] > 40 and words[3], name
    layers = browser.execute_script("return document.querySelectorAll('#faults .legend li').length")
    assert layers == 7
    assert browser.execute_script("return document.querySelectorAll('#garments svg g.mark').length") == 6
    assert browser.execute_script("return document.querySelector('h1').textContent") == (
        "Evening <script>alert(1)</script> failed"
    )


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: webdriver.Chrome, tmp_path: Path, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(write(tmp_path, busy_run()).as_uri())
    assert browser.execute_script(CONTRAST) == []


@pytest.mark.browser
def test_labels_stay_inside_the_plots_and_the_page_inside_a_phone(browser: webdriver.Chrome, tmp_path: Path) -> None:
    browser.get(write(tmp_path, busy_run()).as_uri())
    outside = browser.execute_script(
        "const found = []; for (const svg of document.querySelectorAll('svg')) {"
        "const s = svg.getBoundingClientRect(); for (const text of svg.querySelectorAll('text')) {"
        "const t = text.getBoundingClientRect();"
        "if (t.left < s.left - 1 || t.right > s.right + 1 || t.top < s.top - 1 || t.bottom > s.bottom + 1)"
        "found.push(text.textContent); } } return found;"
    )
    assert outside == []
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_run_without_anything_says_so(tmp_path: Path) -> None:
    text = write(tmp_path, RunRecord(datetime(2026, 11, 21, tzinfo=UTC), 3)).read_text()
    for words in ("No try-on came due", "No try-on succeeded", "--metrics-url", "Nothing was sent"):
        assert words in text
