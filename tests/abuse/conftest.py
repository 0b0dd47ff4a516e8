"""One service under attack for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from besieged import Besieged
from hostile_pictures import encoded, plain


@pytest.fixture(scope="session")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    service = Besieged(tmp_path_factory.mktemp("besieged"))
    try:
        yield service.start(encoded(plain(), "JPEG"), encoded(plain(64, 64, "navy"), "JPEG"))
    finally:
        service.stop()
