"""`changeroom keys new` writes what the gateway's key ring accepts, and only a digest of it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.gateway.work.api_keys import KeyFile, digest

run = CliRunner().invoke


def test_a_new_key_is_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = run(app, ["keys", "new", "shop", "--file", str(file), "--rate-per-minute", "7"])
    second = run(app, ["keys", "new", "app", "--file", str(file), "--high-priority"])
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    kept = KeyFile.model_validate_json(file.read_bytes()).keys
    assert [entry.tenant for entry in kept] == ["shop", "app"]
    assert [entry.sha256 for entry in kept] == [digest(r.stdout.strip()) for r in (first, second)]
    assert kept[0].rate_per_minute == 7 and kept[1].rate_per_minute is None
    assert [entry.high_priority for entry in kept] == [False, True]
    assert first.stdout.strip() not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_the_help_says_who_may_be_in_a_hurry() -> None:
    assert "priority=high" in " ".join(run(app, ["keys", "--help"]).output.split())


@pytest.mark.parametrize("name", ["Shop Ltd", "anonymous"])
def test_a_bad_tenant_is_one_clear_line(tmp_path: Path, name: str) -> None:
    result = run(app, ["keys", "new", name, "--file", str(tmp_path / "keys.json")])
    assert result.exit_code == 1
    assert "tenant" in result.output and "Traceback" not in result.output
    assert not (tmp_path / "keys.json").exists()
