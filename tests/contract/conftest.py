"""Contract tests use the same running gateway as tests/service/gateway."""

from __future__ import annotations

from conftest_gateway import held, http, launch, live, store

__all__ = ["held", "http", "launch", "live", "store"]
