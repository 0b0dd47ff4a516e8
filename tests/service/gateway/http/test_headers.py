"""Header parsing, value by value, and what holds for any text at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.gateway.http import headers


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=5", 5.0),
        ("respond-async, wait=20", 20.0),
        ('wait="7"; foo', 7.0),
        ("WAIT=5", 5.0),
        ("wait=0", 0.0),
        ("wait=600", 60.0),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=²", None),
        ("return=minimal", None),
    ],
)
def test_prefer_wait(value: str | None, seconds: float | None) -> None:
    assert headers.prefer_wait(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 120.0), ("90", 90.0), ("90s", 90.0), ("2m", 120.0), ("10m30s", 630.0), ("1.5s", 1.5)]
)
def test_cancel_after(value: str | None, seconds: float) -> None:
    assert headers.cancel_after(value, default_s=120, max_s=900) == seconds


@pytest.mark.parametrize("value", ["", "0", "0.5s", "901s", "1h", "soon", "-5s", "1e3", "٣s", "5 s", "nan", "inf"])
def test_cancel_after_refuses(value: str) -> None:
    with pytest.raises(InvalidRequest, match="Cancel-After") as caught:
        headers.cancel_after(value, default_s=120, max_s=900)
    assert caught.value.code == "invalid-header"


def test_idempotency_keys() -> None:
    assert headers.idempotency_key(None) is None
    assert headers.idempotency_key("abc") == "abc"
    assert headers.idempotency_key(' "abc" ') == "abc"
    for value in ("", '""', "a b", "é", "k" * 256, "a\x00"):
        with pytest.raises(InvalidRequest):
            headers.idempotency_key(value)


@given(st.text())
def test_any_text_is_a_value_or_an_error_of_ours(text: str) -> None:
    assert headers.request_id(text)
    assert headers.traceparent(text) in (None, text)
    headers.prefer_wait(text)
    for parse in (
        headers.idempotency_key,
        headers.last_event_id,
        lambda value: headers.cancel_after(value, default_s=1, max_s=9),
    ):
        try:
            parse(text)
        except InvalidRequest as error:
            assert error.status == 400


def test_request_ids_are_kept_only_when_safe_to_log() -> None:
    assert headers.request_id("order-7:a.b_c") == "order-7:a.b_c"
    for value in (None, "", "a b", "x" * 129, "a\nb"):
        assert headers.request_id(value).startswith("req_")
    assert len({headers.request_id(None) for _ in range(100)}) == 100


def test_traceparent() -> None:
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert headers.traceparent(good) == good
    for value in (None, "", good.upper(), good[:-1], "ff" + good[2:]):
        assert headers.traceparent(value) is None
