"""The JSON a caller sees, as pydantic models: the response half of the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from engine_build.instruction import MAX_GARMENTS
from service.gateway.http import problems
from service.jobs.schemas import JobRecord, Status

EXAMPLE_ID = "pRgFz1mYk3B0sX7nQe2LdW4v"


class View(BaseModel):
    """Base of every response body."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An RFC 9457 problem document. `code` is stable; `detail` says what to do."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:changeroom:problem:missing-garment",
                    "title": "The request cannot be carried out",
                    "status": 422,
                    "detail": f"Send 1 to {MAX_GARMENTS} garment photos in parts named garment.",
                    "code": "missing-garment",
                    "retryable": False,
                    "request_id": "req_uT0cN2m1pQ4rS5tU",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str | None = None
    retry_after: int | None = None
    pointer: str | None = None


class Progress(View):
    step: int
    steps: int


class InstructionView(View):
    """The instruction the model was given and who wrote it: `grammar` or `model:<name>`.

    `fallback` says why a configured language model did not write it, such as `timeout`.
    """

    text: str
    by: str
    fallback: str | None = None


class GarmentView(View):
    category: str
    layer: str | None
    sku: str | None


class ResultView(View):
    """The finished picture; `url` is signed and needs no key until `expires_at`."""

    url: str
    content_type: str
    width: int
    height: int
    expires_at: str


class Links(View):
    self: str
    events: str
    image: str
    cancel: str


class WarningView(View):
    """What is wrong with a picture that was accepted all the same: today only `picture-cut-off`, a JPEG that lacks at
    most a hundredth at its end. `pointer` names the picture.
    """

    code: str
    detail: str
    pointer: str


class TryOnView(View):
    """A try-on at one moment. `timings` are seconds by stage, `position` counts the jobs ahead, `warnings` tell of
    pictures that are not quite whole.

    `error` says why it did not succeed: `canceled`, `deadline-exceeded`, `unprocessable-request`, `out-of-memory`,
    `input-erased`, `input-damaged`, or, worth another try, `engine-failed`, `worker-lost`, `store-unavailable`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": EXAMPLE_ID,
                    "status": "succeeded",
                    "created_at": "2026-11-21T19:00:00.000Z",
                    "deadline_at": "2026-11-21T19:02:00.000Z",
                    "started_at": "2026-11-21T19:00:00.020Z",
                    "finished_at": "2026-11-21T19:00:00.910Z",
                    "position": None,
                    "stage": None,
                    "progress": {"step": 4, "steps": 4},
                    "attempts": 1,
                    "instruction": {"text": "Dress the person of image 1 …", "by": "grammar"},
                    "seed": 7,
                    "size": None,
                    "metadata": {},
                    "garments": [{"category": "tops", "layer": "tucked in", "sku": None}],
                    "result": {
                        "url": f"/v1/try-ons/{EXAMPLE_ID}/image?token=1795374000.bWFj",
                        "content_type": "image/jpeg",
                        "width": 768,
                        "height": 1024,
                        "expires_at": "2026-11-22T19:00:00.910Z",
                    },
                    "timings": {"queue": 0.02, "denoise": 0.6},
                    "model": "nano",
                    "error": None,
                    "warnings": [],
                    "links": {
                        "self": f"/v1/try-ons/{EXAMPLE_ID}",
                        "events": f"/v1/try-ons/{EXAMPLE_ID}/events",
                        "image": f"/v1/try-ons/{EXAMPLE_ID}/image",
                        "cancel": f"/v1/try-ons/{EXAMPLE_ID}/cancel",
                    },
                }
            ]
        }
    )

    id: str
    status: Status
    created_at: str
    deadline_at: str
    started_at: str | None
    finished_at: str | None
    position: int | None
    stage: str | None
    progress: Progress
    attempts: int
    instruction: InstructionView
    seed: int
    size: str | None
    metadata: dict[str, str]
    garments: list[GarmentView]
    result: ResultView | None
    timings: dict[str, float]
    model: str | None
    error: Problem | None
    warnings: list[WarningView]
    links: Links


class CatalogueView(View):
    """A garment of the catalogue. It is erased at `expires_at` unless it is put or worn before; null is never."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sku": "COAT-7",
                    "category": "coats",
                    "layer": "open",
                    "width": 1024,
                    "height": 1024,
                    "created_at": "2026-11-21T19:00:00.000Z",
                    "warnings": [],
                    "expires_at": "2027-05-20T19:00:00.000Z",
                }
            ]
        }
    )

    sku: str
    category: str
    layer: str | None
    width: int
    height: int
    created_at: str
    warnings: list[WarningView]
    expires_at: str | None


class Health(View):
    """`status` is `ok`; `workers` counts the ready ones."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "workers": 1}]})

    status: str
    workers: int | None = None


def warning(pointer: str, detail: str) -> WarningView:
    """A picture that was cut off, and how much of it there is."""
    return WarningView(code="picture-cut-off", detail=f"{pointer}: {detail}", pointer=pointer)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def try_on(record: JobRecord, *, image_url: str | None, expires_at: float | None) -> TryOnView:
    """The view of a record; `image_url` is the signed address of a finished picture."""
    spec = record.spec
    base = f"/v1/try-ons/{spec.id}"
    timings: dict[str, float] = {}
    if record.started_at is not None:
        timings["queue"] = round(max(0.0, record.started_at - spec.created_at), 6)
    result: ResultView | None = None
    if record.result is not None:
        timings.update(record.result.stages)
        if image_url is not None and expires_at is not None:
            result = ResultView(
                url=image_url,
                content_type=record.result.content_type,
                width=record.result.width,
                height=record.result.height,
                expires_at=timestamp(expires_at),
            )
    if record.finished_at is not None:
        timings["total"] = round(max(0.0, record.finished_at - spec.created_at), 6)
    return TryOnView(
        id=spec.id,
        status=record.status,
        created_at=timestamp(spec.created_at),
        deadline_at=timestamp(spec.deadline_at),
        started_at=None if record.started_at is None else timestamp(record.started_at),
        finished_at=None if record.finished_at is None else timestamp(record.finished_at),
        position=record.position,
        stage=record.stage,
        progress=Progress(step=record.step, steps=record.steps),
        attempts=record.attempts,
        instruction=InstructionView(text=spec.instruction, by=spec.instruction_by, fallback=spec.instruction_fallback),
        seed=spec.seed,
        size=None if spec.size is None else f"{spec.size[0]}x{spec.size[1]}",
        metadata=spec.metadata,
        garments=[GarmentView(category=g.category, layer=g.layer, sku=g.sku) for g in spec.garments],
        result=result,
        timings=timings,
        model=None if record.result is None else record.result.model,
        error=None if record.error is None else Problem(**problems.of_job_error(record.error)),
        warnings=[warning(given.pointer, given.detail) for given in spec.warnings],
        links=Links(self=base, events=f"{base}/events", image=f"{base}/image", cancel=f"{base}/cancel"),
    )
