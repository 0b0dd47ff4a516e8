"""What is asked of the service itself: liveness, readiness, metrics, models, the studio page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from service.errors import EngineUnavailable, NotFound
from service.gateway.routes.queries import KNOWN_QUERY
from service.gateway.routes.state import Parts, Who
from service.gateway.shapes import error_samples, model_views, views
from service.jobs.schemas import EngineFacts, WorkerInfo
from service.retry_after import SHORTLY

router = APIRouter(dependencies=[KNOWN_QUERY])


@router.get(
    "/livez",
    tags=["operations"],
    summary="Is the process alive",
    response_model=views.Health,
    responses=error_samples.responses(),
)
async def livez() -> views.Health:
    """200 while the event loop turns; asks nobody else."""
    return views.Health(status="ok")


@router.get(
    "/readyz",
    tags=["operations"],
    summary="Can a try-on be made now",
    response_model=views.Health,
    responses=error_samples.responses("engine-unavailable", "store-unavailable"),
)
async def readyz(parts: Parts) -> views.Health:
    """200 only when the store answers and a worker that passed its warm-up is announced."""
    workers = await parts.queue.workers.ready()
    if not workers:
        raise EngineUnavailable("No worker has announced itself as ready yet.", retry_after=SHORTLY)
    return views.Health(status="ok", workers=len(workers))


@router.get(
    "/metrics",
    tags=["operations"],
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": "changeroom_requests_waiting 0.0"}},
        },
        **error_samples.responses("store-unavailable"),
    },
)
async def metrics(parts: Parts) -> Response:
    """The gauges and totals of the store, read at this moment, and this process's own counters."""
    await parts.queue.upkeep.observe(parts.metrics)
    return Response(generate_latest(parts.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get(
    "/v1/models",
    tags=["models"],
    summary="The loaded models",
    response_model=model_views.ModelList,
    responses=error_samples.responses(*error_samples.ASKED, dialect="openai"),
)
async def models(parts: Parts, caller: Who) -> model_views.ModelList:
    """What ready workers have loaded, what it accepts, and a plain note of what it knows."""
    return model_views.ModelList(data=loaded(await parts.fleet.workers()))


@router.get(
    "/v1/models/{id:path}",
    tags=["models"],
    summary="One loaded model",
    response_model=model_views.ModelView,
    responses=error_samples.responses(*error_samples.ASKED, "unknown-model", dialect="openai"),
)
async def read_model(
    id: Annotated[str, Path(max_length=256, description="Its id, as the list tells it.", examples=["nano"])],
    parts: Parts,
    caller: Who,
) -> model_views.ModelView:
    """One model of the list, while a ready worker has it."""
    for view in loaded(await parts.fleet.workers()):
        if view.id == id:
            return view
    raise NotFound("No ready worker has this model; GET /v1/models tells those there are.", code="unknown-model")


def loaded(workers: Sequence[WorkerInfo]) -> list[model_views.ModelView]:
    """The models that workers announce, by name."""
    counts = Counter(worker.model for worker in workers)
    by_model = {worker.model: worker for worker in workers}
    return [
        model_views.ModelView(
            id=name,
            workers=counts[name],
            default_size=f"{worker.default_size[0]}x{worker.default_size[1]}",
            **{fact: getattr(worker, fact) for fact in EngineFacts.model_fields},
        )
        for name, worker in sorted(by_model.items())
    ]


class StudioFiles(StaticFiles):
    """The page's files, with ETags: code is asked for anew each time, so that one page never mixes two versions."""

    def file_response(self, full_path: Any, *args: Any, **more: Any) -> Response:
        answer = super().file_response(full_path, *args, **more)
        picture = str(full_path).endswith((".jpg", ".png", ".webp"))
        answer.headers["Cache-Control"] = "public, max-age=86400" if picture else "no-cache"
        return answer


def mount_studio(app: FastAPI) -> None:
    """Serve the studio page at / and its files below /studio/."""
    studio = StudioFiles(directory=str(files("service.gateway") / "studio"), check_dir=False)

    async def page(request: Request) -> Response:
        try:
            return await studio.get_response("index.html", request.scope)
        except HTTPException:
            raise NotFound("This build has no studio page.", code="no-studio") from None

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.mount("/studio", studio, name="studio")
