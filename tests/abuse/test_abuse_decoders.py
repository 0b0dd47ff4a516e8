"""Few connections with costly pictures: the decoders stay fair, the line ends, and a file's answer does not change."""

from __future__ import annotations

import threading

import httpx
from besieged import Besieged
from hostile_pictures import costly_png, encoded, plain

CONNECTIONS = 8
SHIRT = encoded(plain(64, 64, "navy"), "JPEG")
PERSON = encoded(plain(), "PNG")


class Attack:
    """Posts of one costly picture as person and garments, over and over, on several connections."""

    def __init__(self, besieged: Besieged, picture: bytes) -> None:
        self.answers: list[httpx.Response] = []
        self._besieged = besieged
        self._files = [("person", ("p.png", picture))] + [("garment", ("g.png", picture))] * 2
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._post, daemon=True) for _ in range(CONNECTIONS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _post(self) -> None:
        with self._besieged.client() as client:
            while not self._over.is_set():
                self.answers.append(client.post("/v1/try-ons", files=self._files))


def guest(besieged: Besieged) -> httpx.Client:
    """Somebody at another address."""
    return httpx.Client(base_url=besieged.url, timeout=120, transport=httpx.HTTPTransport(local_address="127.0.0.9"))


def test_eight_connections_do_not_hold_the_decoders(besieged: Besieged) -> None:
    attack = Attack(besieged, costly_png(6300))
    with besieged.siege():
        attack.start()
        try:
            with guest(besieged) as client:
                files = [("person", ("p.png", PERSON)), ("garment", ("g.jpg", SHIRT))]
                for _ in range(5):
                    before = len(attack.answers)
                    answer = client.post("/v1/try-ons", files=files)
                    assert answer.status_code == 202, answer.text
                    # In the time of one attacker's turn or two, not behind all that they have in the line.
                    assert len([a for a in attack.answers[before:] if a.status_code == 202]) <= CONNECTIONS // 2
        finally:
            attack.stop()
    assert {answer.status_code for answer in attack.answers} <= {202, 503}
    for answer in attack.answers:
        if answer.status_code == 503:
            assert answer.json()["code"] in ("decoder-busy", "queue-full") and answer.headers["retry-after"]


def test_the_pictures_of_one_request_have_a_budget(besieged: Besieged) -> None:
    dear = costly_png(6300)
    with besieged.client() as client, besieged.siege():
        files = [("person", ("p.png", dear))] + [("garment", ("g.png", dear))] * 6
        for _ in range(3):
            answer = client.post("/v1/try-ons", files=files)
            assert answer.status_code == 422 and answer.json()["code"] == "image-too-costly", answer.text
            assert "together" in answer.json()["detail"]
