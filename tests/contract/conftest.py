"""Contract tests use the same running gateway as tests/service/gateway, and Node packages where Node is."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest_gateway import held, http, launch, live, store

__all__ = ["held", "http", "launch", "live", "store"]

PACKAGES = Path(__file__).parent / "js"
OLDEST_NODE = 20
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """The folder of the pinned npm packages, installed once and kept in pytest's cache."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are missing (Debian: apt install nodejs npm)")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version.strip()} is older than {OLDEST_NODE}")
    lock = (PACKAGES / "package-lock.json").read_bytes()
    folder = pytestconfig.cache.mkdir("npm") / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PACKAGES / name, folder / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip("npm reaches no registry")
        assert done.returncode == 0, done.stderr[-2000:]
        (folder / "installed").touch()
    return folder / "node_modules"
