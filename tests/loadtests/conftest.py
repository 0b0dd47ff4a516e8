"""Load tests meet the same running gateway as tests/service/gateway."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "service" / "gateway"))

from conftest_gateway import held, http, launch, live, store

__all__ = ["held", "http", "launch", "live", "store"]
