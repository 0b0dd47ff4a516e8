"""What can be wrong with masks, region maps and pictures, each with a code that a gateway can hand on."""

from __future__ import annotations

from typing import Literal

from engine_build.errors import RequestError

Code = Literal[
    "unknown-domain",
    "unknown-region",
    "bad-margin",
    "nothing-to-edit",
    "support-differs",
    "mask-missing",
    "mask-size",
    "mask-not-black-and-white",
    "mask-has-alpha",
    "mask-empty",
    "mask-full",
    "mask-inverted",
    "picture-mode",
    "picture-broken",
    "crop-mismatch",
    "pixels-outside-changed",
    "lossy-answer",
    "unknown-provider",
    "provider-failed",
]


class SupportError(RequestError):
    """A request for an edit that cannot be meant so; `code` is stable, the message says what to do."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
