"""Text that is none, at every door: the same refusal, and what is text comes back as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest
from besieged import MIB, Besieged, refused
from hostile_pictures import encoded, plain

SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
FILES = [("person", ("p.jpg", SHIRT, "image/jpeg")), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
IMAGES = [("image[]", one[1]) for one in FILES]
HALF, RAW = r"\ud800", b"\xed\xa0\x80"
JSON = {"Content-Type": "application/json"}

Call = Callable[[httpx.Client], httpx.Response]


def as_json(path: str, text: str) -> Call:
    return lambda client: client.post(path, content=text.encode(), headers=JSON)


def as_form(name: str, value: bytes | str, path: str = "/v1/try-ons", more: str = "") -> Call:
    files = IMAGES if path.endswith("edits") else FILES
    fields = [(name, (None, value, f"text/plain{more}"))]
    return lambda client: client.post(path, files=[*files, *fields])


DOORS: dict[str, Call] = {
    "a value of metadata": as_json("/v1/try-ons", f'{{"person":"aGk=","metadata":{{"a":"{HALF}"}}}}'),
    "a name of metadata": as_json("/v1/try-ons", f'{{"person":"aGk=","metadata":{{"{HALF}":"a"}}}}'),
    "a prompt": as_json("/v1/try-ons", f'{{"person":"aGk=","prompt":"{HALF}"}}'),
    "a layer": as_json("/v1/try-ons", f'{{"person":"aGk=","garments":[{{"image":"aGk=","layer":"{HALF}"}}]}}'),
    "a sku": as_json("/v1/try-ons", f'{{"person":"aGk=","garments":[{{"sku":"{HALF}"}}]}}'),
    "a picture": as_json("/v1/try-ons", f'{{"person":"{HALF}"}}'),
    "a field of no meaning": as_json("/v1/try-ons", f'{{"{HALF}":1}}'),
    "bytes in JSON": lambda client: client.post("/v1/run", content=b'{"a":"' + RAW + b'"}', headers=JSON),
    "an input of a prediction": as_json("/v1/run", f'{{"inputs":{{"model_image":"{HALF}"}}}}'),
    "a webhook": as_json("/v1/run", f'{{"webhook_url":"https://{HALF}.example/"}}'),
    "a prompt of a form": as_form("prompt", RAW),
    "another byte": as_form("prompt", b"caf\xe9"),
    "metadata of a form": as_form("metadata", f'{{"a":"{HALF}"}}'),
    "request of a form": as_form("request", f'{{"prompt":"{HALF}"}}'),
    "a sku of a form": as_form("skus", RAW),
    "a character set that has halves": as_form(
        "prompt", "\ud800".encode("utf-16", "surrogatepass"), more="; charset=utf-16"
    ),
    "a prompt of an edit": as_form("prompt", RAW, path="/v1/images/edits"),
    "a category of the catalogue": lambda client: client.put(
        "/v1/garments/A-1", files=[("image", FILES[0][1]), ("layer", (None, RAW))]
    ),
    "a layer of the catalogue": lambda client: client.put(
        "/v1/garments/A-1?layer=%ED%A0%80", content=SHIRT, headers={"Content-Type": "image/jpeg"}
    ),
    "a sku of the catalogue": lambda client: client.get("/v1/garments/%ED%A0%80"),
    "an id": lambda client: client.get("/v1/try-ons/%FF"),
    "a header": lambda client: client.post("/v1/try-ons", files=FILES, headers={b"Idempotency-Key": RAW}),
}


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_text_is_refused_alike_everywhere(besieged: Besieged, door: str) -> None:
    with besieged.client() as client:
        started = time.monotonic()
        answer = DOORS[door](client)
        # The vendors' shapes say 400 of everything that is wrong with a request, as their clients expect.
        vendors = answer.request.url.path in ("/v1/run", "/v1/images/edits")
        assert answer.status_code == (400 if vendors else 422), answer.text
        problem = refused(answer, started, "invalid-text")
        assert problem["pointer"] and json.dumps(problem).isascii()


def test_what_is_text_comes_back_as_it_was(besieged: Besieged) -> None:
    words = {"a": "café ￿ 😀\u2028", "naïve 🧥": "\u202e"}
    with besieged.client() as client, besieged.siege(growth=64 * MIB):
        made = client.post("/v1/try-ons", files=FILES, data={"metadata": json.dumps(words)})
        assert made.status_code == 202 and made.json()["metadata"] == words
        assert client.get(made.json()["links"]["self"]).json()["metadata"] == words
