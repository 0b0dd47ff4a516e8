"""Hostile pictures over HTTP, through every door a picture can come in by.

Truncation at every byte and random damage of every format, decoder by decoder: tests/service/pictures/test_pool.py;
here a sample of them passes through a whole service.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import httpx
import pytest
from besieged import ANSWER_S, STALL_S, Besieged, refused
from hostile_pictures import BOMBS, CARRIERS, FORMATS, MARK, MASKED, encoded, mutants, plain, small

SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
MUTANTS = 60


def post(client: httpx.Client, person: bytes, kind: str = "image/jpeg", name: str = "p.jpg") -> httpx.Response:
    files = [("person", (name, person, kind)), ("garment", ("g.jpg", SHIRT, "image/jpeg"))]
    return client.post("/v1/try-ons", files=files)


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_refused_in_time_and_memory(besieged: Besieged, name: str) -> None:
    make, codes = BOMBS[name]
    data = make()
    assert 0 < len(data) < 4 << 20
    with besieged.client() as client, besieged.siege():
        for where in ("person", "garment"):
            given = {"person": SHIRT, "garment": SHIRT} | {where: data}
            started = time.monotonic()
            answer = client.post("/v1/try-ons", files=[(n, (n, d, "image/jpeg")) for n, d in given.items()])
            if answer.status_code == 503:
                assert answer.json()["code"] in codes and time.monotonic() - started < ANSWER_S + STALL_S
                continue
            assert refused(answer, started, *codes)["pointer"].startswith(where)


def test_many_bombs_at_once_leave_room_for_others(besieged: Besieged) -> None:
    make, codes = BOMBS["png, profile of 64 MB"]
    bomb = make()
    with besieged.client() as client, besieged.siege():
        for _ in range(5):
            started = time.monotonic()
            files = [("person", ("p", bomb))] + [("garment", ("g", bomb))] * 6
            refused(client.post("/v1/try-ons", files=files), started, *codes)


def test_what_begins_as_something_else_is_that(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for data in MASKED.values():
            for kind in ("image/jpeg", "text/html", "application/octet-stream"):
                started = time.monotonic()
                problem = refused(post(client, data, kind), started, "unsupported-image-format")
                assert problem["status"] == 415
            started = time.monotonic()
            put = client.put("/v1/garments/masked", content=data, headers={"Content-Type": "image/png"})
            refused(put, started, "unsupported-image-format")


def stored(besieged: Besieged) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (besieged.folder / "data").rglob("*") if path.is_file()}


def test_a_stowaway_is_neither_stored_nor_served(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for name, data in CARRIERS.items():
            assert MARK in data
            files = [("person", ("p.html", data, "text/html")), ("garment", ("g.svg", data, "image/svg+xml"))]
            answer = client.post("/v1/try-ons", files=files, headers={"Prefer": "wait=30"})
            assert answer.json()["status"] == "succeeded", f"{name}: {answer.text}"
            picture = client.get(answer.json()["result"]["url"])
            assert MARK not in picture.content
            assert picture.headers["content-type"] == "image/jpeg"
            assert picture.headers["x-content-type-options"] == "nosniff"
            assert client.put("/v1/garments/carrier", files={"image": ("x", data)}).status_code in (200, 201)
        client.delete("/v1/garments/carrier")
        assert not [path for path, kept in stored(besieged).items() if MARK in kept]


def test_files_cut_off_anywhere_are_said_to_be(besieged: Besieged) -> None:
    codes = ("empty-image", "damaged-image", "unsupported-image-format", "zero-size-image")
    draw = random.Random(11)
    with besieged.client() as client, besieged.siege():
        for kind in FORMATS:
            whole = small(kind)
            for length in sorted({0, 1, 12, len(whole) // 2, *draw.sample(range(len(whole) * 9 // 10), 4)}):
                started = time.monotonic()
                refused(post(client, whole[:length]), started, *codes)


def test_random_damage_is_a_picture_or_a_problem(besieged: Besieged, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    with besieged.client() as client, besieged.siege():
        for name, data in mutants(seed, MUTANTS):
            answer = post(client, data)
            assert answer.status_code in (202, 413, 415, 422), f"{name}: {answer.text}"


PATHS = [
    "../../../../etc/passwd",
    "..\\..\\windows\\system32\\config",
    "/etc/passwd",
    "file:///etc/passwd",
    "con.jpg\x00.html",
    "%2e%2e%2fetc%2fpasswd",
    "$(touch hostile)",
    "`touch hostile`; rm -rf /",
    "‮gpj.exe",
    "👗" * 500,
    "a" * 10_240,
]


def test_a_file_name_is_only_a_name(besieged: Besieged) -> None:
    with besieged.client() as client, besieged.siege():
        for name in PATHS:
            answer = post(client, SHIRT, name=name)
            assert answer.status_code in (202, 400), answer.text
            assert name not in besieged.log("gateway")
        for path in stored(besieged):
            assert "passwd" not in path.name and "hostile" not in path.name and len(path.name) < 200
        put = client.put("/v1/garments/" + "..%2f..%2fetc%2fpasswd", content=SHIRT, headers={"Content-Type": "image/x"})
        assert put.status_code in (400, 404), put.text
