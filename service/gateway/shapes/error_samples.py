"""Every error of the gateway once, as the OpenAPI document shows it: which operation may answer it, with an example.

A test keeps this list equal to what the code raises, and the tests of bad input check each answer against it.
"""

from __future__ import annotations

from typing import Any

from engine_build.instruction import MAX_GARMENTS
from service.egress import ForbiddenTarget
from service.errors import (
    Conflict,
    EngineUnavailable,
    Forbidden,
    Gone,
    IdempotencyMismatch,
    InvalidImage,
    InvalidRequest,
    MisdirectedRequest,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    ServiceError,
    StoreUnavailable,
    TooManyRequests,
    Unauthorized,
    UnprocessableRequest,
    UnsupportedMediaType,
)
from service.gateway.http import problems
from service.gateway.http.dialects import Dialect, status_of
from service.gateway.http.ranges import RangeNotSatisfiable

MEANINGS = {
    400: "The request cannot be read.",
    401: "A valid API key is needed.",
    403: "Not from a page of this origin.",
    404: "There is no such thing.",
    408: "The request arrived too slowly.",
    409: "Not in a state for this.",
    410: "It was here and has been erased.",
    413: "The upload is too large.",
    415: "This kind of body or file is not accepted.",
    416: "The picture has no such part.",
    421: "The host name is none of this service's.",
    422: "Readable, but it cannot be carried out.",
    429: "Rate, concurrency or quota of the key, or connections of the address; `code` tells which.",
    431: "The request headers are too large.",
    500: "Unexpected.",
    503: "Queue full, store away or no worker; see Retry-After.",
}

SAMPLES: tuple[ServiceError, ...] = (
    InvalidRequest("path id: String should have at most 64 characters.", pointer="id"),
    InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.", code="invalid-header"),
    InvalidRequest("There is no field 'foo' here; the fields are person, …", code="unknown-field", pointer="foo"),
    InvalidRequest("There is no query parameter 'foo' here; it takes none.", code="unknown-parameter", pointer="foo"),
    InvalidRequest("seed was sent 2 times.", code="invalid-field", pointer="seed"),
    InvalidRequest("The body is not valid JSON: Expecting value: line 1 column 1.", code="invalid-json"),
    InvalidRequest("Send the picture in a file part named image.", code="missing-image", pointer="image"),
    ForbiddenTarget("webhook_url: a webhook URL starts with https://.", pointer="webhook_url"),
    Unauthorized("Send your key as 'Authorization: Bearer cr_...'.", code="missing-key"),
    Unauthorized("The key is not of the form cr_ and 43 characters; copy it again in full.", code="malformed-key"),
    Unauthorized("This key is not known here; it may have been revoked.", code="unknown-key"),
    Unauthorized("The token of this address does not fit; read the try-on again.", code="invalid-token"),
    Forbidden(
        "A page of this origin may not do this; add the origin to CHANGEROOM_CORS_ORIGINS.",
        code="origin-not-allowed",
        pointer="Origin",
    ),
    MisdirectedRequest(
        "This service does not answer to 'evil.example'; add the name to CHANGEROOM_ALLOWED_HOSTS.",
        code="host-not-allowed",
        pointer="Host",
    ),
    NotFound("There is no try-on with this id; it may have expired or been erased.", code="unknown-try-on"),
    NotFound("There is no garment with this sku; put it with PUT /v1/garments/{sku}.", code="unknown-sku"),
    NotFound("No ready worker has this model; GET /v1/models tells those there are.", code="unknown-model"),
    problems.RequestTimeout("The request body arrived too slowly."),
    Conflict("The request took too long to read and lost its place; send it again."),
    Conflict("The first request with this key is still being read; try again.", code="idempotency-in-progress"),
    Conflict("The picture is not finished; wait for the status succeeded.", code="not-finished", retry_after=1),
    Conflict("The try-on ended as canceled; there is no picture.", code="no-picture"),
    Gone("This try-on has expired or was erased.", code="try-on-erased"),
    Gone("The picture has expired or was erased; make the try-on again.", code="result-expired"),
    Gone("This picture has been erased.", code="input-erased"),
    PayloadTooLarge("A request may have at most 80 MB; send smaller or fewer pictures.", code="body-too-large"),
    PayloadTooLarge("person: one picture may have at most 15 MB.", code="image-too-large", pointer="person"),
    PayloadTooLarge(
        "person: This picture is 30000 by 30000 pixels, more than the 60 megapixels accepted. Upload a smaller copy.",
        code="too-many-pixels",
        pointer="person",
    ),
    PayloadTooLarge(f"At most {1 + MAX_GARMENTS} pictures and 64 fields in one request.", code="too-many-parts"),
    PayloadTooLarge("A text field is limited to 256 kB; send pictures as file parts.", code="field-too-large"),
    InvalidRequest("Content-Encoding says gzip, but the body is not a whole gzip file.", code="invalid-encoding"),
    UnsupportedMediaType("Send multipart/form-data or application/json.", code="unsupported-content-type"),
    UnsupportedMediaType("Content-Encoding: a body may come as it is or as gzip.", code="unsupported-content-encoding"),
    UnsupportedMediaType(
        "person: This file is not a picture that can be opened here (it looks like a text file). "
        "Send JPEG, PNG, WebP, AVIF or HEIC.",
        code="unsupported-image-format",
        pointer="person",
    ),
    UnprocessableRequest(
        "Send one photo of a person in the part named person.", code="missing-person", pointer="person"
    ),
    UnprocessableRequest(
        f"Send 1 to {MAX_GARMENTS} garment photos in parts named garment, or skus of catalogue garments.",
        code="missing-garment",
        pointer="garment",
    ),
    UnprocessableRequest(
        f"At most {MAX_GARMENTS} garments in one try-on; leave some out.", code="too-many-garments", pointer="garment"
    ),
    UnprocessableRequest(
        "garments.0: there is no garment 'COAT-7'; put it with PUT /v1/garments/COAT-7 first.",
        code="unknown-sku",
        pointer="garments.0",
    ),
    UnprocessableRequest(
        "metadata.order: this text is not Unicode (half of a surrogate pair, or bytes that are not UTF-8); send UTF-8.",
        code="invalid-text",
        pointer="metadata.order",
    ),
    UnprocessableRequest(
        "The catalogue of this key is full: it may hold 10000 garments. Delete garments that nobody wears any more.",
        code="catalogue-full",
    ),
    UnprocessableRequest("seed: must be a whole number.", code="invalid-field", pointer="seed"),
    UnprocessableRequest(
        "metadata: send one JSON object; this is not valid JSON: …", code="invalid-json", pointer="metadata"
    ),
    UnprocessableRequest(
        "person: this is neither base64 nor a data: URL with base64; send the picture as one of them.",
        code="invalid-base64",
        pointer="person",
    ),
    UnprocessableRequest(
        "person: this service does not fetch URLs; send the picture as a data: URL or base64.",
        code="image-url-refused",
        pointer="person",
    ),
    UnprocessableRequest(
        "request: it replaces every other text field; put all of them into it, or leave it out.",
        code="conflicting-fields",
        pointer="request",
    ),
    UnprocessableRequest(
        "size: both sides must be multiples of 16 and at least 64, width times height at most 4194304, "
        "such as 768x1024.",
        code="unsupported-size",
        pointer="size",
    ),
    UnprocessableRequest("steps: at most 50 here.", code="unsupported-steps", pointer="steps"),
    UnprocessableRequest("priority: this key may not use high.", code="priority-not-allowed", pointer="priority"),
    UnprocessableRequest("webhook_url: webhooks are off here.", code="webhooks-disabled", pointer="webhook_url"),
    UnprocessableRequest("n: '2' is not offered; one picture is returned.", code="unsupported-parameter", pointer="n"),
    UnprocessableRequest("The job was canceled by its owner.", code="canceled"),
    UnprocessableRequest("a picture of 900x100 is too narrow: at most 8:1"),
    UnprocessableRequest(
        "This picture needs more memory than the engine's device has. Ask for a smaller one.", code="out-of-memory"
    ),
    IdempotencyMismatch("This Idempotency-Key came with another body; use a new key."),
    InvalidImage("person: the file is empty; send a picture.", code="empty-image", pointer="person"),
    InvalidImage(
        "person: This JPEG is damaged or cut off and cannot be read to its end. Export it again or take the photo "
        "anew, then upload the whole file.",
        code="damaged-image",
        pointer="person",
    ),
    InvalidImage(
        "person: This picture is 0 by 0 pixels: it holds nothing. Export it again and upload that.",
        code="zero-size-image",
        pointer="person",
    ),
    InvalidImage(
        "person: This picture is 8 by 8 pixels, too small to show a person or a garment. Send one of at least 32 "
        "pixels on each side.",
        code="image-too-small",
        pointer="person",
    ),
    InvalidImage(
        "person: This picture is 4000 by 100 pixels, too long and narrow. Crop it to at most 8 times as long as wide.",
        code="extreme-aspect-ratio",
        pointer="person",
    ),
    InvalidImage(
        "person: This picture is animated. Send one still frame of it, saved as JPEG or PNG.",
        code="animated-image",
        pointer="person",
    ),
    InvalidImage(
        "person: This picture needs too much memory to open. Save it again as a plain JPEG and upload that.",
        code="image-too-costly",
        pointer="person",
    ),
    TooManyRequests("Too many requests a minute for this key.", code="rate-limited", retry_after=1),
    TooManyRequests("Too many jobs of this key are in flight.", code="concurrency-limited", retry_after=2),
    TooManyRequests("The daily quota of this key is used up.", code="quota-exceeded", retry_after=3600),
    TooManyRequests(
        "The records of this key's try-ons take all the room they may; erase some, or wait until old ones go.",
        code="storage-exceeded",
        retry_after=3600,
    ),
    TooManyRequests("This address has too many connections; close some.", code="address-limited", retry_after=1),
    ServiceError("Unexpected; the request id identifies it in our logs."),
    ServiceError("The engine failed on this request. Try again.", code="engine-failed"),
    ServiceError("Its worker stopped answering in each of 3 attempts.", code="worker-lost"),
    ServiceError("This picture was damaged in storage.", code="input-damaged"),
    QueueFull("As many jobs as we can take are in flight; try again.", retry_after=4),
    QueueFull("Too many uploads at the same time; try again shortly.", code="uploads-full", retry_after=2),
    QueueFull("The machine had no time for this picture; try again shortly.", code="decoder-busy", retry_after=2),
    QueueFull("Every connection is taken; try again shortly.", code="too-many-connections", retry_after=1),
    StoreUnavailable("The store does not answer; try again shortly.", retry_after=2),
    StoreUnavailable("The disk for pictures is nearly full; try again later.", code="storage-full", retry_after=60),
    EngineUnavailable("No worker has announced itself as ready yet.", retry_after=2),
    EngineUnavailable("No worker finished the picture in time; try again.", code="deadline-exceeded", retry_after=2),
    RangeNotSatisfiable("The picture has 48213 bytes; ask for a part of them.", pointer="Range"),
    problems.HeadTooLarge("Request line and headers may have at most 64 kB."),
)

EVERYWHERE = (
    *("unknown-parameter", "headers-too-large", "address-limited", "internal", "too-many-connections"),
    *("invalid-header", "host-not-allowed", "origin-not-allowed", "invalid-text"),
)
ASKED = ("invalid-request", "missing-key", "malformed-key", "unknown-key", "store-unavailable")
BODY = (
    *("request-timeout", "body-too-large", "unsupported-content-type", "uploads-full"),
    *("unsupported-content-encoding", "invalid-encoding"),
)
FORM = ("unknown-field", "invalid-field", "too-many-parts", "field-too-large")
PICTURE = (
    *("empty-image", "damaged-image", "zero-size-image", "image-too-small", "extreme-aspect-ratio", "animated-image"),
    *("image-too-costly", "image-too-large", "too-many-pixels", "unsupported-image-format", "decoder-busy"),
    "storage-full",
)
LIMITS = ("rate-limited", "concurrency-limited", "quota-exceeded")
ADMISSION = (
    *("invalid-header", "idempotency-mismatch", "idempotency-in-progress", "conflict", "queue-full"),
    *(*LIMITS, "storage-exceeded"),
)
UPLOAD = (*LIMITS, "catalogue-full")
ENCODED = ("invalid-json", "invalid-base64", "image-url-refused")
WEBHOOK = ("webhooks-disabled", "forbidden-webhook-url")
JOB = ("unknown-try-on", "try-on-erased")


def responses(*codes: str, dialect: Dialect = "native") -> dict[int | str, dict[str, Any]]:
    """The error half of an operation's OpenAPI responses: each status with an example of every code it may carry.

    Statuses and examples are those of the dialect that the operation's path belongs to.
    A code that comes with several statuses may name one: `unknown-sku@404`. Raises KeyError for one without a sample.
    """
    wanted = {*codes, *EVERYWHERE}
    missing = wanted - {name for sample in SAMPLES for name in _names(sample)}
    if missing:
        raise KeyError(f"no sample of {sorted(missing)}")
    found: dict[int | str, dict[str, Any]] = {}
    for sample in SAMPLES:
        if not wanted.isdisjoint(_names(sample)):
            status = status_of(sample, dialect)
            entry = found.setdefault(status, _entry(status))
            value = problems.of_error(sample, "req_uT0cN2m1pQ4rS5tU", dialect)
            example = {"summary": sample.title, "value": value}
            entry["content"][problems.MEDIA_TYPE]["examples"][sample.code] = example
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _names(sample: ServiceError) -> tuple[str, str]:
    return sample.code, f"{sample.code}@{sample.status}"


def _entry(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    entry: dict[str, Any] = {
        "description": MEANINGS[status],
        "content": {problems.MEDIA_TYPE: {"schema": schema, "examples": {}}},
    }
    if status in (409, 429, 503):
        entry["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return entry
