"""Bodies as they come in: forms and raw bodies spooled to temporary files, JSON, pictures inside JSON; within bounds.

While a body comes, no more of it than `limits.IN_MEMORY_BYTES` is in memory: each part beyond its spool goes to disk.
JSON is refused by its structure while it arrives and parsed in a thread, so that a hostile document cannot hold the
event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import Any, cast

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from service.errors import InvalidImage, InvalidRequest, PayloadTooLarge, ServiceError, UnprocessableRequest
from service.gateway.http.base64_text import TooLong, decoded
from service.gateway.http.json_bodies import Structure, parse_body, refuse_constant
from service.gateway.http.limits import upload_whole, uploads_full
from service.gateway.http.multipart import FormParser
from service.gateway.http.texts import check_bytes, check_values
from service.settings import Settings

log = logging.getLogger("changeroom.gateway")

MAX_FIELDS = 64
MAX_FIELD_BYTES = 256 * 1024
MAX_TEXT_BYTES = 1024 * 1024
PART_SPOOL_BYTES = 64 * 1024
BODY_SPOOL_BYTES = 1024 * 1024

_DATA_URL = re.compile(r"^\s*data:([a-z0-9.+-]+/[a-z0-9.+-]+)?(;[^,;]*)*;base64,", re.IGNORECASE | re.ASCII)
_WEB_URL = re.compile(r"^\s*(https?|ftp|file)://", re.IGNORECASE)


def media_type(request: Request) -> str:
    """The bare media type of the request body, lower case."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


class _Form(FormParser):
    """Starlette's parser, which takes text of any kind, with a bound on all text together and an eye on its bytes."""

    spool_max_size = PART_SPOOL_BYTES
    text_bytes = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        _, options = parse_options_header(self._current_part.content_disposition)
        check_bytes(options[b"name"], self._charset, "the name of a part")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self.text_bytes += end - start
            if self.text_bytes > MAX_TEXT_BYTES:
                raise _text_too_large(f"All text fields together are limited to {MAX_TEXT_BYTES // 1024} kB")
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            check_bytes(part.data, self._charset, part.field_name[:64])
        super().on_part_end()


class form_of:
    """`async with form_of(request, settings) as form`: a parsed form whose files are closed afterwards."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._form: FormData | None = None

    async def __aenter__(self) -> FormData:
        parser = _Form(
            self._request.headers,
            self._request.stream(),
            max_files=self._settings.max_images + 8,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        )
        try:
            self._form = await parser.parse()
            upload_whole(self._request)
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise PayloadTooLarge(
                    f"At most {self._settings.max_images} pictures and {MAX_FIELDS} fields in one request.",
                    code="too-many-parts",
                ) from error
            if "maximum size" in error.message:
                raise _text_too_large(f"A text field is limited to {MAX_FIELD_BYTES // 1024} kB") from error
            raise InvalidRequest(f"The multipart body cannot be read: {error.message}") from error
        except OSError as error:
            raise _no_disk(error) from error
        except BaseException:
            await self.__aexit__()
            raise
        return self._form

    async def __aexit__(self, *_: object) -> None:
        if self._form is not None:
            await self._form.close()


def _text_too_large(said: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"{said}; send pictures as file parts.", code="field-too-large")


def _no_disk(error: OSError) -> ServiceError:
    log.error("an upload cannot be kept on disk", extra={"cause": error.strerror})
    return uploads_full()


async def read_body(request: Request, watch: Callable[[bytes], None] = lambda chunk: None) -> bytes:
    """The whole body, on disk while it comes; `watch` sees each piece and may raise. Raises QueueFull."""
    try:
        with SpooledTemporaryFile(max_size=BODY_SPOOL_BYTES) as file:
            spool = UploadFile(cast(Any, file))
            async for chunk in request.stream():
                watch(chunk)
                await spool.write(chunk)
            upload_whole(request)
            await spool.seek(0)
            return await spool.read()
    except OSError as error:
        raise _no_disk(error) from error


async def read_json(request: Request) -> Any:
    """The JSON body. Raises InvalidRequest when it is not JSON or has an absurd number of values, PayloadTooLarge
    when it is large without its pictures, UnprocessableRequest when it holds what is no text.
    """
    data = await read_body(request, Structure().add)
    return await asyncio.to_thread(parse_body, data)


def json_text(text: str, name: str) -> Any:
    """The JSON value of a form field. Raises UnprocessableRequest."""
    try:
        value = json.loads(text, parse_constant=refuse_constant)
        check_values(value, name)
    except (ValueError, RecursionError) as error:
        raise UnprocessableRequest(
            f"{name}: send one JSON object; this is not valid JSON: {error}.", code="invalid-json", pointer=name
        ) from error
    return value


def decode_image_text(text: str, name: str, settings: Settings) -> bytes:
    """The bytes of a data: URL or plain base64, in any of the ways `base64_text` reads.

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
    try:
        return decoded(encoded, settings.image_limit_bytes)
    except TooLong as error:
        raise too_large(name, settings) from error
    except ValueError as error:
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
