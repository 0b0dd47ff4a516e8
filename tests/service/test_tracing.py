"""Traces across the queue: a worker's span, in another process, is a child of the request's, over real OTLP."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROCESS = """
import sys
from service.settings import load_settings
from service.telemetry import configure_tracing, current_traceparent, span
configure_tracing(load_settings(), sys.argv[1])
with span(sys.argv[2], parent=sys.argv[3] or None, attributes={"garments": 2}):
    print(current_traceparent())
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def run(endpoint: str, part: str, name: str, parent: str = "", otel: str = "true") -> str:
    environment = os.environ | {"CHANGEROOM_OTEL": otel, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, part, name, parent],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_worker_s_span_belongs_to_the_request(
    collector: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    endpoint, received = collector
    carried = run(endpoint, "changeroom-gateway", "POST /v1/try-ons")
    run(endpoint, "changeroom-worker", "try_on", parent=carried)
    spans = {
        span.name: (span, resource.resource.attributes)
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    asked, worked = spans["POST /v1/try-ons"][0], spans["try_on"][0]
    assert worked.trace_id == asked.trace_id
    assert worked.parent_span_id == asked.span_id
    assert carried.startswith(f"00-{asked.trace_id.hex()}-{asked.span_id.hex()}-0")
    names = {attribute.value.string_value for attribute in spans["try_on"][1] if attribute.key == "service.name"}
    assert names == {"changeroom-worker"}


def test_nothing_is_sent_when_tracing_is_off(
    collector: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    endpoint, received = collector
    assert run(endpoint, "changeroom-gateway", "quiet", otel="false") == "None"
    assert received == []
