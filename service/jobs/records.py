"""From the store's hash of a job to the record anyone may read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from service.jobs.schemas import JobRecord


def record_from_hash(names_and_values: Sequence[str], position: int | None) -> JobRecord | None:
    """The record, or None for a reservation that is no job yet.

    `names_and_values` is the hash as scripts answer it, flat; its times are milliseconds.
    """
    fields = dict(zip(names_and_values[::2], names_and_values[1::2], strict=True))
    if fields["status"] == "reserved":
        return None
    document: dict[str, Any] = {
        "status": fields["status"],
        "attempts": int(fields["attempts"]),
        "stage": fields.get("stage") or None,
        "step": int(fields.get("step", 0)),
        "steps": int(fields.get("steps", 0)),
        "position": position if isinstance(position, int) else None,
        "started_at": _seconds(fields.get("started")),
        "finished_at": _seconds(fields.get("finished")),
        "cancel_requested": fields["cancel"] == "1",
        "spec": _parse(fields["spec"]),
        "error": _parse(fields.get("error")),
        "result": _parse(fields.get("result")),
    }
    return JobRecord.model_validate(document)


def _seconds(milliseconds: str | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None


def _parse(text: str | None) -> Any:
    return json.loads(text) if text else None
