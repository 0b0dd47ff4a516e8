"""Settings: names in the environment, bounds, one clear line for a bad one, the signing key."""

from __future__ import annotations

import ast
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "CHANGEROOM_REDIS_URL", "CHANGEROOM_PORT", "CHANGEROOM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_sets_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGEROOM_PORT", "9001")
    assert load_settings().port == 9001
    assert load_settings(port=9002).port == 9002
    assert load_settings(port=None).port == 9001


def test_the_store_s_address_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://platform/1")
    assert load_settings().redis_url == "redis://platform/1"
    monkeypatch.setenv("CHANGEROOM_REDIS_URL", "redis://ours/2")
    assert load_settings().redis_url == "redis://ours/2"
    assert load_settings(redis_url="unix:///x.sock").redis_url == "unix:///x.sock"


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "http"), ("PORT", "70000"), ("MAX_IN_FLIGHT", "0"), ("BACKEND", "tpu")]
)
def test_a_bad_value_is_one_line_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CHANGEROOM_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"CHANGEROOM_{name}: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="lease_seconds"):
        load_settings(lease_seconds=3)


def test_secrets_do_not_show_in_a_printed_configuration() -> None:
    settings = load_settings(url_secret="top-secret", webhook_secret="top-secret", rewriter_key="top-secret")
    assert "top-secret" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_signing_key_is_made_once_and_private(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "new")
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: settings.signing_key(), range(64)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    mode = (tmp_path / "new" / "url_secret").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["url_secret"]


def test_a_given_secret_is_the_signing_key(tmp_path: Path) -> None:
    assert load_settings(data_dir=tmp_path, url_secret="given").signing_key() == b"given"
    assert not (tmp_path / "url_secret").exists()


def test_blobs_lie_in_the_data_folder_by_default(tmp_path: Path) -> None:
    assert load_settings(data_dir=tmp_path).blob_address == f"file://{tmp_path}/blobs"
    assert load_settings(blob_url="s3://bucket/x").blob_address == "s3://bucket/x"


ROOT = Path(__file__).parents[2]
READERS = ("service", "engine_build", "loadtests", "deploy")
NOT_SETTINGS = {"CHANGEROOM_FAULTS_LEDGER", "CHANGEROOM_TARGET"}  # of `make test-faults`, of compose.yaml


def attributes_of(names: tuple[str, ...], path: Path) -> set[str]:
    """What a file reads of objects that go by one of `names`, as in `settings.port` or `self._settings.port`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        if getattr(node.value, "id", getattr(node.value, "attr", None)) in names
    }


def test_every_setting_is_read_somewhere() -> None:
    read = attributes_of(("self",), ROOT / "service/settings.py")
    for folder in READERS:
        for path in (ROOT / folder).rglob("*.py"):
            read |= attributes_of(("settings", "_settings"), path)
    assert set(Settings.model_fields) - read == set()


def test_every_setting_that_is_documented_or_deployed_exists() -> None:
    places = [ROOT / name for name in ("README.md", "BENCHMARKS.md", "Makefile", "Dockerfile", "compose.yaml")]
    for folder in ("deploy", "docs", "service", "loadtests"):
        places += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".yaml", ".yml", ".sh", ".py")]
    known = {f"CHANGEROOM_{name.upper()}" for name in Settings.model_fields}
    named, short = set(), set()
    for place in places:
        text = place.read_text(encoding="utf-8")
        named |= set(re.findall(r"\bCHANGEROOM_[A-Z0-9_]+", text))
        for cell in re.findall(r"^\|([^|]*CHANGEROOM_[^|]*)\|", text, flags=re.MULTILINE):
            short |= set(re.findall(r"`(_[A-Z0-9_]+)`", cell))
    assert len(named) > 30 and len(short) > 5
    assert named - known - NOT_SETTINGS == set()
    assert {end for end in short if not any(name.endswith(end) for name in known)} == set()
