"""Decoding in processes that can be killed: a hostile picture costs one process, never the gateway.

What a picture will cost is estimated from its header. One that would cost too much is refused unopened; the others take
turns, fair between callers. A picture that exceeds its estimate by far ends its process and is refused, also when it
comes again; one that merely had no turn or no machine may be sent again. So the same file gets the same answer, or is
asked for later. Ended processes are replaced.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections import OrderedDict
from collections.abc import Iterable

from service.errors import InvalidImage, QueueFull, ServiceError
from service.pictures.bounds import ImageLimits, sniff
from service.pictures.cost import estimate
from service.pictures.decoder import Decoder
from service.pictures.images import Photo
from service.pictures.turns import NOBODY, Asker, Turns
from service.retry_after import SHORTLY

GIB = 1 << 30
# The processor time a picture may take is so much and a multiple of its estimate, so that no slow moment decides.
GRACE_S, TIMES_ESTIMATE = 1.0, 3.0
MOST_REMEMBERED = 1024


class ImagePool:
    """A few warm decoder processes behind one async call; further pictures wait their turn.

    `most_s` bounds the estimated seconds of one picture, `request_s` those of one request; `cpu_s` the processor time
    of any picture, `timeout_s` its wall time once a process has taken it up, on a machine with nothing left for it;
    `memory_bytes` the address space of one process. Use it as an async context manager, or `start` and `close` it.
    """

    def __init__(
        self,
        limits: ImageLimits | None = None,
        *,
        workers: int = 2,
        most_s: float = 3.5,
        request_s: float = 10.0,
        cpu_s: float = 4.5,
        timeout_s: float = 20.0,
        memory_bytes: int = GIB,
    ) -> None:
        self._limits = limits or ImageLimits()
        self._workers = workers
        self._most_s = most_s
        self._request_s = request_s
        self._cpu_s = cpu_s
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._turns = Turns(workers)
        self._idle: asyncio.Queue[Decoder | None] = asyncio.Queue()
        self._decoders: set[Decoder] = set()
        self._decoding: set[asyncio.Task[Photo]] = set()
        self._costly: OrderedDict[bytes, None] = OrderedDict()
        self._started = False

    async def start(self) -> None:
        """Start the processes and wait until they can decode. Raises OSError when they cannot be started."""
        for decoder in await asyncio.gather(*(self._spawn() for _ in range(self._workers))):
            self._idle.put_nowait(decoder)
        self._started = True

    async def close(self) -> None:
        """Send waiting pictures away, let those in work finish, which their timeout bounds, then end the processes."""
        self._started = False
        self._turns.close()
        await asyncio.gather(*self._decoding, return_exceptions=True)
        while not self._idle.empty():
            decoder = self._idle.get_nowait()
            if decoder is not None:
                self._decoders.discard(decoder)
                await decoder.kill()

    async def __aenter__(self) -> ImagePool:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def processes(self) -> list[int]:
        """Process ids of the decoders that are alive."""
        return sorted(decoder.pid for decoder in self._decoders if decoder.alive)

    async def check_together(self, pictures: Iterable[bytes]) -> None:
        """Raises InvalidImage (image-too-costly) when the pictures of one request would take too long together.

        What is wrong with one of them is left to `decode`.
        """
        if await asyncio.to_thread(lambda: sum(map(self._estimated, pictures))) > self._request_s:
            raise InvalidImage(
                "The pictures of this request take too long to open together. Send smaller copies of them.",
                code="image-too-costly",
            )

    async def decode(self, data: bytes, *, pointer: str | None = None, asker: Asker = NOBODY) -> Photo:
        """Normalise one upload of `asker`; `pointer` names it in the error ("person", "garments.0").

        Raises what `service.pictures.images.decode_photo` raises, InvalidImage (image-too-costly) for a picture that
        would cost or did cost too much, and QueueFull (decoder-busy) when the line was too long or the machine had no
        time. A decoding that has begun outlives a cancelled caller.
        """
        if not self._started:
            raise RuntimeError("the image pool is not started")
        try:
            sniff(data, self._limits)
            cost_s = await asyncio.to_thread(self._estimated, data)
            if cost_s > self._most_s or (self._costly and await asyncio.to_thread(_digest, data) in self._costly):
                raise _too_costly()
            await self._turns.take(asker, cost_s)
            task = asyncio.create_task(self._decode(data, cost_s))
            self._decoding.add(task)
            task.add_done_callback(self._settled)
            task.add_done_callback(lambda _: self._turns.leave(cost_s))
            return await asyncio.shield(task)
        except ServiceError as error:
            error.pointer = pointer
            raise

    def _estimated(self, data: bytes) -> float:
        try:
            return estimate(data, sniff(data, self._limits), self._limits)
        except ServiceError:
            return 0.0

    def _settled(self, task: asyncio.Task[Photo]) -> None:
        """Nobody may be waiting any more; an error nobody sees is not one to report."""
        self._decoding.discard(task)
        if not task.cancelled():
            task.exception()

    async def _decode(self, data: bytes, cost_s: float) -> Photo:
        decoder = await self._idle.get()
        usable = False
        try:
            if decoder is not None and not decoder.alive:
                self._decoders.discard(decoder)
                decoder = None
            decoder = decoder or await self._spawn()
            async with asyncio.timeout(self._timeout_s):
                answer = await decoder.photo(data, min(self._cpu_s, GRACE_S + TIMES_ESTIMATE * cost_s))
            usable = True
        except TimeoutError:
            raise _busy() from None
        except (asyncio.IncompleteReadError, ConnectionError):
            status = await decoder.end() if decoder is not None else 0
            if status == -signal.SIGKILL:  # not we: the machine had no memory left, or somebody to stop it
                raise _busy() from None
            if status == -signal.SIGPROF:
                await self._remember(data)
            raise _too_costly() from None
        finally:
            if decoder is not None and not usable:
                self._decoders.discard(decoder)
                await decoder.kill()
            self._idle.put_nowait(decoder if usable else None)
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def _remember(self, data: bytes) -> None:
        """Refuse this file unopened from now on."""
        self._costly[await asyncio.to_thread(_digest, data)] = None
        if len(self._costly) > MOST_REMEMBERED:
            self._costly.popitem(last=False)

    async def _spawn(self) -> Decoder:
        decoder = await Decoder.start(self._limits, self._memory_bytes)
        self._decoders.add(decoder)
        try:
            await decoder.ready()
        except asyncio.IncompleteReadError:
            self._decoders.discard(decoder)
            await decoder.kill()
            raise OSError("a picture decoder did not start; its standard error says why") from None
        return decoder


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _too_costly() -> InvalidImage:
    return InvalidImage(
        "This picture takes too long or too much memory to open. Save it again as a plain JPEG and upload that.",
        code="image-too-costly",
    )


def _busy() -> QueueFull:
    return QueueFull(
        "Opening the pictures takes too long just now. Send the same request again shortly.",
        code="decoder-busy",
        retry_after=SHORTLY,
    )
