"""promtool, from Debian's package `prometheus`: required in CI, asked for by name elsewhere."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing (Debian: apt install prometheus)")
        pytest.skip("promtool is missing (Debian: apt install prometheus)")
    return path
