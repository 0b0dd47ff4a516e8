"""Compressed bodies: gzip is undone within the limits of a plain body, everything else is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gateway_live import Live, data_url, parts, picture
from refused_answers import check

BODY = json.dumps({"person": data_url(picture(colour="bisque")), "garments": [data_url(picture(64, 64))]}).encode()
JSON = {"Content-Type": "application/json"}


def post(http: httpx.Client, content: Any, encoding: str, **headers: str) -> httpx.Response:
    return http.post("/v1/try-ons", content=content, headers=JSON | {"Content-Encoding": encoding} | headers)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_a_gzipped_body_is_read(http: httpx.Client, encoding: str) -> None:
    assert post(http, gzip.compress(BODY), encoding).status_code == 202


def test_a_gzipped_form_is_read_and_is_the_same_request(http: httpx.Client) -> None:
    plain = httpx.Request("POST", "http://x/", files=parts(2))
    body, kind = plain.read(), {"Content-Type": plain.headers["content-type"], "Idempotency-Key": "zipped"}
    first = http.post("/v1/try-ons", content=body, headers=kind)
    again = http.post("/v1/try-ons", content=gzip.compress(body), headers=kind | {"Content-Encoding": "gzip"})
    assert (first.status_code, again.json()["id"]) == (202, first.json()["id"])


def test_a_body_in_pieces_and_in_members_is_read(http: httpx.Client) -> None:
    half = len(BODY) // 2
    members = gzip.compress(BODY[:half]) + gzip.compress(BODY[half:])

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(members), 97):
            yield members[at : at + 97]

    assert post(http, pieces(), "gzip").status_code == 202


@pytest.mark.parametrize(
    "content",
    [BODY, gzip.compress(BODY)[:-9], gzip.compress(BODY)[:40], gzip.compress(BODY) + b"more", b"", b"\x1f\x8b"],
    ids=["plain", "cut", "cut early", "more behind", "empty", "two bytes"],
)
def test_what_is_labelled_gzip_must_be_gzip(http: httpx.Client, content: bytes) -> None:
    check(post(http, content, "gzip"), 400, "invalid-encoding", "not a whole gzip file")


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "compress", "gzip, br"])
def test_other_encodings_are_415_and_told_which_is_taken(http: httpx.Client, encoding: str) -> None:
    answer = post(http, BODY, encoding)
    check(answer, 415, "unsupported-content-encoding", "gzip")
    assert answer.headers["accept-encoding"] == "gzip"


def test_identity_is_no_encoding(http: httpx.Client) -> None:
    assert post(http, BODY, "identity").status_code == 202


def test_what_comes_out_is_held_to_the_limit_of_a_body(launch: Callable[..., Live]) -> None:
    half = gzip.compress(os.urandom(1_500_000).hex().encode())
    assert len(half) < 2_000_000
    with launch(body_limit_bytes=2_000_000).client() as client:
        check(post(client, half, "gzip"), 413, "body-too-large", "at most 1 MB")


def test_a_bomb_is_refused_long_before_it_is_a_body(http: httpx.Client) -> None:
    """A thousandfold: 200 kB that would be 40 MB, half of what a body may have."""
    bomb = gzip.compress(b'{"prompt": "' + b"x" * 40_000_000, compresslevel=9)
    assert len(bomb) < 200_000
    check(post(http, bomb, "gzip"), 413, "body-too-large", "50 times")


def test_a_question_without_a_body_may_name_an_encoding(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"Content-Encoding": "gzip"}).status_code == 200
