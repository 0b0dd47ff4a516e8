"""What OpenAI's shape tells about a job that has ended: its usage, or why there is no picture."""

from __future__ import annotations

from service.errors import EngineUnavailable, Gone, ServiceError, StoreUnavailable, UnprocessableRequest
from service.gateway.shapes import compat_views
from service.gateway.work.fleet import PIXELS_A_TOKEN, TEXT_TOKENS
from service.jobs.schemas import TERMINAL, JobRecord
from service.retry_after import SHORTLY

# How a job may end, as an answer to a call that waited for it; whatever is not here is on our side.
FAILURES: dict[str, type[ServiceError]] = {
    "canceled": UnprocessableRequest,
    "unprocessable-request": UnprocessableRequest,
    "out-of-memory": UnprocessableRequest,
    "input-erased": Gone,
    "store-unavailable": StoreUnavailable,
}


def usage(record: JobRecord) -> compat_views.OpenAIUsage:
    """The tokens of a try-on as admission counts them, who charges the queue with the same number."""
    pixels = record.result.width * record.result.height if record.result else 0
    made = min(pixels // PIXELS_A_TOKEN, record.spec.tokens)
    read = record.spec.tokens - made
    text = min(TEXT_TOKENS, read)
    return compat_views.OpenAIUsage(
        input_tokens=read,
        input_tokens_details=compat_views.OpenAITokens(image_tokens=read - text, text_tokens=text),
        output_tokens=made,
        output_tokens_details=compat_views.OpenAITokens(image_tokens=made, text_tokens=0),
        total_tokens=record.spec.tokens,
    )


def failure(record: JobRecord) -> ServiceError:
    """Why a call that waited has no picture to return."""
    if record.status not in TERMINAL or record.status == "expired":
        return EngineUnavailable(
            "No worker finished the picture in time; try again.", code="deadline-exceeded", retry_after=SHORTLY
        )
    detail = record.error.message if record.error else f"The try-on ended as {record.status}."
    code = record.error.code if record.error else record.status
    error = FAILURES.get(code, ServiceError)(detail, code=code)
    error.retryable = record.error.retryable if record.error else False
    return error
