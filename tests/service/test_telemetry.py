"""Logs: one JSON object a line, with the ids of its context; traces: a valid parent; metrics: the list."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import pytest

from service.metrics import LATENCY_BUCKETS, Metrics
from service.settings import load_settings
from service.telemetry import JsonFormatter, configure_logging, current_traceparent, log_context, span


def line(message: str, *args: object, **extra: object) -> dict[str, object]:
    record = logging.LogRecord("service.test", logging.INFO, __file__, 1, message, args, None)
    vars(record).update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_is_one_object_with_time_level_and_extras() -> None:
    found = line("took %d\nlines", 3, stage="denoise", seconds=0.25)
    assert found["message"] == "took 3\nlines"
    assert (found["level"], found["logger"], found["stage"], found["seconds"]) == (
        "info",
        "service.test",
        "denoise",
        0.25,
    )
    assert str(found["time"]).endswith("Z") and "request_id" not in found


async def test_ids_follow_their_own_task() -> None:
    async def one(name: str) -> dict[str, object]:
        with log_context(request=f"r-{name}", job=f"j-{name}"):
            await asyncio.sleep(0.01)
            return line("x")

    first, second = await asyncio.gather(one("a"), one("b"))
    assert (first["request_id"], first["job_id"]) == ("r-a", "j-a")
    assert (second["request_id"], second["job_id"]) == ("r-b", "j-b")
    assert "job_id" not in line("after")


def test_exceptions_stay_on_the_line() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("t", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "ValueError: boom" in json.loads(text)["exception"]


def test_configured_logging_writes_json_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(load_settings(log_level="INFO"))
        logging.getLogger("service.x").info("hello", extra={"count": 2})
        logging.getLogger("service.x").debug("quiet")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    captured = capsys.readouterr()
    assert captured.out == ""
    (written,) = captured.err.splitlines()
    assert json.loads(written)["count"] == 2


def test_spans_carry_a_parent_on_and_are_silent_without_tracing() -> None:
    with span("outside"):
        assert current_traceparent() is None
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with span("inside", parent=parent, attributes={"garments": 2}):
        carried = current_traceparent()
    assert carried is not None and carried.split("-")[1] == parent.split("-")[1]
    with span("broken parent", parent="nonsense"):
        assert current_traceparent() is None


def test_every_metric_of_the_list_exists_with_fixed_labels() -> None:
    metrics = Metrics()
    metrics.request_latency.labels("3").observe(0.4)
    names = {
        (family.name + "_total") if family.type == "counter" else family.name
        for family in metrics.registry.collect()
    }
    assert names == {
        f"changeroom_{name}"
        for name in [
            "busy_seconds_total",
            "requests_waiting",
            "requests_running",
            "requests_total",
            "request_latency_seconds",
            "queue_time_seconds",
            "stage_latency_seconds",
            "batch_requests",
            "batch_tokens",
            "cache_events_total",
            "admission_rejected_total",
            "canceled_total",
            "deadline_exceeded_total",
            "lease_lost_total",
            "dead_letter_total",
            "worker_ready",
            "gpu_memory_bytes",
            "backlog_seconds",
        ]
    }
    assert LATENCY_BUCKETS == (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
    sample = metrics.registry.get_sample_value
    assert sample("changeroom_request_latency_seconds_bucket", {"garments": "3", "le": "0.4"}) == 1
    assert sample("changeroom_request_latency_seconds_bucket", {"garments": "3", "le": "0.3"}) == 0
