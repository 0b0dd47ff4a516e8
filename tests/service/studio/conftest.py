"""A real headless Chromium, and what the page meets: the real service or the scripted stand-in."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from headless import launch
from PIL import Image, ImageDraw
from selenium import webdriver
from stand_in import StandIn
from studio_page import StudioPage

from loadtests.bench.local_service import free_port
from service.jobs.embedded import start_server

ROOT = Path(__file__).parents[3]
READY_S = 120.0


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    with launch(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def wait_for(address: str) -> None:
    """Until `address` answers 200."""
    give_up = time.monotonic() + READY_S
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < give_up:
            try:
                if client.get(address).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    pytest.fail(f"{address} did not answer")


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """The scripted stand-in, served on `stand_in.url`."""
    script = StandIn()
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(script.app(), port=port, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    script.url = f"http://127.0.0.1:{port}/"
    wait_for(script.url)
    yield script
    server.should_exit = True
    thread.join()


@contextmanager
def running(data: Path, model: str) -> Iterator[str]:
    """The address of a real gateway with a real queue and a real worker, each its own process."""
    port = free_port()
    store = start_server(data)
    common = ["--redis-url", store.url, "--data", str(data)]
    children = []
    for given in (["gateway", *common, "--port", str(port)], ["worker", *common, "--model", model]):
        with (data / f"{given[0]}.log").open("wb") as log:
            command = [sys.executable, "-m", "service.cli", *given]
            children.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}/"
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(timeout=40)
        store.stop()


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service on an engine that only pretends: six steps of 0.4 s, then the person's own picture."""
    with running(tmp_path_factory.mktemp("service"), "null:6:0.4") as address:
        yield address


@pytest.fixture
def nano_url(tmp_path: Path) -> Iterator[str]:
    """The service on the bundled nano model."""
    with running(tmp_path, "nano") as address:
        yield address


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[StudioPage]:
    """A desktop window; `page.open(url)` starts fresh."""
    opened = StudioPage(chromium)
    opened.resize(1280, 900)
    yield opened
    chromium.get("about:blank")
    chromium.get_log("browser")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with person.jpg (600 x 800), top.png, coat.png and not-a-picture.jpg."""
    folder = tmp_path_factory.mktemp("photos")
    person = Image.new("RGB", (600, 800), "#ddd6c8")
    ImageDraw.Draw(person).ellipse((220, 80, 380, 260), fill="#c98f6b")
    ImageDraw.Draw(person).rectangle((180, 280, 420, 780), fill="#33506e")
    person.save(folder / "person.jpg", quality=95)
    for name, colour in (("top", "#c0563b"), ("coat", "#8a7a5c")):
        Image.new("RGB", (300, 400), colour).save(folder / f"{name}.png")
    (folder / "not-a-picture.jpg").write_text("words, not light")
    return folder
