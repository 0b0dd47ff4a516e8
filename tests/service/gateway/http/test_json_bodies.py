"""JSON with long strings is the value that json.loads gives, without json.loads ever seeing the long strings."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, PayloadTooLarge, UnprocessableRequest
from service.gateway.http import json_bodies
from service.gateway.http.json_bodies import LONG_BYTES, MAX_SMALL_BYTES, MAX_STRUCTURE, Structure, parse_body

PICTURE = base64.b64encode(os.urandom(100_000)).decode()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(value=VALUES, ascii_only=st.booleans())
def test_what_is_short_is_what_it_was(value: Any, ascii_only: bool) -> None:
    assert parse_body(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def test_long_strings_come_back_in_their_places_and_are_never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": PICTURE, "b": [PICTURE[:50_000], 'with "quotes" and \\', {"c": "data:image/png;base64," + PICTURE}]}
    seen: list[int] = []
    loads = json.loads

    def watched(text: str, **options: Any) -> Any:
        seen.append(len(text))
        return loads(text, **options)

    data = json.dumps(value).encode()
    monkeypatch.setattr(json_bodies.json, "loads", watched)
    assert parse_body(data) == value
    assert len(data) > 300_000 and max(seen) < 1000


@pytest.mark.parametrize(
    ("escaped", "character"),
    [(r"\/", "/"), (r"\n", "\n"), (r"\r\n", "\r\n"), (r"\u003d", "="), (r"\u002B", "+"), (r"\u002F", "/")],
)
def test_the_ways_encoders_write_base64(escaped: str, character: str) -> None:
    text = ("A" * 76 + escaped) * 1000
    assert parse_body(f'["{text}"]'.encode()) == [("A" * 76 + character) * 1000]


@pytest.mark.parametrize(
    "text",
    [
        r"\\/" * LONG_BYTES,
        r"\t" * LONG_BYTES,
        "é" * LONG_BYTES,
        r"\"" * LONG_BYTES,
        r"\u0041" * LONG_BYTES,
        "\\" * 99_999,
    ],
)
def test_a_long_string_that_is_no_picture_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(f'{{"a": "{text}"}}'.encode())
    assert caught.value.code == "invalid-json"


@pytest.mark.parametrize("text", ['"', '{"a": "', '{"a', "{", "", "nan", "[NaN]", '{"' + "a" * 99_999 + '": 1}'])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(text.encode())
    assert caught.value.status == 400 and caught.value.code == "invalid-json"


def test_without_its_pictures_a_body_is_small() -> None:
    many = {str(number): "x" * (LONG_BYTES - 10) for number in range(MAX_SMALL_BYTES // LONG_BYTES + 1)}
    with pytest.raises(PayloadTooLarge) as caught:
        parse_body(json.dumps(many).encode())
    assert caught.value.code == "field-too-large"


@pytest.mark.parametrize("piece", [b"[", b'{"a":', b'"a"', b",", b'""'])
def test_absurdly_many_values_are_refused_while_they_arrive_a_byte_at_a_time_too(piece: bytes) -> None:
    for step in (1, 1000):
        structure, data = Structure(), piece * 5 * MAX_STRUCTURE
        with pytest.raises(InvalidRequest):
            for start in range(0, len(data), step):
                structure.add(data[start : start + step])


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (rb'{"metadata": {"order": "\ud800"}}', "metadata.order"),
        (rb'{"metadata": {"\udfff": "x"}}', "metadata"),
        (rb'{"garments": [{"layer": "\ude00\ud83d"}]}', "garments.0.layer"),
        (rb'"\ud800"', "body"),
        (b'{"prompt": "\xed\xa0\x80"}', "body"),
        (b'{"prompt": "\xff"}', "body"),
    ],
)
def test_what_is_no_text_is_named(data: bytes, where: str) -> None:
    with pytest.raises(UnprocessableRequest) as caught:
        parse_body(data)
    assert caught.value.code == "invalid-text" and caught.value.pointer == where


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_body(rb'["\ud83d\ude00"]') == ["😀"]
