"""A real HTTP server on loopback that speaks the OpenAI chat API and answers as it was told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class VisionEndpoint:
    """Its address and every request it got; `answer(number, request)` makes the reply to request `number`."""

    answer: Callable[[int, dict[str, Any]], Answer]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def said(form: object) -> Answer:
    """The form as a model's answer."""
    content = form if isinstance(form, str) else json.dumps(form)
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def usable(category: str = "tops", layer: str | None = None, description: str | None = None) -> dict[str, Any]:
    """The form of a good sample with one garment."""
    row = {"image": 2, "category": category, "layer": layer, "description": description}
    return {"usable": True, "problem": "none", "garments": [row]}


@contextmanager
def serving(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[VisionEndpoint]:
    """The endpoint, up while inside."""
    endpoint = VisionEndpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with endpoint.lock:
                endpoint.requests.append({"path": self.path, **request})
                endpoint.keys.append(self.headers.get("authorization"))
                number = len(endpoint.requests) - 1
            status, headers, body = endpoint.answer(number, request)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
