"""What clients write in more than one way means the same: nulls, file names, slashes at the end, parts of a picture."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from gateway_live import INFO, data_url, parts
from refused_answers import PERSON, SHIRT, check

from service.gateway.routes.fashn import FashnInputs, FashnRequest
from service.gateway.shapes.request import JsonGarment, JsonTryOn, RequestField, RequestFieldGarment

BODIES = (JsonTryOn, JsonGarment, RequestField, RequestFieldGarment, FashnRequest, FashnInputs)


def optional(model: type[Any]) -> list[str]:
    return [name for name, field in model.model_fields.items() if not field.is_required()]


def test_null_is_the_same_as_nothing_for_every_field_that_may_be_left_out(http: httpx.Client) -> None:
    garment = {"image": data_url(SHIRT)} | {name: None for name in optional(JsonGarment) if name != "image"}
    body = {"person": data_url(PERSON), "garments": [garment]} | dict.fromkeys(optional(JsonTryOn))
    answer = http.post("/v1/try-ons", json=body)
    assert answer.status_code == 202, answer.text
    plain = http.post("/v1/try-ons", json={"person": data_url(PERSON), "garments": [data_url(SHIRT)]})
    for name in ("garments", "metadata", "size"):
        assert answer.json()[name] == plain.json()[name]
    inputs = {"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)} | dict.fromkeys(optional(FashnInputs))
    fashn = http.post("/v1/run", json={"model_name": "tryon-v1.6", "inputs": inputs, "webhook_url": None})
    assert fashn.status_code == 200, fashn.text


@pytest.mark.parametrize("model", BODIES, ids=lambda model: model.__name__)
def test_the_document_says_which_fields_may_be_null(model: type[Any]) -> None:
    for name, declared in model.model_json_schema()["properties"].items():
        assert ({"type": "null"} in declared.get("anyOf", ())) == (name in optional(model)), name


def form(*disposition: str) -> tuple[bytes, dict[str, str]]:
    """A form of parts with the given Content-Disposition each, and the header that names its boundary."""
    pieces = [f"--b\r\nContent-Disposition: form-data; {said}\r\n\r\n".encode() for said in disposition]
    pictures = [PERSON, SHIRT]
    body = b"".join(piece + picture + b"\r\n" for piece, picture in zip(pieces, pictures, strict=True))
    return body + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    "named",
    ["filename*=UTF-8''m%C3%A9.jpg", "FILENAME* = utf-8''x.jpg", "filename=x; filename*=UTF-8''m%C3%A9.jpg"],
)
def test_a_part_with_an_extended_file_name_is_a_file(http: httpx.Client, named: str) -> None:
    body, headers = form(f'name="person"; {named}', f'name="garment"; {named}')
    assert http.post("/v1/try-ons", content=body, headers=headers).status_code == 202


def test_a_name_that_only_looks_like_an_extended_file_name_is_a_name(http: httpx.Client) -> None:
    body, headers = form('name="person; filename*=x"', 'name="garment"; filename="x"')
    answer = http.post("/v1/try-ons", content=body, headers=headers)
    check(answer, 422, "invalid-text", "person; filename*=x")  # a field of text, which a photo is not


def test_a_slash_at_the_end_changes_nothing(http: httpx.Client) -> None:
    made = http.post("/v1/try-ons/", files=parts(), headers={"Prefer": "wait=20"})
    assert made.status_code == 200, made.text
    for path in (made.json()["links"]["self"], made.json()["links"]["image"], "/v1/models", "/livez", "/docs"):
        plain, slashed = http.get(path), http.get(path + "/")
        assert (slashed.status_code, slashed.content) == (200, plain.content), path
    assert http.get(f"/v1/models/{INFO.model}/").json()["id"] == INFO.model
    assert http.put("/v1/try-ons/").headers["allow"] == "POST"
    wrong = http.post("/v1/images/edits/", files=[("image", ("p.jpg", PERSON))])
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "image")
    assert http.get("/v1/nothing/").status_code == 404


@pytest.fixture
def image(http: httpx.Client) -> tuple[str, bytes, str]:
    """Address, bytes and ETag of a finished picture."""
    made = http.post("/v1/try-ons", files=parts(), headers={"Prefer": "wait=20"}).json()
    whole = http.get(made["links"]["image"])
    assert whole.headers["accept-ranges"] == "bytes"
    return made["links"]["image"], whole.content, whole.headers["etag"]


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)), ("bytes=10-19", slice(10, 20)), ("bytes=10-", slice(10, None)),
        ("bytes=-5", slice(-5, None)), ("bytes=-999999", slice(None)), ("bytes=3-999999", slice(3, None)),
        ("Bytes=0-1", slice(0, 2)),
    ],
)  # fmt: skip
def test_a_part_of_a_picture(http: httpx.Client, image: tuple[str, bytes, str], asked: str, part: slice) -> None:
    address, whole, etag = image
    answer = http.get(address, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, whole[part])
    first, last, _ = part.indices(len(whole))
    assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{len(whole)}"
    assert answer.headers["etag"] == etag and answer.headers["content-length"] == str(last - first)


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes=a-b", ""])
def test_what_is_no_single_part_is_answered_with_the_whole(
    http: httpx.Client, image: tuple[str, bytes, str], asked: str
) -> None:
    answer = http.get(image[0], headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, image[1])


def test_a_part_behind_the_end_is_416(http: httpx.Client, image: tuple[str, bytes, str]) -> None:
    for asked in (f"bytes={len(image[1])}-", "bytes=-0"):
        answer = http.get(image[0], headers={"Range": asked})
        check(answer, 416, "range-not-satisfiable", f"{len(image[1])} bytes")


def test_a_part_of_another_picture_is_the_whole_of_this_one(http: httpx.Client, image: tuple[str, bytes, str]) -> None:
    address, whole, etag = image
    same = http.get(address, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = http.get(address, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (same.status_code, other.status_code, other.content) == (206, 200, whole)
    assert http.get(address, headers={"Range": "bytes=0-9", "If-None-Match": "*"}).status_code == 304


def test_what_is_said_twice_of_a_garment_is_refused_and_not_chosen_from(http: httpx.Client) -> None:
    two = [("image", ("a.jpg", SHIRT)), ("image", ("b.jpg", PERSON))]
    check(http.put("/v1/garments/TWICE", files=two), 400, "invalid-field", "image was sent more than once")
    both = http.put("/v1/garments/TWICE?layer=open", files={"image": ("g.jpg", SHIRT)}, data={"layer": "closed"})
    check(both, 422, "conflicting-fields", "layer: the query and the form differ")
    same = http.put("/v1/garments/TWICE?layer=open", files={"image": ("g.jpg", SHIRT)}, data={"layer": "open"})
    assert (same.status_code, same.json()["layer"]) == (201, "open")


def test_a_layer_that_is_too_long_is_refused_and_not_cut(http: httpx.Client) -> None:
    answer = http.put("/v1/garments/LONG", files={"image": ("g.jpg", SHIRT)}, data={"layer": "x" * 121})
    check(answer, 400, "invalid-field", "120")
