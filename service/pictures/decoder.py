"""A decoder: a process that can be killed, and the gateway's end of it.

The process has an address-space limit, no secrets and no environment, and speaks over its standard streams in frames
of a 4-byte big-endian length and as many bytes: a JSON head, which says what is asked and the processor seconds it may
cost, and a picture in; a JSON header and the normalised picture out. Most photos can stay as they are: of those only
the outline goes over (`jpeg.outline`), a size comes back, and a worker is the first to decode them.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from service.errors import InvalidImage, PayloadTooLarge, ServiceError, UnsupportedMediaType
from service.pictures import jpeg
from service.pictures.bounds import ImageLimits
from service.pictures.images import PASS_BYTES, Photo, decode_photo, passes, warm_up

_ROOT = str(Path(__file__).resolve().parents[2])
_LENGTH = struct.Struct(">I")
_READ_AHEAD = 4 << 20
_OUTLINE, _PICTURE = "outline", "picture"
_ENDS_IN_S = 2.0
_REFUSALS: dict[str, type[ServiceError]] = {
    error.__name__: error for error in (InvalidImage, PayloadTooLarge, UnsupportedMediaType)
}


class Decoder:
    """The gateway's end of one process. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("a picture decoder was started without its streams")
        self._process = process
        self._to, self._from = process.stdin, process.stdout

    @classmethod
    async def start(cls, limits: ImageLimits, memory_bytes: int) -> Decoder:
        """A process, not yet `ready`. Raises OSError when there can be none."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            json.dumps({"limits": asdict(limits), "memory_bytes": memory_bytes}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_READ_AHEAD,
            env={"PYTHONPATH": _ROOT},
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self) -> None:
        """Raises asyncio.IncompleteReadError when the process ended instead."""
        await self._frame()

    async def photo(self, data: bytes, cpu_s: float) -> Photo | ServiceError:
        """The picture normalised within `cpu_s` of processor time, or why it is refused.

        Raises asyncio.IncompleteReadError or ConnectionError when the picture ended the process.
        """
        return await self._as_it_is(data, cpu_s) or await self._decoded(data, cpu_s)

    async def end(self) -> int:
        """Wait a little for a process that is ending, kill it otherwise; its exit status, negative for a signal's."""
        self._to.close()
        try:
            async with asyncio.timeout(_ENDS_IN_S):
                return await self._process.wait()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End the process at once."""
        if self.alive:
            self._process.kill()
        self._to.close()
        return await self._process.wait()

    async def _as_it_is(self, data: bytes, cpu_s: float) -> Photo | None:
        """A photo that needs no decoding here, without its metadata; None for any other picture."""
        outline = jpeg.outline(data) if len(data) <= PASS_BYTES else None
        if outline is None:
            return None
        size, kept = await asyncio.gather(self._passes(outline, cpu_s), asyncio.to_thread(jpeg.strip, data, 1))
        return None if size is None or kept is None else Photo(kept, "image/jpeg", *size)

    async def _passes(self, outline: bytes, cpu_s: float) -> tuple[int, int] | None:
        await self._ask(_OUTLINE, outline, cpu_s)
        size = json.loads(await self._frame())
        return (int(size[0]), int(size[1])) if size else None

    async def _decoded(self, data: bytes, cpu_s: float) -> Photo | ServiceError:
        await self._ask(_PICTURE, data, cpu_s)
        header = json.loads(await self._frame())
        if "refusal" in header:
            return _REFUSALS[header["refusal"]](header["detail"], code=header["code"])
        return Photo(data=await self._frame(), **header)

    async def _ask(self, what: str, data: bytes, cpu_s: float) -> None:
        for frame in (json.dumps([what, cpu_s]).encode(), data):
            self._to.write(_LENGTH.pack(len(frame)))
            self._to.write(frame)
        await self._to.drain()

    async def _frame(self) -> bytes:
        (length,) = _LENGTH.unpack(await self._from.readexactly(_LENGTH.size))
        return await self._from.readexactly(length)


def _serve(limits: ImageLimits, memory_bytes: int) -> None:
    """The process itself: pictures in, answers out, until the gateway closes the stream.

    The profiling timer's signal keeps its default action, so the kernel ends a decoder deep in C code.
    """
    asked = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm_up()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    Image.MAX_IMAGE_PIXELS = None  # `check_size` asks the same of the header, and can say what it found
    _answer(answers, b"ready")
    while head := _asked(asked):
        what, cpu_s = json.loads(head)
        data = _asked(asked)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            if what == _OUTLINE:
                _answer(answers, json.dumps(passes(data, limits)).encode())
                continue
            photo = decode_photo(data, limits)
        except (InvalidImage, PayloadTooLarge, UnsupportedMediaType) as error:
            refusal = {"refusal": type(error).__name__, "code": error.code, "detail": error.detail}
            _answer(answers, json.dumps(refusal).encode())
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        header = asdict(photo)
        picture = header.pop("data")
        _answer(answers, json.dumps(header).encode(), picture)


def _asked(stream: BinaryIO) -> bytes:
    """The next frame; b"" when the gateway is gone."""
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if head else b""


def _answer(stream: BinaryIO, *frames: bytes) -> None:
    for frame in frames:
        stream.write(_LENGTH.pack(len(frame)))
        stream.write(frame)
    stream.flush()


if __name__ == "__main__":
    _given = json.loads(sys.argv[1])
    _serve(ImageLimits(**_given["limits"]), _given["memory_bytes"])
