"""What the documents say of settings and stored data is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCUMENTS = [DEPLOY / name for name in ("../README.md", "SECURITY.md", "runbook.md", "kubernetes/README.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"\bCHANGEROOM_([A-Z0-9_]+)", document.read_text()))
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_times_and_bounds_are_the_defaults() -> None:
    text = (DEPLOY / "SECURITY.md").read_text()
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert "`CHANGEROOM_INPUT_TTL_S`, 1 hour" in text and default["input_ttl_s"] == 3600
    assert "`CHANGEROOM_RESULT_TTL_S`, 24 hours" in text and default["result_ttl_s"] == 24 * 3600
    assert "`CHANGEROOM_GARMENT_TTL_S`, 180 days" in text and default["garment_ttl_s"] == 180 * 24 * 3600
    assert "`CHANGEROOM_CATALOGUE_GARMENTS` (10,000)" in text and default["catalogue_garments"] == 10_000
    assert "`CHANGEROOM_CATALOGUE_BYTES` (4 GiB)" in text and default["catalogue_bytes"] == 4 << 30
    assert "`CHANGEROOM_DISK_RESERVE_BYTES` (512 MiB)" in text and default["disk_reserve_bytes"] == 512 << 20
    assert "80 MiB a request, 15 MiB and 60 megapixels a picture" in text
    assert (default["body_limit_bytes"], default["image_limit_bytes"]) == (80 << 20, 15 << 20)
    assert default["max_megapixels"] == 60
    assert "`CHANGEROOM_MAX_CONNECTIONS_PER_ADDRESS` (512)" in text and default["max_connections_per_address"] == 512
    assert "**Keys are asked for where there is a key file**" in text and default["auth_required"] is None
    assert default["api_keys_file"] is None
    assert "`CHANGEROOM_MAX_SLOW_BODIES` (64)" in text and default["max_slow_bodies"] == 64
    assert "`CHANGEROOM_BODY_PAUSE_S` (20)" in text and default["body_pause_s"] == 20
