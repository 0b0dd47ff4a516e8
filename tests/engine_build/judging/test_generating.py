"""Results made through a service over real HTTP: once each, whole or not at all, and failures by name."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from real_pairs import write_viton_hd
from scripted_judge import write_set

from engine_build.errors import RequestError
from engine_build.judging.generating import Service, generate, write_baseline
from engine_build.judging.sets import load_set

PNG = io.BytesIO()
Image.new("RGB", (8, 8), (1, 2, 3)).save(PNG, "PNG")


@dataclass
class TryOns:
    """A service that knows as much of a try-on as a client sees; `ends` says how the n-th one does."""

    ends: dict[int, str] = field(default_factory=dict)
    busy: int = 0
    url: str = ""
    forms: list[dict[str, list[bytes]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)

    def post(self, content_type: str, body: bytes, key: str) -> tuple[int, dict[str, str], object]:
        if self.busy:
            self.busy -= 1
            return 503, {"retry-after": "0"}, {"code": "queue-full"}
        message = BytesParser().parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body)
        form: dict[str, list[bytes]] = {}
        for part in message.get_payload():
            name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
            form.setdefault(str(name), []).append(part.get_payload(decode=True))  # type: ignore[union-attr,arg-type]
        if key not in self.jobs:
            self.jobs[key] = len(self.jobs)
            self.forms.append(form)
        self.keys.append(key)
        return 202, {}, {"id": f"job-{self.jobs[key]}", "status": "queued"}

    def get(self, path: str) -> tuple[int, dict[str, str], object]:
        if path == "/readyz":
            return 200, {}, {}
        number = int(path.split("/")[3].removeprefix("job-"))
        if path.endswith("/image"):
            return 200, {}, PNG.getvalue()
        end = self.ends.get(number, "succeeded")
        return (
            200,
            {},
            {"id": f"job-{number}", "status": end, "error": {"code": "engine-failed"} if end == "failed" else None},
        )


@contextmanager
def serving(service: TryOns) -> Iterator[TryOns]:
    """The service, up while inside."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, headers: dict[str, str], value: object) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, said in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, said)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.reply(*service.post(self.headers["content-type"], body, self.headers["idempotency-key"]))

        def do_GET(self) -> None:
            self.reply(*service.get(self.path))

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_missing_results_are_made_and_those_there_are_left(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 4)
    judged, out = load_set(str(folder)), folder / "made"
    out.mkdir()
    (out / "s001.png").write_bytes(b"mine")
    with serving(TryOns(busy=2)) as service:
        made = generate(judged, out, Service(service.url, seed=5, steps=2, size="64x96", parallel=1))
        assert (made.made, made.there, made.failed) == (3, 1, {})
        assert generate(judged, out, Service(service.url)).there == 4 and len(service.forms) == 3
        form = service.forms[1]
        assert form["categories"] == [b"tops,pants,coats"] and form["output_format"] == [b"png"]
        assert (form["seed"], form["steps"], form["size"]) == ([b"5"], [b"2"], [b"64x96"])
        assert form["prompt"] == [b"wear them, number 2"] and "layers" not in form
        assert form["garment"] == [one.picture.data() for one in judged.samples[2].references]
        assert form["person"] == [judged.samples[2].person.data()]
        first = service.keys[-1]
        (out / "s003.png").unlink()
        generate(judged, out, Service(service.url, seed=5, steps=2, size="64x96"))
        assert service.keys[-1] == first and len(service.forms) == 3, "a killed run finds the job it had begun"
    assert (out / "s001.png").read_bytes() == b"mine" and (out / "s000.png").read_bytes() == PNG.getvalue()
    assert sorted(path.name for path in out.iterdir()) == [f"s00{i}.png" for i in range(4)]


def test_an_instruction_of_the_grammar_is_sent_as_categories_and_layers(tmp_path: Path) -> None:
    judged = load_set("world:6")
    with serving(TryOns()) as service:
        generate(judged, tmp_path, Service(service.url, parallel=1))
        said = [(one["categories"][0].decode(), one.get("layers", [b""])[0].decode()) for one in service.forms]
    assert all("prompt" not in one for one in service.forms)
    for (categories, layers), sample in zip(said, judged.samples, strict=True):
        assert categories == ",".join(one.category for one in sample.references)
        worded = [one.layer or "" for one in sample.references]
        assert layers == (",".join(worded) if any(worded) else "")
    assert any(layers for _, layers in said)


def test_what_fails_is_left_without_a_result_and_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    with serving(TryOns(ends={1: "failed", 2: "expired"})) as service:
        made = generate(load_set(str(folder)), folder / "made", Service(service.url, parallel=1))
    assert made.made == 1 and made.failed == {"s001": "engine-failed", "s002": "expired"}
    assert [path.name for path in (folder / "made").iterdir()] == ["s000.png"]
    with serving(TryOns(busy=10_000)) as service:
        made = generate(load_set(str(folder)), folder / "more", Service(service.url, patience_s=0.0))
    assert set(made.failed.values()) <= {"queue-full"} and len(made.failed) == 3
    with pytest.raises(RequestError, match="no service answers"):
        generate(load_set(str(folder)), folder / "none", Service("http://127.0.0.1:9"))


def test_a_photo_that_is_its_own_truth_is_not_dressed(tmp_path: Path) -> None:
    folder = write_viton_hd(tmp_path / "viton", 2)
    with pytest.raises(RequestError, match="the truth itself"):
        generate(load_set(str(folder), split="train", pairs="paired"), tmp_path / "made", Service("http://127.0.0.1:9"))


def test_baselines(tmp_path: Path) -> None:
    judged = load_set("world:2")
    assert write_baseline(judged, tmp_path / "copy", "copy") == write_baseline(judged, tmp_path / "truth", "truth") == 2
    one = judged.samples[0]
    assert one.truth is not None
    for name, picture in (("copy", one.person), ("truth", one.truth)):
        with Image.open(one.result_in(tmp_path / name)) as written, Image.open(io.BytesIO(picture.data())) as shown:
            assert written.tobytes() == shown.tobytes()
    with pytest.raises(RequestError, match="does not know the truth"):
        write_baseline(load_set(str(write_set(tmp_path / "set", 1))), tmp_path / "x", "truth")
    with pytest.raises(RequestError, match="choose from copy, truth"):
        write_baseline(judged, tmp_path / "x", "best")
