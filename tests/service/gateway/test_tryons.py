"""The native surface from end to end: submit, wait, read, cancel, erase, replay."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import httpx
from gateway_live import Live, data_url, picture
from PIL import Image

PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")


def files(garments: int = 1) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("person", ("p.jpg", PERSON, "image/jpeg"))] + [
        ("garment", (f"g{i}.jpg", picture(64, 64 + i, "navy"), "image/jpeg")) for i in range(garments)
    ]


def test_a_post_is_a_202_with_location_and_becomes_a_picture(http: httpx.Client) -> None:
    answer = http.post("/v1/try-ons", files=files())
    assert answer.status_code == 202, answer.text
    location = answer.headers["location"]
    assert answer.headers["retry-after"] == "1"
    assert location == answer.json()["links"]["self"]
    done = http.get(location, headers={"Prefer": "wait=10"})
    assert done.headers["preference-applied"] == "wait=10"
    body = done.json()
    assert body["status"] == "succeeded"
    assert body["timings"]["denoise"] == 0.1 and body["timings"]["total"] > 0
    image = httpx.get(str(http.base_url) .rstrip("/") + body["result"]["url"])
    assert image.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(image.content)).size == (192, 256)
