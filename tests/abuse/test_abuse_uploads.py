"""Uploads that stop before their end: a phone in a lift is waited for, and nobody holds the room of others."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing

from besieged import MIB, Besieged, closed
from test_abuse_upgrades import form

LIMIT = 80 * MIB
LEFT = 64
PAUSE_S = 9.0
HOLDERS = 8
HEAD = b"POST /v1/try-ons HTTP/1.1\r\nHost: localhost\r\n"
START = b'--b\r\nContent-Disposition: form-data; name="garment"; filename="g.jpg"\r\n\r\n'


def test_uploads_that_stop_just_before_their_end_keep_nobody_out_and_little_in_memory(besieged: Besieged) -> None:
    kinds = (
        (b"multipart/form-data; boundary=b", START),
        (b"application/json", b'{"person":"'),
        (b"image/png", b"\x89PNG\r\n\x1a\n"),
    )
    megabyte, holders = b"A" * MIB, []
    with besieged.siege(), besieged.client() as client, ExitStack() as stack:
        for number in range(HOLDERS):
            kind, start = kinds[number % len(kinds)]
            line = HEAD if kind != b"image/png" else HEAD.replace(b"POST /v1/try-ons", b"PUT /v1/garments/HELD")
            raw = stack.enter_context(closing(besieged.connect()))
            raw.sendall(line + b"Content-Type: " + kind + b"\r\nContent-Length: %d\r\n\r\n" % LIMIT + start)
            holders.append((raw, LIMIT - LEFT - len(start)))
        for sent in range(0, LIMIT, MIB):  # in turns, so that none of them is slow until all are there
            for raw, count in holders:
                raw.sendall(megabyte[: max(0, count - sent)])
        answer = besieged.dress(client, headers={"Prefer": "wait=30"})
        assert answer.status_code == 200 and answer.json()["status"] == "succeeded", answer.text


def test_an_upload_that_pauses_longer_than_a_slow_one_may_is_waited_for(besieged: Besieged) -> None:
    kind, body = form()
    head = HEAD + b"Connection: close\r\nContent-Type: " + kind.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    with besieged.siege(), besieged.connect() as raw:
        raw.sendall(head + body[: len(body) // 2])
        time.sleep(PAUSE_S)
        raw.sendall(body[len(body) // 2 :])
        assert closed(raw)[1].startswith(b"HTTP/1.1 202 ")
