"""Contract tests use the same running gateway as tests/service/gateway."""

from __future__ import annotations

from conftest_gateway import http, launch, live, store

__all__ = ["http", "launch", "live", "store"]
