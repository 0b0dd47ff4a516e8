"""Pictures in and out of a job, always off the engine's thread: blobs to engine inputs, results to blobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from engine_build.engine import Engine, ImageInput, TryOnRequest
from service.errors import StoreUnavailable
from service.jobs.blobs import BlobStore, content_hash
from service.jobs.schemas import Claim, JobSpec
from service.jobs.words import Words
from service.pictures.images import CONTENT_TYPES, encode_result, open_photo, preview_jpeg
from service.telemetry import span
from service.worker.batching import Prepared, request_tokens

T = TypeVar("T")

READ_TIMEOUT_S = 2.5
# Pictures are waited for as long as the picture store as a whole is away. A single picture that cannot be read while
# the store answers fails its attempt soon: it may be readable from another machine, and else the job ends.
STORE_AWAY_PATIENCE_S = 60.0
ONE_PICTURE_PATIENCE_S = 2.0
RETRY_S = 0.25


class Photos:
    """Loads and writes pictures on a few threads of its own."""

    def __init__(self, blobs: BlobStore, words: Words, threads: int = 4) -> None:
        self._blobs = blobs
        self._words = words
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="photos")

    async def fetch(self, spec: JobSpec) -> tuple[JobSpec, list[bytes]]:
        """The job with its words, and its pictures as they are stored, the person's first. Raises Gone or
        StoreUnavailable.
        """
        keys = (spec.person, *(garment.blob for garment in spec.garments))
        pictures = asyncio.gather(*(self._blobs.get(key, READ_TIMEOUT_S) for key in keys))
        opened, found = await asyncio.gather(self._words.open(spec, READ_TIMEOUT_S), pictures)
        return opened, found

    async def request(self, spec: JobSpec, pictures: list[bytes]) -> TryOnRequest:
        """The engine's request for a job, from what `fetch` returned. Raises InvalidImage."""
        person, *garments = await asyncio.gather(*map(self._open, pictures))
        return TryOnRequest(
            id=spec.id,
            person=ImageInput(person, content_hash(spec.person)),
            garments=tuple(
                ImageInput(image, content_hash(said.blob), category=said.category, layer=said.layer)
                for image, said in zip(garments, spec.garments, strict=True)
            ),
            instruction=spec.instruction,
            seed=spec.seed,
            steps=spec.steps,
            size=spec.size,
        )

    async def reachable(self) -> bool:
        """Whether the picture store as a whole answers, be a single picture as it may."""
        return await self._blobs.answers()

    async def encode(self, image: Image.Image, spec: JobSpec) -> bytes:
        return await self._run(lambda: encode_result(image, spec.output_format, spec.quality))

    async def store(self, data: bytes, spec: JobSpec) -> str:
        """Write an encoded result; returns its blob key. Raises StoreUnavailable."""
        return await self._blobs.put(data, kind="result", content_type=CONTENT_TYPES[spec.output_format])

    async def discard(self, blob: str) -> None:
        """Erase a result that nobody will see. Raises StoreUnavailable."""
        await self._blobs.delete(blob)

    async def preview(self, image: Image.Image) -> bytes:
        return await self._run(lambda: preview_jpeg(image))

    async def _open(self, data: bytes) -> Image.Image:
        return await self._run(lambda: open_photo(data))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Fetched:
    """A claimed job, the same with its words, and its stored pictures; `started` is when fetching them began
    (perf_counter).
    """

    claim: Claim
    spec: JobSpec
    pictures: list[bytes]
    started: float


class Preparing:
    """Fetches, then prepares, claims one by one; `may_wait` says whether a job is still worth waiting for."""

    def __init__(self, engine: Engine, photos: Photos, may_wait: Callable[[Claim], bool]) -> None:
        self._engine = engine
        self._photos = photos
        self._may_wait = may_wait

    async def fetched(self, claim: Claim) -> Fetched:
        """Raises Gone, and StoreUnavailable once patience ends."""
        started = time.perf_counter()
        with span("try_on.fetch", parent=claim.spec.traceparent):
            return Fetched(claim, *await self._stored(claim), started)

    async def prepared(self, fetched: Fetched) -> Prepared:
        """Raises InvalidRequest and EngineError."""
        claim = fetched.claim
        with span("try_on.prepare", parent=claim.spec.traceparent):
            request = await self._photos.request(fetched.spec, fetched.pictures)
            tokens = request_tokens(self._engine, request)
        return Prepared(claim, request, tokens, time.perf_counter() - fetched.started)

    async def store_answers(self) -> bool:
        """Whether it makes sense to claim more while some jobs wait for their pictures."""
        return await self._photos.reachable()

    async def _stored(self, claim: Claim) -> tuple[JobSpec, list[bytes]]:
        give_up_at = time.monotonic() + STORE_AWAY_PATIENCE_S
        alone_since: float | None = None
        while True:
            try:
                return await self._photos.fetch(claim.spec)
            except StoreUnavailable:
                now = time.monotonic()
                if now >= give_up_at or not self._may_wait(claim):
                    raise
                if not await self._photos.reachable():
                    alone_since = None
                elif alone_since is None:
                    alone_since = now
                elif now - alone_since >= ONE_PICTURE_PATIENCE_S:
                    raise
            await asyncio.sleep(RETRY_S)
