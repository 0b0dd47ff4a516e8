"""Take the pictures of docs/side-by-side.md.

    PYTHONPATH=tests/service/studio python tests/engine_build/judging/take_side_by_side.py docs

Draws six outfits of the procedural world with two "systems", the truth and the person left as they were, makes their
page, and saves its pair of six garments as side-by-side.png (laptop) and side-by-side-phone.png (390 px).
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path

from headless import launch
from selenium.webdriver.support.ui import WebDriverWait

from engine_build.judging.people.page import PagePlan, make_page
from engine_build.judging.sets import load_set
from engine_build.world.sample_files import write_samples

WINDOWS = {"side-by-side.png": (1366, 768, 1, False), "side-by-side-phone.png": (390, 844, 2, True)}
DRAWN = "return [...document.querySelectorAll('#trial img')].every((one) => one.naturalWidth > 0)"


def draw(folder: Path) -> None:
    """folder/set of one to six garments, folder/a with the truths and folder/b with the people as they were."""
    rows = []
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        asked = json.loads(write_samples(folder / "set" / f"s{i}", i, i + 1, height=640).read_text(encoding="utf-8"))
        shutil.copy(folder / "set" / f"s{i}" / "truth.png", folder / "a" / f"s{i}.png")
        shutil.copy(folder / "set" / f"s{i}" / "person.png", folder / "b" / f"s{i}.png")
        garments = [{"category": one["category"], "file": f"s{i}/{one['file']}"} for one in asked["garments"]]
        row = {"id": f"s{i}", "person": f"s{i}/person.png", "references": garments}
        rows.append({**row, "instruction": asked["instruction"]})
    (folder / "set" / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(out: Path) -> None:
    """Save every picture of WINDOWS into `out`."""
    with tempfile.TemporaryDirectory() as scratch, launch(Path(scratch) / "profile") as browser:
        folder = Path(scratch) / "judged"
        draw(folder)
        made = make_page(load_set(str(folder / "set")).samples, folder / "a", folder / "b", PagePlan(3, ship=True))
        page = folder / "page.html"
        page.write_text(made.html, encoding="utf-8")
        for name, (width, height, scale, mobile) in WINDOWS.items():
            size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.as_uri())
            browser.execute_script("go(page.trials.findIndex((trial) => trial.garments.length === 6))")
            WebDriverWait(browser, 30).until(lambda it: it.execute_script(DRAWN))
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {})
            (out / name).write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
