"""The form of `POST /v1/images/edits`: OpenAI's fields in, a `RequestedTryOn` and a `Wish` of how to answer it out.

What has no meaning here (a mask, transparency, several pictures) is refused in a sentence instead of being ignored.
Every error names OpenAI's own field: `image[1]`, not the garment it became.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile

from engine_build.instruction import MAX_GARMENTS
from service.errors import InvalidRequest, UnprocessableRequest
from service.gateway.http.bodies import file_bytes
from service.gateway.shapes.request import (
    Options,
    RequestedGarment,
    RequestedTryOn,
    too_many_garments,
    unknown_field,
    validate,
)
from service.settings import Settings

# OpenAI's words for quality, as JPEG and WebP quality; PNG loses nothing whatever is said.
QUALITIES = {"low": 70, "medium": 85, "high": 92, "xhigh": 95, "max": 97}
SAME_AS = {"auto": "high", "standard": "medium", "hd": "high"}
MAX_PARTIAL_IMAGES = 3
MAX_SAFETY_IDENTIFIER = 512
SAFETY_IDENTIFIER = "safety_identifier"

KNOWN = (
    *("prompt", "model", "n", "size", "quality", "output_format", "output_compression", "response_format"),
    *("background", "stream", "partial_images", "seed", "user", SAFETY_IDENTIFIER, "input_fidelity", "moderation"),
)
# What an edit cannot be; each value that is not listed is refused.
OFFERED = {
    "n": ("1",),
    "background": ("auto", "opaque"),
    "response_format": ("b64_json", "url"),
    "stream": ("false", "true"),
    "input_fidelity": ("high",),
    "moderation": ("auto", "low"),
}


@dataclass(frozen=True)
class Wish:
    """How a caller wants the answer, without the pictures, which nobody needs while it waits.

    `size` is as asked; `partial_images` is None without a stream.
    """

    size: str
    quality: str
    as_url: bool
    model: str | None
    partial_images: int | None


async def read_edit(form: FormData, settings: Settings) -> tuple[RequestedTryOn, Wish]:
    """Raises InvalidRequest, UnprocessableRequest, InvalidImage, PayloadTooLarge."""
    texts, images = _sorted(form)
    for name, offered in OFFERED.items():
        if texts.get(name, offered[0]).lower() not in offered:
            raise UnprocessableRequest(
                f"{name}: {texts[name][:40]!r} is not offered; choose {' or '.join(offered)}.",
                code="unsupported-parameter",
                pointer=name,
            )
    streamed = texts.get("stream", "false").lower() == "true"
    partial_images = _whole(texts, "partial_images", most=MAX_PARTIAL_IMAGES)
    if partial_images and not streamed:
        raise _unsupported("partial_images", "they come in a stream; send stream=true too")
    if streamed and texts.get("response_format") == "url":
        raise _unsupported("response_format", "a stream carries b64_json")
    quality = texts.get("quality", "auto")
    quality = SAME_AS.get(quality, quality)
    options = _options(texts, quality)
    _count(images)
    person, *others = [await file_bytes(upload, f"image[{index}]", settings) for index, upload in enumerate(images)]
    garments = [RequestedGarment(data, name=f"image[{index}]") for index, data in enumerate(others, start=1)]
    wish = Wish(
        size=options.size or "auto",
        quality=quality,
        as_url=texts.get("response_format") == "url",
        model=texts.get("model"),
        partial_images=partial_images or 0 if streamed else None,
    )
    return RequestedTryOn(person, tuple(garments), options, person_name="image[0]"), wish


def _sorted(form: FormData) -> tuple[dict[str, str], list[UploadFile]]:
    """Text fields that say something, and the pictures in their order."""
    texts: dict[str, str] = {}
    images: list[UploadFile] = []
    for name, value in form.multi_items():
        if name == "mask":
            raise _unsupported("mask", "a try-on needs no mask; leave it out")
        if name in ("image", "image[]"):
            if isinstance(value, str):
                raise InvalidRequest("image must be a file.", code="invalid-field", pointer="image")
            images.append(value)
        elif name not in KNOWN or not isinstance(value, str):
            raise unknown_field(name, ("image[]", *KNOWN))
        elif name in texts:
            raise InvalidRequest(f"{name} was sent more than once.", code="invalid-field", pointer=name)
        elif value or name == "prompt":
            texts[name] = value
    return texts, images


def _count(images: list[UploadFile]) -> None:
    if not images:
        raise UnprocessableRequest("Send the person as the first image.", code="missing-person", pointer="image")
    if len(images) == 1:
        raise UnprocessableRequest(
            "Send at least one garment image after the person.", code="missing-garment", pointer="image"
        )
    if len(images) > 1 + MAX_GARMENTS:
        raise too_many_garments("image")


def _options(texts: dict[str, str], quality: str) -> Options:
    if quality not in QUALITIES:
        raise _invalid("quality", f"choose one of {', '.join((*QUALITIES, *SAME_AS))}")
    values: dict[str, Any] = {"prompt": texts.get("prompt", ""), "quality": QUALITIES[quality]}
    values["output_format"] = texts.get("output_format", "png")
    if texts.get("size", "auto") != "auto":
        values["size"] = texts["size"]
    compression = _whole(texts, "output_compression", most=100)
    if compression is not None:
        if values["output_format"] == "png" and compression != 100:
            raise _unsupported("output_compression", "PNG loses nothing; ask for jpeg or webp")
        values["quality"] = max(1, compression)
    values["seed"] = _whole(texts, "seed")
    named = SAFETY_IDENTIFIER if SAFETY_IDENTIFIER in texts else "user"
    if named in texts:
        if len(texts[named]) > MAX_SAFETY_IDENTIFIER or "\x00" in texts[named]:
            raise _invalid(named, f"at most {MAX_SAFETY_IDENTIFIER} characters, without NUL")
        values["metadata"] = {SAFETY_IDENTIFIER: texts[named]}
    return validate(Options, values)


def _whole(texts: dict[str, str], name: str, most: int | None = None) -> int | None:
    """A field that is a whole number; its upper bound where `Options` does not know it."""
    if name not in texts:
        return None
    if not re.fullmatch(r"\d{1,10}", texts[name], re.ASCII) or (most is not None and int(texts[name]) > most):
        bound = "" if most is None else f" from 0 to {most}"
        raise _invalid(name, f"must be a whole number{bound}")
    return int(texts[name])


def _invalid(name: str, said: str) -> UnprocessableRequest:
    return UnprocessableRequest(f"{name}: {said}.", code="invalid-field", pointer=name)


def _unsupported(name: str, said: str) -> UnprocessableRequest:
    return UnprocessableRequest(f"{name}: {said}.", code="unsupported-parameter", pointer=name)
