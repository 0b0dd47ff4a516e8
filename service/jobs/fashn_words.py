"""FASHN's words for jobs and errors, for the gateway that answers and the worker that calls a receiver.

The names are those of FASHN's API reference (Error Handling) and of the types of its SDKs, which list no others.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from service.jobs.schemas import JobError, JobRecord

Status = Literal["starting", "in_queue", "processing", "completed", "failed", "canceled", "time_out"]
Refusal = Literal[
    "BadRequest",
    "ImageLoadError",
    "UnauthorizedAccess",
    "NotFound",
    "RateLimitExceeded",
    "ConcurrencyLimitExceeded",
    "OutOfCredits",
    "InternalServerError",
]
Failure = Literal["ImageLoadError", "InputValidationError", "PipelineError", "InternalServerError"]

REFUSALS: tuple[str, ...] = get_args(Refusal)
FAILURES: tuple[str, ...] = get_args(Failure)

STATUSES: dict[str, Status] = {
    "queued": "in_queue",
    "processing": "processing",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "canceled",
    "expired": "time_out",
}

# Codes about a picture: it did not come, could not be opened, or is not one we take.
PICTURE_CODES = frozenset(
    {
        *("invalid-image", "empty-image", "damaged-image", "zero-size-image", "image-too-small", "animated-image"),
        *("extreme-aspect-ratio", "image-too-costly", "image-too-large", "too-many-pixels"),
        *("unsupported-image-format", "invalid-base64", "image-url-refused"),
    }
)
_REFUSED_BY_CODE: dict[str, Refusal] = {
    "concurrency-limited": "ConcurrencyLimitExceeded",
    "quota-exceeded": "OutOfCredits",
    **dict.fromkeys(PICTURE_CODES, "ImageLoadError"),
}
_REFUSED_BY_STATUS: dict[int, Refusal] = {
    401: "UnauthorizedAccess",
    404: "NotFound",
    429: "RateLimitExceeded",
}
_FAILED: dict[str, Failure] = {
    "unprocessable-request": "InputValidationError",
    "input-erased": "ImageLoadError",
    "input-damaged": "ImageLoadError",
    "store-unavailable": "InternalServerError",
}


def of_refusal(status: int, code: str) -> Refusal:
    """The name of an HTTP error."""
    named = _REFUSED_BY_CODE.get(code) or _REFUSED_BY_STATUS.get(status)
    return named or ("BadRequest" if 400 <= status < 500 else "InternalServerError")


def of_failure(error: JobError) -> Failure:
    """The name of the error of a job that did not succeed."""
    return _FAILED.get(error.code, "PipelineError")


def prediction(record: JobRecord, output: str | None) -> dict[str, Any]:
    """A job as FASHN tells a prediction, in an answer or to a receiver: {id, status, output, error}.

    `output` is the address of the finished picture, or the picture itself as a data: URL.
    """
    error = record.error
    return {
        "id": record.spec.id,
        "status": STATUSES[record.status],
        "output": [output] if output is not None and record.status == "succeeded" else None,
        "error": None if error is None else {"name": of_failure(error), "message": error.message},
    }
