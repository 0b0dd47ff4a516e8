"""The values that cross the queue: what the gateway writes and a worker reads, as JSON, never pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine_build.instruction import MAX_GARMENTS

Category = Literal["tops", "pants", "skirts", "dresses", "coats", "shoes", "bags", "hats", "auto"]
Status = Literal["queued", "processing", "succeeded", "failed", "canceled", "expired"]
Priority = Literal["high", "normal", "low"]
OutputFormat = Literal["jpeg", "png", "webp"]

INLINE = "inline"
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "canceled", "expired"})


class Wire(BaseModel):
    """Base of every value on the wire: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Announced(Wire):
    """Base of what workers tell of themselves: unknown fields are passed over, because in a rolling update an older
    gateway hears newer workers. A field that comes later needs a default, for the other way round.
    """

    model_config = ConfigDict(extra="ignore")


class GarmentRef(Wire):
    """One garment of a job: the blob of its decoded picture and what was said about it."""

    blob: str
    category: Category = "auto"
    layer: str | None = None
    sku: str | None = None


class SealedWords(Wire):
    """A customer's words as the store keeps them: `text` is base64, sealed with the key in the blob `key` (`words`).

    `personal` says that the job came with words of a customer, `webhook` that somebody wants to hear of its end.
    """

    key: str
    text: str
    personal: bool = False
    webhook: bool = False


class PictureWarning(Wire):
    """What is wrong with a picture that was accepted all the same. `pointer` names it, such as `garments.0`."""

    pointer: str
    detail: str


def _nothing(value: object) -> bool:
    return not value


class JobSpec(Wire):
    """Everything a worker needs for one try-on. Blobs are content hashes in the object store.

    Times are Unix seconds. `tokens` is the admission estimate of the packed length. `webhook_output` is there for a
    receiver of FASHN's shape: the signed address of the picture to come, or `INLINE` for the picture itself. It and
    `warnings` are not written where there are none: in a rolling update an older worker refuses fields that it does
    not know.

    Gateways give the store only specs that are `sealed`: then prompt, instruction, metadata, webhook address, layers
    and request id are empty until `Words.open` fills them.
    """

    id: str
    tenant: str = "anonymous"
    person: str
    garments: tuple[GarmentRef, ...] = Field(min_length=1, max_length=MAX_GARMENTS)
    prompt: str = ""
    instruction: str
    instruction_by: str
    instruction_fallback: str | None = None
    size: tuple[int, int] | None = None
    seed: int
    steps: int | None = None
    output_format: OutputFormat = "jpeg"
    quality: int = 90
    priority: Priority = "normal"
    metadata: dict[str, str] = Field(default_factory=dict)
    webhook_url: str | None = None
    webhook_output: str | None = Field(None, exclude_if=lambda value: value is None)
    created_at: float
    deadline_at: float
    tokens: int
    request_id: str = ""
    traceparent: str | None = None
    sealed: SealedWords | None = None
    warnings: tuple[PictureWarning, ...] = Field(default=(), exclude_if=_nothing)


class JobError(Wire):
    """Why a job did not succeed. `code` is stable, `message` says what to do."""

    code: str
    message: str
    retryable: bool = False


class JobResult(Wire):
    """A finished picture: its blob and how it was made. `stages` are seconds by stage."""

    blob: str
    content_type: str
    width: int
    height: int
    model: str
    nfe: int
    stages: dict[str, float] = Field(default_factory=dict)
    approximation: str | None = None


class JobRecord(Wire):
    """The state of a job as anyone may read it from the store."""

    spec: JobSpec
    status: Status
    attempts: int = 0
    stage: str | None = None
    step: int = 0
    steps: int = 0
    position: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    error: JobError | None = None
    result: JobResult | None = None


class Claim(Wire):
    """A job leased to a worker. `fence` is the fencing token every later write must carry."""

    spec: JobSpec
    fence: int
    attempt: int
    entry: str


class Event(Wire):
    """One thing that happened to a job; `id` orders them and is SSE's event id."""

    id: str
    type: Literal["queued", "processing", "progress", "succeeded", "failed", "canceled", "expired"]
    data: dict[str, object]


class Canceled(Wire):
    """A running job was canceled; a worker that holds it stops at the next step."""

    job_id: str


class Erased(Wire):
    """Pictures that no worker may remember, by content hash; None is all of them, when some news was missed.

    `job_id` is the erased job's, "" for a catalogue garment. `words` says that the job came with words of a customer.
    """

    job_id: str = ""
    content: frozenset[str] | None
    words: bool = False


class Activity(Announced):
    """What a worker has done since it became ready, for `changeroom top`.

    `at` and `since` are Unix seconds, `busy_s` seconds in which the engine ran. `latency` (acceptance to finished
    picture) and `stages` count jobs by bucket: one number a bound of `metrics.LATENCY_BUCKETS` (`STAGE_BUCKETS`) and
    one for what took longer, not cumulative.
    """

    at: float
    since: float
    busy_s: float
    holding: int
    latency: tuple[int, ...]
    stages: dict[str, tuple[int, ...]]


class EngineFacts(BaseModel):
    """What a loaded engine is and accepts, for workers and callers: the fields of `engine_build.engine.EngineInfo`."""

    backend: str
    device: str
    reference_attention: str
    max_references: int
    max_pixels: int
    size_multiple: int
    default_steps: int
    max_steps: int
    token_budget: int
    note: str


class WorkerInfo(Announced, EngineFacts):
    """What a ready worker announces about itself and its engine, under a TTL."""

    id: str
    model: str
    default_size: tuple[int, int]
    activity: Activity | None = None


class GarmentRecord(Wire):
    """A catalogue garment: uploaded once, referred to by sku. Its blob is kept until it is deleted, replaced or, worn
    by nobody for `garment_ttl_s`, swept.
    """

    sku: str
    blob: str
    content_type: str
    width: int
    height: int
    category: Category = "auto"
    layer: str | None = None
    created_at: float
    warning: str | None = Field(default=None, exclude_if=_nothing)


@dataclass(frozen=True)
class HeldGarment:
    """A garment of the catalogue and when its life ends (Unix seconds), unless it is worn before; None is never."""

    record: GarmentRecord
    ends_at: float | None


class Limits(Wire):
    """What one tenant may use; 0 means no limit. `daily_quota` counts jobs and catalogue uploads of a UTC day,
    `catalogue_bytes` the bytes of the pictures of its garments, `stored_bytes` those of its records in the store.
    """

    rate_per_minute: int = 0
    concurrency: int = 0
    daily_quota: int = 0
    catalogue_garments: int = 0
    catalogue_bytes: int = 0
    stored_bytes: int = 0


class Reserved(Wire):
    """Room for one job: admission said yes and its picture may now be decoded."""

    id: str
    tenant: str


class Existing(Wire):
    """The same request came before under the same Idempotency-Key; this is its job."""

    job_id: str


class Backlog(Wire):
    """Jobs waiting, running and accepted but not terminal; `seconds` is waiting work over the service
    rate.
    """

    waiting: int
    running: int
    in_flight: int
    seconds: float


class SweepReport(Wire):
    """Job ids one sweep moved, by what became of them; `failed` ones are in the dead letter."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    canceled: tuple[str, ...] = ()
    reservations: tuple[str, ...] = ()
