"""How the dialects of the API tell an error: ours as RFC 9457 says, OpenAI's and FASHN's with members and statuses of
their own in the same document.

Both vendors answer what is wrong with a request with 400 where we say 422, a picture that is none included: their
clients have one exception for all of it. FASHN knows no 410: a prediction that is no longer kept is not found.
"""

from __future__ import annotations

from typing import Any, Literal

from service.errors import ServiceError
from service.jobs import fashn_words

Dialect = Literal["native", "openai", "fashn"]


def dialect_of(path: str) -> Dialect:
    """The dialect in which errors of this path are told."""
    if path.startswith(("/v1/images/", "/v1/models")):
        return "openai"
    if path == "/v1/run" or path.startswith("/v1/status/"):
        return "fashn"
    return "native"


def status_of(error: ServiceError, dialect: Dialect) -> int:
    """The HTTP status of an error in a dialect."""
    if dialect == "native":
        return error.status
    if error.status == 422 or error.code == "unsupported-image-format":
        return 400
    if error.status == 410 and dialect == "fashn":
        return 404
    return error.status


def members(error: ServiceError, dialect: Dialect) -> dict[str, Any]:
    """What a dialect's clients read, to stand beside the members of a problem."""
    if dialect == "openai":
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        return {"error": {"message": error.detail, "type": kind, "code": error.code, "param": error.pointer}}
    if dialect == "fashn":
        return {"error": fashn_words.of_refusal(status_of(error, dialect), error.code), "message": error.detail}
    return {}
