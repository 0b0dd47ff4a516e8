"""Take the pictures of docs/ from a running service: `python tests/service/studio/take_screenshots.py URL docs`.

Dresses the first sample look and saves the finished page as studio.png (desktop) and studio-phone.png (390 px).
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from headless import launch
from studio_page import StudioPage

WINDOWS = {"studio.png": (1280, 1000, False), "studio-phone.png": (390, 844, True)}
UNSTICK = "document.querySelector('.go-bar').style.position = 'static'"
TO_RESULT = "scrollTo({ top: document.getElementById('result').getBoundingClientRect().top + scrollY - 16 })"


def shoot(page: StudioPage, path: Path, *, whole: bool) -> None:
    """Save the whole page with what lies below the window's edge, or the window at the result."""
    options: dict[str, object] = {}
    if whole:
        page.run(UNSTICK)
        width, height = page.run("const d = document.documentElement; return [d.clientWidth, d.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
    else:
        page.run(TO_RESULT)
    shot = page.browser.execute_cdp_cmd("Page.captureScreenshot", options)
    path.write_bytes(base64.b64decode(shot["data"]))


def main(url: str, folder: Path) -> None:
    """Take every picture of WINDOWS into `folder`."""
    with tempfile.TemporaryDirectory() as profile, launch(Path(profile)) as browser:
        page = StudioPage(browser)
        for name, (width, height, mobile) in WINDOWS.items():
            page.resize(width, height, mobile=mobile)
            page.open(url)
            page.until(lambda: page.all(".outfit"))
            page.all(".outfit")[0].click()
            if page.wait_for("done", "problem") == "problem":
                sys.exit(f"{page.text('problem-title')}: {page.text('problem-detail')}")
            page.run("document.activeElement.blur()")
            shoot(page, folder / name, whole=not mobile)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
