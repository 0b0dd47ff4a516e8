"""Bodies as they come in: forms spooled to temporary files, JSON, pictures inside JSON; all within bounds.

JSON is counted while it arrives and refused by its structure before it is parsed, so that a hostile document
cannot hold the event loop.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from service.errors import InvalidImage, InvalidRequest, PayloadTooLarge, ServiceError, UnprocessableRequest
from service.gateway.http.multipart import FormParser
from service.settings import Settings

MAX_FIELDS = 64
MAX_FIELD_BYTES = 256 * 1024
MAX_JSON_STRUCTURE = 20_000
SPOOL_BYTES = 4 * 1024 * 1024

_DATA_URL = re.compile(r"^data:([a-z0-9.+-]+/[a-z0-9.+-]+)?(;[^,;]*)*;base64,", re.IGNORECASE | re.ASCII)
_WEB_URL = re.compile(r"^\s*(https?|ftp|file)://", re.IGNORECASE)


def media_type(request: Request) -> str:
    """The bare media type of the request body, lower case."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


class form_of:
    """`async with form_of(request, settings) as form`: a parsed form whose files are closed afterwards."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._form: FormData | None = None

    async def __aenter__(self) -> FormData:
        parser = FormParser(
            self._request.headers,
            self._request.stream(),
            max_files=self._settings.max_images + 8,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        )
        parser.spool_max_size = SPOOL_BYTES
        try:
            self._form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise PayloadTooLarge(
                    f"At most {self._settings.max_images} pictures and {MAX_FIELDS} fields in one request.",
                    code="too-many-parts",
                ) from error
            if "maximum size" in error.message:
                raise PayloadTooLarge(
                    f"A text field is limited to {MAX_FIELD_BYTES // 1024} kB; send pictures as file parts.",
                    code="field-too-large",
                ) from error
            raise InvalidRequest(f"The multipart body cannot be read: {error.message}") from error
        return self._form

    async def __aexit__(self, *_: object) -> None:
        if self._form is not None:
            await self._form.close()


async def read_json(request: Request) -> Any:
    """The JSON body. Raises InvalidRequest when it is not JSON or has an absurd number of values."""
    chunks: list[bytes] = []
    structure = 0
    async for chunk in request.stream():
        structure += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{") + chunk.count(b":")
        if structure > MAX_JSON_STRUCTURE:
            raise InvalidRequest(f"The JSON has more than {MAX_JSON_STRUCTURE} values.", code="invalid-json")
        chunks.append(chunk)
    try:
        return json.loads(b"".join(chunks), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid-json") from error


def json_text(text: str, name: str) -> Any:
    """The JSON value of a form field. Raises UnprocessableRequest."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnprocessableRequest(
            f"{name}: send one JSON object; this is not valid JSON: {error}.", code="invalid-json", pointer=name
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def decode_image_text(text: str, name: str, settings: Settings) -> bytes:
    """The bytes of a data: URL or plain base64.

    Raises UnprocessableRequest for a web URL or broken base64, PayloadTooLarge over the limit of one picture.
    """
    if _WEB_URL.match(text):
        raise UnprocessableRequest(
            f"{name}: this service does not fetch URLs; send the picture as a data: URL or base64.",
            code="image-url-refused",
            pointer=name,
        )
    found = _DATA_URL.match(text[:200])
    encoded = text[found.end() :] if found else text
    if len(encoded) * 3 // 4 > settings.image_limit_bytes + 2:
        raise too_large(name, settings)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnprocessableRequest(
            f"{name}: this is neither base64 nor a data: URL with base64; send the picture as one of them.",
            code="invalid-base64",
            pointer=name,
        ) from error


def too_large(name: str, settings: Settings) -> ServiceError:
    """One picture over its limit."""
    limit = settings.image_limit_bytes // 2**20
    return PayloadTooLarge(
        f"{name}: one picture may have at most {limit} MB; send a smaller or more compressed one.",
        code="image-too-large",
        pointer=name,
    )


async def file_bytes(upload: UploadFile, name: str, settings: Settings) -> bytes:
    """The bytes of one uploaded file. Raises PayloadTooLarge over the limit, InvalidImage when empty."""
    if (upload.size or 0) > settings.image_limit_bytes:
        raise too_large(name, settings)
    data = await upload.read()
    if not data:
        raise empty_image(name)
    return data


def empty_image(name: str) -> InvalidImage:
    """A file part without a byte in it."""
    return InvalidImage(f"{name}: the file is empty; send a picture.", code="empty-image", pointer=name)
