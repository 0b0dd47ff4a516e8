"""A key that fills the catalogue: no faster than try-ons, no larger than it sent, and into files for nobody else."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from besieged import Besieged
from hostile_pictures import encoded, plain
from PIL import Image

RATE, GARMENTS = 40, 12


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    """A service whose keys may ask 40 times a minute and keep 12 garments."""
    folder = tmp_path_factory.mktemp("bounded")
    service = Besieged(folder, rate_per_minute=RATE, catalogue_garments=GARMENTS)
    try:
        yield service.start(encoded(plain(), "JPEG"), encoded(plain(64, 64, "navy"), "JPEG"))
    finally:
        service.stop()


def swelling() -> bytes:
    """A PNG of some kilobytes whose noise repeats, so that a JPEG of it would be a dozen times as large."""
    tile = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.tile(tile, (40, 40, 1))).save(out, "PNG", compress_level=9)
    return out.getvalue()


def kept(service: Besieged) -> list[Path]:
    return [path for path in (service.folder / "data" / "blobs" / "garment").rglob("*") if path.is_file()]


def test_a_catalogue_cannot_be_filled_with_what_was_never_sent(bounded: Besieged) -> None:
    data = swelling()
    assert len(data) < 300_000
    began = time.monotonic()
    with bounded.client() as client:
        answers = [
            client.put(f"/v1/garments/s{n}", content=data, headers={"Content-Type": "image/png"}) for n in range(80)
        ]
    said = [answer.status_code for answer in answers]
    assert said.count(201) == GARMENTS and set(said) <= {201, 422, 429}, said
    let_in = len(said) - said.count(429)
    assert let_in <= 1 + RATE + (time.monotonic() - began) * RATE / 60, "uploads obey the rate of try-ons"
    assert {answer.json()["code"] for answer in answers if answer.status_code == 422} <= {"catalogue-full"}
    files = kept(bounded)
    assert 0 < len(files) <= GARMENTS
    # What it came as, or three quarters of a byte a pixel: 1280 x 1280 of them.
    assert max(path.stat().st_size for path in files) <= max(len(data), 1280 * 1280 * 3 // 4)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for file in files for path in file.parents if "blobs" in path.parts} == {0o700}
