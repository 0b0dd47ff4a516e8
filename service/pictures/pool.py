"""Decoding in processes that can be killed: a hostile picture costs one process, never the gateway.

Each process has an address-space limit, no secrets and no environment, and speaks over its standard streams
in frames of a 4-byte big-endian length and as many bytes: the word "picture" and a picture in, a JSON header and
the normalised picture out. Most photos can stay as they are: of those only the outline goes over (`jpeg.outline`),
a size comes back, and a worker is the first to decode them.

A picture that costs more processor time or memory than its limit ends its process and is refused; one that merely
waited too long on a busy machine may be sent again. The process is replaced.
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

from service.errors import InvalidImage, PayloadTooLarge, QueueFull, ServiceError, UnsupportedMediaType
from service.pictures import jpeg
from service.pictures.bounds import ImageLimits, sniff
from service.pictures.images import PASS_BYTES, Photo, decode_photo, passes, warm_up
from service.retry_after import SHORTLY

GIB = 1 << 30

_ROOT = str(Path(__file__).resolve().parents[2])
_LENGTH = struct.Struct(">I")
_READ_AHEAD = 4 << 20
_OUTLINE, _PICTURE = b"outline", b"picture"
_REFUSALS: dict[str, type[ServiceError]] = {
    error.__name__: error for error in (InvalidImage, PayloadTooLarge, UnsupportedMediaType)
}


class ImagePool:
    """A few warm decoder processes behind one async call; further pictures wait their turn.

    `cpu_s` bounds the processor time of one picture, `timeout_s` its wall time once a process has taken it
    up, `memory_bytes` the address space of one process. Use it as an async context manager, or `start` and
    `close` it.
    """

    def __init__(
        self,
        limits: ImageLimits | None = None,
        *,
        workers: int = 2,
        cpu_s: float = 3.5,
        timeout_s: float = 4.5,
        memory_bytes: int = 3 * GIB,
    ) -> None:
        self._limits = limits or ImageLimits()
        self._workers = workers
        self._cpu_s = cpu_s
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._idle: asyncio.Queue[_Decoder | None] = asyncio.Queue()
        self._decoders: set[_Decoder] = set()
        self._decoding: set[asyncio.Task[Photo]] = set()
        self._started = False

    async def start(self) -> None:
        """Start the processes and wait until they can decode. Raises OSError when they cannot be started."""
        for decoder in await asyncio.gather(*(self._spawn() for _ in range(self._workers))):
            self._idle.put_nowait(decoder)
        self._started = True

    async def close(self) -> None:
        """Let pictures in work finish, which their timeout bounds, then end the processes."""
        self._started = False
        await asyncio.gather(*self._decoding, return_exceptions=True)
        while not self._idle.empty():
            decoder = self._idle.get_nowait()
            if decoder is not None:
                await self._end(decoder)

    async def __aenter__(self) -> ImagePool:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def processes(self) -> list[int]:
        """Process ids of the decoders that are alive."""
        return sorted(decoder.pid for decoder in self._decoders if decoder.alive)

    async def decode(self, data: bytes, *, pointer: str | None = None) -> Photo:
        """Normalise one upload; `pointer` names it in the error ("person", "garments.0").

        Raises what `service.pictures.images.decode_photo` raises, InvalidImage with code image-too-costly for a
        picture that ends its process, and QueueFull with code decoder-busy when the machine had no time for
        it. The decoding outlives a cancelled caller.
        """
        if not self._started:
            raise RuntimeError("the image pool is not started")
        task = asyncio.create_task(self._decode(data))
        self._decoding.add(task)
        task.add_done_callback(self._settled)
        try:
            return await asyncio.shield(task)
        except ServiceError as error:
            error.pointer = pointer
            raise

    def _settled(self, task: asyncio.Task[Photo]) -> None:
        """Nobody may be waiting any more; an error nobody sees is not one to report."""
        self._decoding.discard(task)
        if not task.cancelled():
            task.exception()

    async def _decode(self, data: bytes) -> Photo:
        sniff(data, self._limits)
        decoder = await self._idle.get()
        usable = False
        try:
            if decoder is not None and not decoder.alive:
                await self._end(decoder)
                decoder = None
            decoder = decoder or await self._spawn()
            async with asyncio.timeout(self._timeout_s):
                answer = await _as_it_is(decoder, data) or await decoder.decode(data)
            usable = True
        except TimeoutError:
            raise QueueFull(
                "Opening the pictures takes too long just now. Send the same request again shortly.",
                code="decoder-busy",
                retry_after=SHORTLY,
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise InvalidImage(
                "This picture takes too long or too much memory to open. "
                "Save it again as a plain JPEG and upload that.",
                code="image-too-costly",
            ) from None
        finally:
            if decoder is not None and not usable:
                await self._end(decoder)
            self._idle.put_nowait(decoder if usable else None)
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def _spawn(self) -> _Decoder:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            json.dumps({"limits": asdict(self._limits), "cpu_s": self._cpu_s, "memory_bytes": self._memory_bytes}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_READ_AHEAD,
            env={"PYTHONPATH": _ROOT},
            start_new_session=True,
        )
        decoder = _Decoder(process)
        self._decoders.add(decoder)
        try:
            await decoder.ready()
        except asyncio.IncompleteReadError:
            await self._end(decoder)
            raise OSError("a picture decoder did not start; its standard error says why") from None
        return decoder

    async def _end(self, decoder: _Decoder) -> None:
        self._decoders.discard(decoder)
        await decoder.end()


async def _as_it_is(decoder: _Decoder, data: bytes) -> Photo | None:
    """A photo that needs no decoding here, without its metadata; None for any other picture."""
    outline = jpeg.outline(data) if len(data) <= PASS_BYTES else None
    if outline is None:
        return None
    size, kept = await asyncio.gather(decoder.passes(outline), asyncio.to_thread(jpeg.strip, data, 1))
    return None if size is None or kept is None else Photo(kept, "image/jpeg", *size)


class _Decoder:
    """The gateway's end of one process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("a picture decoder was started without its streams")
        self._process = process
        self._to, self._from = process.stdin, process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self) -> None:
        await self._frame()

    async def passes(self, outline: bytes) -> tuple[int, int] | None:
        await self._ask(_OUTLINE, outline)
        size = json.loads(await self._frame())
        return (int(size[0]), int(size[1])) if size else None

    async def decode(self, data: bytes) -> Photo | ServiceError:
        await self._ask(_PICTURE, data)
        header = json.loads(await self._frame())
        if "refusal" in header:
            return _REFUSALS[header["refusal"]](header["detail"], code=header["code"])
        return Photo(data=await self._frame(), **header)

    async def end(self) -> None:
        if self.alive:
            self._process.kill()
        self._to.close()
        await self._process.wait()

    async def _ask(self, word: bytes, data: bytes) -> None:
        for frame in (word, data):
            self._to.write(_LENGTH.pack(len(frame)))
            self._to.write(frame)
        await self._to.drain()

    async def _frame(self) -> bytes:
        (length,) = _LENGTH.unpack(await self._from.readexactly(_LENGTH.size))
        return await self._from.readexactly(length)


def _serve(limits: ImageLimits, cpu_s: float, memory_bytes: int) -> None:
    """The process itself: pictures in, answers out, until the gateway closes the stream.

    The profiling timer's signal keeps its default action, so the kernel ends a decoder deep in C code.
    """
    asked = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm_up()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    Image.MAX_IMAGE_PIXELS = int(limits.max_megapixels * 1e6)
    _answer(answers, b"ready")
    while word := _asked(asked):
        data = _asked(asked)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            if word == _OUTLINE:
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
    _serve(ImageLimits(**_given["limits"]), _given["cpu_s"], _given["memory_bytes"])
