"""Base64 in every way clients write it, and nothing that is none."""

from __future__ import annotations

import base64
import secrets
import textwrap
from collections.abc import Callable

import pytest
from gateway_live import picture
from hypothesis import given
from hypothesis import strategies as st

from service.errors import PayloadTooLarge, UnprocessableRequest
from service.gateway.http.base64_text import PIECE, TooLong, decoded
from service.gateway.http.bodies import decode_image_text
from service.settings import Settings

MOST = 1 << 24
SETTINGS = Settings(image_limit_bytes=4096)


def plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


WAYS: dict[str, Callable[[bytes], str]] = {
    "plain": plain,
    "Android's default: lines of 76": lambda data: base64.encodebytes(data).decode(),
    "MIME: CRLF": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "base64 FILE": lambda data: plain(data) + "\n",
    "openssl: lines of 64": lambda data: "\n".join(textwrap.wrap(plain(data), 64)) + "\n",
    "no padding": lambda data: plain(data).rstrip("="),
    "the URL's alphabet": urlsafe,
    "the URL's alphabet, no padding": lambda data: urlsafe(data).rstrip("="),
    "no padding, trailing newline": lambda data: plain(data).rstrip("=") + "\r\n",
    "spaces and tabs before and behind": lambda data: " \t" + plain(data) + " \t\n",
    "escaped for an address": lambda data: plain(data).replace("+", "%2B").replace("/", "%2F").replace("=", "%3d"),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 57, 58, 1000, 3001])
def test_every_way_is_read(way: str, size: int) -> None:
    data = b"\xfb\xef\xff"[: min(size, 3)] + secrets.token_bytes(max(0, size - 3))
    assert decoded(WAYS[way](data), MOST) == data


@pytest.mark.parametrize("way", list(WAYS))
def test_pieces_fit_together_wherever_they_are_cut(way: str) -> None:
    for extra in range(5):
        data = secrets.token_bytes(PIECE + extra)
        assert decoded(WAYS[way](data), MOST) == data


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 400), st.sampled_from(" \r\n\t")), max_size=9))
def test_white_space_may_be_anywhere(data: bytes, spaces: list[tuple[int, str]]) -> None:
    text = plain(data)
    for at, space in spaces:
        text = text[:at] + space + text[at:]
    assert decoded(text, MOST) == data


NO_BASE64 = ["!!!!", "A", "AAAAA", "AA=A", "=AAA", "AAAA=", "AAAA====", "AA===", "A=", "AAA==", "QQ==QQ==", "QÄ==", "%"]


@pytest.mark.parametrize("text", [*NO_BASE64, "QQ\x00="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decoded(text, MOST)
    with pytest.raises(ValueError, match=r"."):
        decoded("A" * (PIECE - 4) + text, MOST)


def test_bytes_count_and_not_the_lines_they_come_in() -> None:
    data = secrets.token_bytes(4096)
    assert decoded(base64.encodebytes(data).decode(), 4096) == data
    for length in (4097, 5 * PIECE):
        with pytest.raises(TooLong):
            decoded(base64.encodebytes(secrets.token_bytes(length)).decode(), 4096)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_picture_comes_so_with_and_without_a_data_url(way: str) -> None:
    data = picture(64, 64)
    for before in ("", "data:image/jpeg;base64,", "\n data:image/jpeg;charset=utf-8;base64,", "data:;base64,"):
        assert decode_image_text(before + WAYS[way](data), "person", SETTINGS) == data


def test_what_is_refused_names_the_field() -> None:
    with pytest.raises(UnprocessableRequest) as broken:
        decode_image_text("hello, world!", "person", SETTINGS)
    assert (broken.value.code, broken.value.pointer) == ("invalid-base64", "person")
    with pytest.raises(PayloadTooLarge) as large:
        decode_image_text(plain(bytes(4097)), "person", SETTINGS)
    assert (large.value.code, large.value.pointer) == ("image-too-large", "person")
