"""The application: its parts opened and closed with its lifespan, and the order of its layers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import uvicorn
from fastapi import FastAPI

from engine_build.instruction import MAX_GARMENTS
from service import telemetry
from service.errors import CommandFailed, ServiceError, StoreUnavailable
from service.gateway.http import problems
from service.gateway.http.connections import guarded_protocol
from service.gateway.http.door import Door
from service.gateway.http.encodings import ContentEncoding
from service.gateway.http.limits import BodyLimit
from service.gateway.http.origins import Cors
from service.gateway.http.own_address import OwnAddress
from service.gateway.http.request_context import RequestContext
from service.gateway.routes import fashn, native, openai, ops, reference
from service.gateway.routes.departures import Departures
from service.gateway.routes.early_refusals import EarlyRefusals
from service.gateway.routes.state import Gateway
from service.gateway.routes.trailing_slashes import TrailingSlashes
from service.gateway.shapes import openapi
from service.gateway.work.api_keys import KeyRing
from service.gateway.work.fleet import Fleet
from service.gateway.work.garments import Garments
from service.gateway.work.rewriter import Rewriter
from service.gateway.work.tryons import TryOns
from service.gateway.work.webhook_addresses import WebhookAddresses
from service.heap import keep_freed
from service.jobs.blobs import BlobStore
from service.jobs.queue import JobQueue
from service.jobs.upkeep import keep_house
from service.metrics import Metrics
from service.pictures.bounds import ImageLimits
from service.pictures.pool import ImagePool
from service.ports import free_port
from service.settings import Settings, without_password

log = logging.getLogger("changeroom.gateway")

HEAP_KEPT = 64 << 20
DESCRIPTION = (
    f"Virtual try-on: one person and 1 to {MAX_GARMENTS} garments in, one new photo out. Errors are RFC 9457 problems "
    "with a stable `code`; jobs are 202 with Location, or 200 with `Prefer: wait`."
)
TAGS = [
    {"name": "try-ons", "description": f"One person and 1 to {MAX_GARMENTS} garments in, one new picture out."},
    {"name": "catalogue", "description": "Garments uploaded once and worn by their sku."},
    {"name": "compatible", "description": "The same service in the shapes of OpenAI's and FASHN's clients."},
    {"name": "models", "description": "What is loaded."},
    {"name": "operations", "description": "Probes and metrics."},
]


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI application. Raises SettingsError for a key file that cannot be used."""
    keys = KeyRing(settings)
    metrics = Metrics()
    address = OwnAddress(settings)
    if settings.keys_required and settings.url_secret is None and not settings.store_is_local:
        log.warning(
            "CHANGEROOM_URL_SECRET is not set: picture addresses signed here are refused by other gateways; "
            "give all gateways the same one"
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            queue = await JobQueue.connect(settings, metrics)
            stack.push_async_callback(queue.close)
            await _tell_when_away(queue)
            blobs = BlobStore.open(settings)
            rewriter = Rewriter(settings)
            limits = ImageLimits(max_bytes=settings.image_limit_bytes, max_megapixels=settings.max_megapixels)
            pool = await stack.enter_async_context(ImagePool(limits))
            stack.push_async_callback(rewriter.close)
            garments = Garments(queue.upkeep.catalogue, blobs, pool, queue.submission)
            fleet = Fleet(queue)
            webhooks = WebhookAddresses(settings)
            stack.callback(webhooks.close)
            tryons = TryOns(
                settings,
                queue,
                blobs,
                pool=pool,
                rewriter=rewriter,
                garments=garments,
                fleet=fleet,
                webhooks=webhooks,
            )
            upkeep = asyncio.create_task(keep_house(queue.upkeep, blobs, tryons.words), name="upkeep")
            stack.push_async_callback(_stopped, upkeep)
            departures = Departures(queue)
            stack.push_async_callback(departures.close)
            app.state.gateway = Gateway(
                settings, queue, tryons, garments, fleet, keys, metrics, address=address, departures=departures
            )
            yield

    app = FastAPI(
        title="Changeroom",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
    )
    ops.mount_studio(app)
    routers = (native.router, openai.router, fashn.router, ops.router, reference.router(app))
    problems.install(app, [*app.routes, *(route for router in routers for route in router.routes)])
    for router in routers:
        app.include_router(router)
    openapi.install(app, fashn.FashnRequest)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(ContentEncoding)
    app.add_middleware(EarlyRefusals)
    app.add_middleware(Door, settings=settings)
    app.add_middleware(Cors, settings=settings)
    app.add_middleware(RequestContext)
    app.add_middleware(TrailingSlashes)
    return app


class Server(uvicorn.Server):
    """uvicorn, except that those who wait for a job are answered when it stops instead of holding it up."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        application = self.config.app
        if isinstance(application, FastAPI) and hasattr(application.state, "gateway"):
            cast(Gateway, application.state.gateway).tryons.stopping.set()
        await super().shutdown(sockets)


def server(settings: Settings) -> Server:
    """A uvicorn server with deadlines on slow and silent clients; `await server.serve()` runs it."""
    app = create_app(settings)

    def refused(error: ServiceError) -> None:
        if hasattr(app.state, "gateway"):
            app.state.gateway.metrics.admission_rejected.labels(error.code).inc()

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=guarded_protocol(settings, on_refused=refused),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is for own_address to say
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=int(settings.drain_grace_s),
        backlog=1024,
    )
    return Server(config)


def serve(settings: Settings, files: Sequence[int] = ()) -> None:
    """Run the gateway until SIGINT or SIGTERM, on the open listening sockets `files` where they are given.

    Raises CommandFailed for a taken port, SettingsError and StoreUnavailable for a key file, a rewriter or a picture
    store that cannot be used: they are looked at before the server starts, which would tell of them in a traceback.
    """
    keep_freed(HEAP_KEPT, settings.image_limit_bytes)
    telemetry.configure_logging(settings)
    telemetry.configure_tracing(settings, "changeroom-gateway")
    try:
        sockets = [socket.socket(fileno=file) for file in files]
    except OSError as error:
        raise CommandFailed(f"--fd names no open socket ({error.strerror})") from None
    if not sockets:
        free_port(settings.host, settings.port)
    if settings.listens_beyond_loopback and not settings.keys_required:
        log.warning("no key is asked for: whoever reaches this address may use it", extra={"host": settings.host})
    Rewriter(settings)
    BlobStore.open(settings)
    server(settings).run(sockets or None)


async def _tell_when_away(queue: JobQueue) -> None:
    """A store that is away is no reason not to start: every request says so until it is back."""
    try:
        await queue.ping()
    except StoreUnavailable:
        address = without_password(queue.settings.redis_url)
        log.warning("the store does not answer; start it or correct REDIS_URL", extra={"store": address})


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _version() -> str:
    try:
        return version("changeroom")
    except PackageNotFoundError:
        return "0.0.0"
