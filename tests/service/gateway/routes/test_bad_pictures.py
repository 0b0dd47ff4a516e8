"""Every kind of picture over HTTP: those that cannot be used with their exact refusal, and those that can."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import httpx
import pytest
from gateway_live import picture
from PIL import Image
from refused_answers import PERSON, SHIRT, check, part


def bare_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00" * 64)) + chunk(b"IEND", b"")
    )


def animated(format: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(out, format, save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


PICTURES = [
    ("empty file", b"", 422, "empty-image", "empty"),
    (
        "text named .jpg",
        b"hello, I am not a picture\n" * 9,
        415,
        "unsupported-image-format",
        "Send JPEG, PNG",
    ),
    ("truncated JPEG", picture(400, 400)[:700], 422, "damaged-image", "upload the whole file"),
    ("0x0", bare_png(0, 0), 422, "zero-size-image", "0 by 0 pixels"),
    ("30,000x30,000", bare_png(30_000, 30_000), 413, "too-many-pixels", "smaller copy"),
    ("animated WebP", animated("WEBP"), 422, "animated-image", "one still frame"),
    ("animated PNG", animated("PNG"), 422, "animated-image", "one still frame"),
    ("GIF", animated("GIF"), 415, "unsupported-image-format", "GIF"),
    ("too small", picture(8, 8), 422, "image-too-small", "at least"),
    ("too large", PERSON + b"\x00" * (15 * 2**20), 413, "image-too-large", "smaller"),
]


@pytest.mark.parametrize("where", ["person", "garment"])
@pytest.mark.parametrize(("name", "data", "status", "code", "word"), PICTURES, ids=[p[0] for p in PICTURES])
def test_unusable_pictures(
    http: httpx.Client, where: str, name: str, data: bytes, status: int, code: str, word: str
) -> None:
    given = {"person": PERSON, "garment": SHIRT} | {where: data}
    answer = http.post("/v1/try-ons", files=[part(n, d) for n, d in given.items()])
    body = check(answer, status, code, word)
    assert body["pointer"].startswith(where) and body["detail"].startswith(f"{body['pointer']}: ")
    assert body["retryable"] is False


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(picture(format="PNG"), id="PNG"),
        pytest.param(picture(format="WEBP"), id="WebP"),
        pytest.param(picture(format="AVIF"), id="AVIF"),
    ],
)
def test_usable_formats(http: httpx.Client, data: bytes) -> None:
    answer = http.post("/v1/try-ons", files=[part("person", data), part("garment", SHIRT)])
    assert answer.status_code == 202, answer.text


def test_heic_cmyk_16_bit_and_rotated_pictures_are_used(http: httpx.Client) -> None:
    import pillow_heif

    heic, cmyk, deep, rotated = (io.BytesIO() for _ in range(4))
    pillow_heif.from_pillow(Image.new("RGB", (96, 128), "teal")).save(heic)
    Image.new("CMYK", (96, 128), (0, 90, 10, 0)).save(cmyk, "JPEG")
    Image.new("I;16", (96, 128), 30_000).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100), "teal").save(rotated, "JPEG", exif=exif)
    for data in (heic, cmyk, deep):
        answer = http.post("/v1/try-ons", files=[part("person", data.getvalue()), part("garment", SHIRT)])
        assert answer.status_code == 202, answer.text
    put = http.put("/v1/garments/rotated", files={"image": ("r.jpg", rotated.getvalue())})
    assert (put.json()["width"], put.json()["height"]) == (100, 200)


def test_a_photo_that_lacks_its_last_bytes_is_used_and_the_result_says_so(http: httpx.Client) -> None:
    out = io.BytesIO()
    Image.effect_noise((800, 600), 60).convert("RGB").save(out, "JPEG", quality=80)
    cut = out.getvalue()[:-33]
    put = http.put("/v1/garments/cut-off", files={"image": ("c.jpg", cut)})
    assert [(w["code"], w["pointer"]) for w in put.json()["warnings"]] == [("picture-cut-off", "image")]
    assert http.get("/v1/garments/cut-off").json() == put.json()
    answer = http.post(
        "/v1/try-ons",
        files=[part("person", cut), part("garment", SHIRT), part("garment", cut)],
        data={"skus": "cut-off"},
        headers={"Prefer": "wait=30"},
    )
    body = answer.json()
    assert body["status"] == "succeeded", body
    assert [warning["pointer"] for warning in body["warnings"]] == ["person", "garments.1", "garments.2"]
    for warning in body["warnings"]:
        assert warning["code"] == "picture-cut-off"
        assert warning["detail"].startswith(f"{warning['pointer']}: This JPEG is cut off: 99.")
    assert http.get(body["links"]["self"]).json()["warnings"] == body["warnings"]
    whole = http.post("/v1/try-ons", files=[part("person", PERSON), part("garment", SHIRT)])
    assert whole.json()["warnings"] == []


def test_base64_as_phones_and_shells_write_it_is_used_in_both_shapes(http: httpx.Client) -> None:
    lines, bare = base64.encodebytes(PERSON).decode(), base64.urlsafe_b64encode(SHIRT).decode().rstrip("=")
    ours = http.post("/v1/try-ons", json={"person": lines, "garments": [{"image": f"data:image/jpeg;base64,{bare}"}]})
    assert ours.status_code == 202, ours.text
    inputs = {"model_image": f"data:image/jpeg;base64,{lines}", "garment_image": bare + "\r\n"}
    theirs = http.post("/v1/run", json={"model_name": "tryon-v1.6", "inputs": inputs})
    assert theirs.status_code == 200, theirs.text
