"""The seam between the service and the model: what a worker asks of an engine, and what it gets back.

Requests and outcomes are plain frozen values. An engine is loaded once, warmed up once and then called with
batches; inside a batch every request keeps its own seed, size, steps and fate, so that cancelling or failing
one never touches its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

ReferenceAttention = Literal["joint", "shared", "isolated"]


@dataclass(frozen=True)
class ImageInput:
    """One decoded photo: RGB, 8 bit, upright. `content_hash` identifies its bytes for the caches.

    What is made of photos is named after them (`engine_build.cache_keys`).
    """

    image: Image.Image
    content_hash: str
    category: str | None = None
    layer: str | None = None


@dataclass(frozen=True)
class TryOnRequest:
    """One try-on. `size` is (width, height) in pixels; None keeps the person's aspect at the default area.

    `adapters` are (name, scale) of adapters registered with the engine, which add up.
    """

    id: str
    person: ImageInput
    garments: tuple[ImageInput, ...]
    instruction: str
    seed: int = 0
    steps: int | None = None
    size: tuple[int, int] | None = None
    adapters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class AdapterInfo:
    """A registered adapter: its name, the hash of its file's content, what it takes on the host or in the bank."""

    name: str
    version: str
    bytes: int


@dataclass(frozen=True)
class AdapterUse:
    """An adapter that a picture was made with, and how strongly."""

    name: str
    version: str
    scale: float


@dataclass(frozen=True)
class StepEvent:
    """One finished denoising step of one request. `preview` is a small RGB picture, or None."""

    request_id: str
    step: int
    steps: int
    preview: Image.Image | None = None


# Called after every step of every request; returning False cancels that request at once.
OnStep = Callable[[StepEvent], bool]


@dataclass(frozen=True)
class Outcome:
    """What became of one request. Exactly one of `image` and `error` is set, neither when canceled.

    `stages` are seconds by stage name: text, vae_encode, denoise, vae_decode.
    `cache` counts events by (cache, result), for example {("reference_kv", "hit"): 2}; of the bank of adapters
    ("adapter", "hit" | "load" | "eviction" | "loaded_bytes"). `base` is the model, `adapters` what was beside it.
    """

    request_id: str
    status: Literal["succeeded", "failed", "canceled"]
    image: Image.Image | None = None
    error: Exception | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    cache: Mapping[tuple[str, str], int] = field(default_factory=dict)
    nfe: int = 0
    approximation: str | None = None
    base: str = ""
    adapters: tuple[AdapterUse, ...] = ()


@dataclass(frozen=True)
class EngineInfo:
    """What a loaded engine is and accepts; shown at GET /v1/models and used by admission and the page."""

    model: str
    backend: str
    device: str
    reference_attention: ReferenceAttention
    max_references: int
    default_size: tuple[int, int]
    max_pixels: int
    size_multiple: int
    default_steps: int
    max_steps: int
    token_budget: int
    note: str


class Engine(Protocol):
    """Load with the backend's own constructor; then `warm_up`, `describe`, `run`."""

    def describe(self) -> EngineInfo: ...

    def warm_up(self) -> None:
        """Run one small try-on so that the first request pays for nothing."""
        ...

    def register_adapter(self, name: str, path: Path) -> AdapterInfo:
        """Let requests name a LoRA file; another file under a name is its next version. From any thread, at any time.

        Raises CheckpointError for a file that is no LoRA of the model's blocks, RequestError for one that is larger
        than the bank, BackendError where there is no bank.
        """
        ...

    def remove_adapter(self, name: str) -> None:
        """Forget a name; requests that began with it keep what they have. Raises RequestError for an unknown one."""
        ...

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """What requests can name now, by name."""
        ...

    def cost(self, width: int, height: int, garments: int) -> int:
        """Tokens one request occupies in a forward; the worker groups requests up to `token_budget`."""
        ...

    def run(self, requests: Sequence[TryOnRequest], on_step: OnStep | None = None) -> list[Outcome]:
        """Run a batch; one outcome a request, in order. A bad request fails alone.

        Raises EngineError only when the engine itself can no longer be used.
        """
        ...

    def forget(
        self, content: Collection[str] | None = (), *, words: bool = False, older_than_s: float | None = None
    ) -> None:
        """Drop what is kept between requests: of photos with these content hashes, None for all of them; with
        `words`, of instructions too; and whatever is older than so many seconds.

        May be called from any thread, also while `run` runs; what a running batch still makes is kept.
        """
        ...
