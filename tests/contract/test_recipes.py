"""Every block of code in docs/clients.md, run as it stands against the running service."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_live import Live, data_url, picture
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
ADDRESS = "http://localhost:8000"
TSC = (
    "--strict",
    "--target",
    "es2022",
    "--module",
    "nodenext",
    "--moduleResolution",
    "nodenext",
    "--lib",
    "es2022,dom",
)


def blocks() -> list[tuple[str, str, str]]:
    """(heading, language, code) of every block of the page, in order."""
    found, heading = [], ""
    pieces = re.finditer(
        r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", PAGE.read_text(), re.M | re.S
    )
    for piece in pieces:
        if piece["heading"]:
            heading = piece["heading"]
        else:
            found.append((heading, piece["language"], piece["code"]))
    return found


def recipe(heading: str, language: str, live: Live) -> str:
    """The one block of a language below a heading, for the address of `live`."""
    (code,) = (code for below, of, code in blocks() if (below, of) == (heading, language))
    return code.replace(ADDRESS, live.url).replace("localhost:8000", live.url.removeprefix("http://"))


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A folder with the pictures that the recipes speak of."""
    (tmp_path / "me.jpg").write_bytes(picture(colour="bisque"))
    (tmp_path / "coat.jpg").write_bytes(picture(64, 64, "maroon"))
    (tmp_path / "hat.webp").write_bytes(picture(64, 48, "navy", "WEBP"))
    return tmp_path


@pytest.fixture
def node_kitchen(kitchen: Path, node_modules: Path) -> Path:
    (kitchen / "node_modules").symlink_to(node_modules)
    (kitchen / "package.json").write_text('{"type": "module"}')
    return kitchen


def run(*command: str, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def assert_made(path: Path, format: str) -> None:
    with Image.open(path) as made:
        assert (made.format, made.size) == (format, (192, 256))


def test_every_recipe_is_run_here() -> None:
    assert [(heading, language) for heading, language, _ in blocks()] == [
        ("curl", "sh"), ("Plain HTTP", "http"), ("Python", "python"), ("JavaScript", "js"),
        ("The openai packages", "python"), ("The openai packages", "js"),
        ("The fashn packages", "python"), ("The fashn packages", "js"),
        ("TypeScript from the document", "sh"), ("TypeScript from the document", "ts"),
    ]  # fmt: skip


def test_curl(live: Live, kitchen: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    run("sh", "-euc", recipe("curl", "sh", live), cwd=kitchen)
    job = json.loads((kitchen / "job.json").read_text())
    assert [garment["category"] for garment in job["garments"]] == ["coats", "hats"]
    assert_made(kitchen / "result.jpg", "JPEG")


def test_plain_http(live: Live, kitchen: Path) -> None:
    head, _, body = recipe("Plain HTTP", "http", live).partition("\n\n")
    request_line, *lines = head.splitlines()
    method, path, _ = request_line.split()
    sent = re.sub(
        r"<base64 of ([\w.]+)>", lambda name: base64.b64encode((kitchen / name[1]).read_bytes()).decode(), body
    )
    connection = http.client.HTTPConnection("127.0.0.1", live.port(), timeout=60)
    connection.request(method, path, sent, dict(line.split(": ", 1) for line in lines if not line.startswith("Host")))
    answer = connection.getresponse()
    job = json.loads(answer.read())
    assert (answer.status, job["status"]) == (200, "succeeded")
    assert [(garment["category"], garment["layer"]) for garment in job["garments"]] == [
        ("coats", "open"),
        ("hats", None),
    ]
    connection.request("GET", job["links"]["image"])
    (kitchen / "result.jpg").write_bytes(connection.getresponse().read())
    connection.close()
    assert_made(kitchen / "result.jpg", "JPEG")


@pytest.mark.parametrize(
    ("heading", "made"),
    [("Python", "result.jpg"), ("The openai packages", "result.png"), ("The fashn packages", "result.png")],
)
def test_python(live: Live, kitchen: Path, heading: str, made: str) -> None:
    run(sys.executable, "-W", "ignore", "-c", recipe(heading, "python", live), cwd=kitchen)
    assert_made(kitchen / made, {"jpg": "JPEG", "png": "PNG"}[made[-3:]])


@pytest.mark.parametrize(
    ("heading", "made", "said"),
    [
        ("JavaScript", "result.jpg", "step 2 of 2"),
        ("The openai packages", "result.png", "preview 1"),
        ("The fashn packages", "result.png", ""),
    ],
)
def test_javascript(live: Live, node_kitchen: Path, heading: str, made: str, said: str) -> None:
    (node_kitchen / "recipe.mjs").write_text(recipe(heading, "js", live))
    assert said in run("node", "recipe.mjs", cwd=node_kitchen)
    assert_made(node_kitchen / made, {"jpg": "JPEG", "png": "PNG"}[made[-3:]])


def test_typescript_is_generated_compiled_and_works(live: Live, node_kitchen: Path) -> None:
    run("sh", "-euc", recipe("TypeScript from the document", "sh", live), cwd=node_kitchen)
    (node_kitchen / "client.ts").write_text(recipe("TypeScript from the document", "ts", live))
    run("npx", "--no-install", "tsc", *TSC, "client.ts", cwd=node_kitchen)
    pictures = json.dumps([data_url((node_kitchen / name).read_bytes()) for name in ("me.jpg", "coat.jpg")])
    (node_kitchen / "use.mjs").write_text(
        f'import {{ dress }} from "./client.js";\nconsole.log(await dress(...{pictures}));\n'
    )
    address = run("node", "use.mjs", cwd=node_kitchen).strip()
    assert address.startswith("/v1/try-ons/") and "token=" in address


def test_the_generated_types_know_what_the_service_refuses(live: Live, node_kitchen: Path) -> None:
    run("sh", "-euc", recipe("TypeScript from the document", "sh", live), cwd=node_kitchen)
    code = recipe("TypeScript from the document", "ts", live)
    mistakes = {"socks": 'category: "socks"', "colour": 'category: "coats", colour: "red"', "seven": "category: 7"}
    for name, mistake in mistakes.items():
        (node_kitchen / f"{name}.ts").write_text(code.replace('category: "coats"', mistake))
    command: list[Any] = ["npx", "--no-install", "tsc", "--noEmit", *TSC, *(f"{name}.ts" for name in mistakes)]
    done = subprocess.run(command, cwd=node_kitchen, capture_output=True, text=True, timeout=120)
    for name in mistakes:
        assert f"{name}.ts(" in done.stdout, done.stdout
