"""The command line as a user meets it: help with examples, exit codes, one line for every failure."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from service.cli import app

COMMANDS = (
    ["up"], ["gateway"], ["worker"], ["tryon"], ["samples"], ["weights", "check"], ["train"], ["evaluate"], ["top"],
    ["judge", "run"], ["judge", "pairs"], ["judge", "report"], ["judge", "baseline"],
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Changeroom = Callable[..., Done]


@pytest.fixture
def changeroom(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Changeroom]:
    """Runs a command in this process, as the installed program would."""

    def run(*words: str, **env: str) -> Done:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("REDIS_URL", raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as exit_:
            app(list(words), prog_name="changeroom")
        told = capfd.readouterr()
        return Done(int(exit_.value.code or 0), told.out, told.err)

    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield run
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(changeroom: Changeroom, command: list[str]):
    done = changeroom(*command, "--help")
    assert done.returncode == 0
    assert f"Example: changeroom {' '.join(command)}" in " ".join(done.stdout.split()) or (
        "Example: REDIS_URL=" in done.stdout
    )


def test_help_imports_neither_torch_nor_the_service():
    code = (
        "import sys; from service.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'fastapi', 'redis', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["up", "--nonsense"],
        ["up", "--set", "lease_s"],
        ["up", "--port", "many"],
        ["tryon"],
        ["tryon", "--person", "p.png", "--garment", "hat.png"],
        ["tryon", "--person", "p.png", "--garment", "trousers=hat.png"],
        ["tryon", "--person", "p.png", "--garment", "hats=hat.png", "--size", "big"],
        ["tryon", "--person", "p.png", "--garment", "hats=hat.png", "-o", "out.gif"],
        ["tryon", "--person", "p.png", *["--garment", "hats=hat.png"] * 7],
        ["samples", "d", "--garments", "7"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_without_a_traceback(changeroom: Changeroom, words: list[str], tmp_path: Path):
    done = changeroom(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["worker", "--set", "nonsense=1"], {}, "nonsense"),
        (["worker", "--set", "lease_s=-1"], {}, "LEASE_S"),
        (["worker", "--model", "null:many", "--redis-url", "unix:///none"], {}, "does not answer"),
        (["worker", "--model", "null", "--redis-url", "redis://127.0.0.1:1/0"], {}, "does not answer"),
        (["worker", "--model", "null"], {"REDIS_URL": "redis://127.0.0.1:1/0"}, "does not answer"),
        (["worker", "--model", "null"], {"REDIS_URL": "redis://:pass@127.0.0.1:1/0"}, "127.0.0.1:1/0 does not answer"),
        (["up", "--model", "null"], {"REDIS_URL": "redis://:pass@127.0.0.1:1/0"}, "127.0.0.1:1"),
        (["up", "--model", "null"], {"REDIS_URL": "http://:pass@127.0.0.1"}, "REDIS_URL: an address of the store"),
        (["gateway"], {"REDIS_URL": "127.0.0.1:6379"}, "REDIS_URL: an address of the store begins"),
        (["gateway"], {"CHANGEROOM_AUTH_REQUIRED": "1"}, "CHANGEROOM_API_KEYS_FILE"),
        (["gateway"], {"CHANGEROOM_API_KEYS_FILE": "/none/keys.json"}, "/none/keys.json: No such file"),
        (["gateway"], {"CHANGEROOM_REWRITER_URL": "http://127.0.0.1:1"}, "CHANGEROOM_REWRITER_MODEL"),
        (["gateway"], {"CHANGEROOM_BLOB_URL": "ftp://127.0.0.1"}, "blob store (ftp) cannot be opened"),
        (["gateway", "--host", "192.0.2.1"], {"CHANGEROOM_AUTH_REQUIRED": "off"}, "cannot listen on 192.0.2.1:8000"),
        (["gateway", "--host", "0.0.0.0"], {}, "say CHANGEROOM_AUTH_REQUIRED=off to let everybody in"),
        (["gateway"], {"CHANGEROOM_HOST": "::"}, "CHANGEROOM_API_KEYS_FILE=keys.json"),
        (["up", "--model", "null", "--host", "192.168.1.5"], {}, "others than this machine can reach 192.168.1.5"),
        (["tryon", "--person", "none.png", "--garment", "tops=none.png"], {}, "none.png"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(
    changeroom: Changeroom, words: list[str], env: dict[str, str], said: str, tmp_path: Path
):
    done = changeroom(*words, CHANGEROOM_DATA_DIR=str(tmp_path), **env)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ") and said in errors[0]
    assert "pass" not in errors[0] and "Traceback" not in done.stderr


def test_a_gateway_whose_port_is_taken_says_so_in_one_line(changeroom: Changeroom, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = changeroom("gateway", "--port", str(port), CHANGEROOM_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port} (address already in use); choose another")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback_as_the_program_itself():
    words = [sys.executable, "-m", "service.cli", "worker", "--debug", "--set", "nonsense=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_tryon_says_which_file_is_not_a_picture(changeroom: Changeroom, tmp_path: Path):
    person, hat = tmp_path / "person.png", tmp_path / "hat.png"
    Image.new("RGB", (64, 64)).save(person)
    hat.write_text("not a picture")
    done = changeroom(
        "tryon", "--person", str(person), "--garment", f"hats={hat}", "-o", str(tmp_path / "o.png")
    )
    assert done.returncode == 1
    assert str(hat) in done.stderr and "Traceback" not in done.stderr


def test_tryon_warns_of_a_photo_that_was_cut_off(changeroom: Changeroom, tmp_path: Path):
    person, hat = tmp_path / "person.jpg", tmp_path / "hat.png"
    Image.effect_noise((800, 600), 60).convert("RGB").save(person, "JPEG", quality=80)
    person.write_bytes(person.read_bytes()[:-33])
    hat.write_text("not a picture")
    done = changeroom("tryon", "--person", str(person), "--garment", f"hats={person}", "--garment", f"hats={hat}")
    assert done.stderr.startswith(f"{person}: This JPEG is cut off: 99.")


def test_samples_and_tryon_with_the_bundled_model(changeroom: Changeroom, tmp_path: Path):
    assert changeroom("samples", str(tmp_path / "s"), "--seed", "7", "--garments", "2").returncode == 0
    request = json.loads((tmp_path / "s" / "request.json").read_text())
    garments = [
        word for said in request["garments"]
        for word in ("--garment", f"{said['category']}={tmp_path / 's' / said['file']}")
    ]  # fmt: skip
    out = tmp_path / "dressed.png"
    person = str(tmp_path / "s" / "person.png")
    done = changeroom("tryon", "--person", person, *garments, "--seed", "1", "-o", str(out), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["image"] == str(out) and told["seconds"]["denoise"] > 0
    with Image.open(out) as picture:
        assert picture.size == (told["width"], told["height"])
