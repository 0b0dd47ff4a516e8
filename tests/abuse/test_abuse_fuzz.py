"""A bounded run of what `make fuzz` does for hours, and that it would notice."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from besieged import Besieged
from fuzz import Findings
from hostile_requests import BASES, SHAPES, asked, mutants, whole, wrong_with

REQUESTS = 80


def test_random_damage_to_requests_is_answered_or_closed(besieged: Besieged) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    batch = [("undamaged", whole(*base)) for base in BASES] + list(mutants(seed, REQUESTS))
    with besieged.siege(), ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda one: asked(besieged, one[1]), batch))
    wrong = {name: reason for (name, _), answer in zip(batch, said, strict=True) if (reason := wrong_with(answer))}
    assert not wrong
    statuses = {answer[9:12] for answer in said}
    assert b"202" in statuses and b"404" in statuses and len(statuses) > 4, statuses


def test_every_shape_of_damage_is_tried_and_the_same_seed_tries_the_same() -> None:
    batch = list(mutants(7, 200))
    assert {name.split("-")[1] for name, _ in batch} == set(SHAPES)
    for shape, word in (
        ("trailers", b"\r\n0\r\n"),
        ("upgrade", b"pgrade"),
        ("host", b"evil"),
        ("surrogate", b"\xed\xa0"),
    ):
        assert any(word in request for name, request in batch if shape in name), shape
    assert batch == list(mutants(7, 200))


PROBLEM = b'HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\r\n{"status":400,"code":"x"}'


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", None),
        (b"HTTP/1.1 202 Accepted\r\n\r\n{}", None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + PROBLEM, None),
        (PROBLEM, None),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}HTTP/1.1 502 Bad Gateway\r\n\r\n", "status 502"),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\r\nno", "not a problem document"),
        (PROBLEM.replace(b'"code"', b'"kode"'), "no code"),
        (PROBLEM[:-3], "not JSON"),
        (b"hello", "not HTTP"),
    ],
)
def test_a_wrong_answer_would_be_noticed(said: bytes, reason: str | None) -> None:
    found = wrong_with(said)
    assert found is None if reason is None else reason in (found or "")


def test_what_fails_is_kept_with_its_reason(tmp_path: Path) -> None:
    found = Findings(tmp_path / "kept")
    found.add("request-seed1-7", b"GET /", "status 500")
    assert found.failed == 1
    assert (tmp_path / "kept" / "request-seed1-7.bin").read_bytes() == b"GET /"
    assert (tmp_path / "kept" / "request-seed1-7.txt").read_text() == "status 500\n"
