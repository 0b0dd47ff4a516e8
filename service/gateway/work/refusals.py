"""What a caller is told when a try-on, or one of its pictures, cannot be had: one thing at a time, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Gone, InvalidImage, NotFound, PayloadTooLarge, ServiceError, UnsupportedMediaType


@contextmanager
def about(pointer: str) -> Iterator[None]:
    """Begin the sentence of a refused picture with which one it is: there are up to seven."""
    try:
        yield
    except (InvalidImage, PayloadTooLarge, UnsupportedMediaType) as error:
        error.detail = f"{pointer}: {error.detail}"
        raise


def first_of(errors: ExceptionGroup[ServiceError]) -> ServiceError:
    """The first error of a task group: a caller is told one thing at a time."""
    first = errors.exceptions[0]
    return first_of(first) if isinstance(first, ExceptionGroup) else first


def unknown_job() -> NotFound:
    return NotFound("There is no try-on with this id; it may have expired or been erased.", code="unknown-try-on")


def erased() -> Gone:
    return Gone("This try-on has expired or was erased.", code="try-on-erased")


def gone() -> Gone:
    return Gone("The picture has expired or was erased; make the try-on again.", code="result-expired")
