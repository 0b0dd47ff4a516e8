"""Every error a caller can meet, as one tree; `service/gateway/http/problems.py` alone turns it into HTTP.

ServiceError
├── InvalidRequest (400)            malformed body, unknown field or header value
│   ├── InvalidImage (422)          bytes that are not an acceptable picture
│   └── UnprocessableRequest (422)  well-formed but impossible (seven garments, unknown sku)
├── Unauthorized (401)              missing or unknown API key
├── Forbidden (403)                 a page of a stranger wants to change something
├── NotFound (404)                  no such job, garment or result
├── Conflict (409)                  the job is not in a state for this
├── Gone (410)                      the result or the job's data expired or was erased
│   └── Damaged (410)               a stored picture is not what was written
├── PayloadTooLarge (413)           body, image or part count over its limit
├── UnsupportedMediaType (415)      not a picture format on the allow-list
├── MisdirectedRequest (421)        a host name this service does not answer to
├── IdempotencyMismatch (422)       same Idempotency-Key, different body
├── TooManyRequests (429)           rate, concurrency or quota of a key
├── QueueFull (503)                 admission refused; Retry-After from the backlog
├── StoreUnavailable (503)          Redis or the object store does not answer
└── EngineUnavailable (503)         no ready worker

`CommandFailed` is none of them: it ends a command of the terminal.
"""

from __future__ import annotations

from service.retry_after import whole_seconds


class ServiceError(Exception):
    """Base. `code` is stable and becomes the problem type; `retry_after` is in whole seconds."""

    status = 500
    code = "internal"
    title = "Something went wrong on our side"
    retryable = False

    def __init__(
        self, detail: str, *, code: str | None = None, retry_after: float | None = None, pointer: str | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.retry_after = None if retry_after is None else whole_seconds(retry_after)
        self.pointer = pointer


class InvalidRequest(ServiceError):
    status, code, title = 400, "invalid-request", "The request cannot be read"


class InvalidImage(InvalidRequest):
    status, code, title = 422, "invalid-image", "A picture cannot be used"


class UnprocessableRequest(InvalidRequest):
    status, code, title = 422, "unprocessable-request", "The request cannot be carried out"


class Unauthorized(ServiceError):
    status, code, title = 401, "unauthorized", "A valid API key is needed"


class Forbidden(ServiceError):
    status, code, title = 403, "forbidden", "This is not allowed from there"


class NotFound(ServiceError):
    status, code, title = 404, "not-found", "There is no such thing here"


class Conflict(ServiceError):
    status, code, title = 409, "conflict", "The job is not in a state for this"


class Gone(ServiceError):
    status, code, title = 410, "gone", "This was here and has been erased"


class Damaged(Gone):
    code, title = "damaged", "This was damaged in storage"


class PayloadTooLarge(ServiceError):
    status, code, title = 413, "payload-too-large", "The upload is too large"


class UnsupportedMediaType(ServiceError):
    status, code, title = 415, "unsupported-media-type", "This kind of file is not accepted"


class MisdirectedRequest(ServiceError):
    status, code, title = 421, "misdirected-request", "This request is for another service"


class IdempotencyMismatch(ServiceError):
    status, code, title = 422, "idempotency-mismatch", "This Idempotency-Key was used for another request"


class TooManyRequests(ServiceError):
    """`code` is one of rate-limited, concurrency-limited, quota-exceeded, storage-exceeded, address-limited."""

    status, code, title, retryable = 429, "rate-limited", "Too many requests", True


class QueueFull(ServiceError):
    status, code, title, retryable = 503, "queue-full", "The queue is full", True


class StoreUnavailable(ServiceError):
    status, code, title, retryable = 503, "store-unavailable", "The store does not answer", True


class EngineUnavailable(ServiceError):
    status, code, title, retryable = 503, "engine-unavailable", "No worker is ready", True


class CommandFailed(Exception):
    """A command cannot go on; the message is one line that says what to do."""
