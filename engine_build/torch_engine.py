"""The Engine that runs a checkpoint with torch, on a CPU or a GPU, with a named set of kernels.

Requests of one batch share packed forwards, whatever their sizes, steps and numbers of references; each keeps
its own noise, fate and error. A request leaves the pack when it is finished, canceled or broken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from engine_build.config import CheckpointConfig, ReferenceAttention
from engine_build.dressing import Dressing, Overflow, plan, reference_tokens
from engine_build.engine import EngineInfo, ImageInput, OnStep, Outcome, StepEvent, TryOnRequest
from engine_build.errors import EngineError
from engine_build.instruction import MAX_GARMENTS, GarmentPhrase, compose
from engine_build.ledger import Ledger
from engine_build.loading import load_pipeline, pick_device, pick_dtype, pick_kernels
from engine_build.pipeline import Draft, Pipeline
from engine_build.reference_cache import Caches
from engine_build.references import named_by_pixels
from engine_build.weights import locate

_log = logging.getLogger(__name__)
CPU_TOKEN_BUDGET = 2_048
GPU_TOKEN_BUDGET = 49_152


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may be told beyond its checkpoint. None leaves a choice to the checkpoint or the device.

    `reference_attention` other than the checkpoint's own is an approximation and every outcome says so.
    `overflow` decides what happens to garments beyond the checkpoint's places. `loras` are files and their
    strengths, merged into the weights. Cache sizes are in bytes.
    """

    reference_attention: ReferenceAttention | None = None
    overflow: Overflow = "sheets"
    loras: tuple[tuple[Path, float], ...] = ()
    garment_area: int | None = None
    token_budget: int | None = None
    previews: bool = True
    text_cache_bytes: int = 256 << 20
    latent_cache_bytes: int = 256 << 20
    reference_cache_bytes: int = 1 << 30


@dataclass
class _Job:
    """One request on its way through its passes; it is over when it has an outcome."""

    request: TryOnRequest
    approximation: str | None
    ledger: Ledger = field(default_factory=Ledger)
    dressing: Dressing | None = None
    draft: Draft | None = None
    turn: int = 0
    steps_done: int = 0
    outcome: Outcome | None = None

    @property
    def tokens(self) -> int:
        return self.draft.tokens if self.draft else 0

    def succeed(self, image: Image.Image) -> None:
        self._end(Outcome(self.request.id, "succeeded", image=image, approximation=self.approximation))

    def cancel(self) -> None:
        self._end(Outcome(self.request.id, "canceled"))

    def fail(self, error: Exception) -> None:
        self._end(Outcome(self.request.id, "failed", error=error))

    def _end(self, outcome: Outcome) -> None:
        stages, events = dict(self.ledger.seconds), dict(self.ledger.events)
        self.outcome = replace(outcome, stages=stages, cache=events, nfe=self.steps_done)
        self.draft = None


class TorchEngine:
    """An `Engine` around one loaded pipeline. `run` may be called from any thread, one batch at a time."""

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        config: CheckpointConfig,
        options: EngineOptions | None = None,
    ) -> None:
        options = options or EngineOptions()
        if options.garment_area is not None:
            config = replace(config, garment_area=options.garment_area)
        self.name = name
        self.pipeline = pipeline
        self.config = config
        self.options = options
        self._lock = threading.Lock()
        self._text_cost: dict[int, int] = {}
        trained, used = config.reference_attention, pipeline.model.config.reference_attention
        self.approximation = None if trained == used else f"references attend as {used}, trained as {trained}"

    def describe(self) -> EngineInfo:
        model, config = self.pipeline.model, self.config
        on_gpu = model.device.type == "cuda"
        return EngineInfo(
            model=self.name,
            backend=model.kernels.name,
            device=torch.cuda.get_device_name(model.device) if on_gpu else model.device.type,
            reference_attention=model.config.reference_attention,
            max_references=config.max_references,
            default_size=config.default_size,
            max_pixels=config.max_pixels,
            size_multiple=self.pipeline.autoencoder.token_pixels,
            default_steps=config.default_steps,
            max_steps=config.max_steps,
            token_budget=self._token_budget,
            note="; ".join(part for part in (config.note, self.approximation) if part),
        )

    @property
    def _token_budget(self) -> int:
        on_gpu = self.pipeline.device.type == "cuda"
        return self.options.token_budget or (GPU_TOKEN_BUDGET if on_gpu else CPU_TOKEN_BUDGET)

    def warm_up(self) -> None:
        """One step at the default size, forgotten afterwards. Raises EngineError when it fails."""
        width, height = self.config.default_size
        grey = ImageInput(Image.new("RGB", (width, height), "grey"), "warm-up")
        request = TryOnRequest(
            "warm-up", grey, (replace(grey, category="tops"),), compose([GarmentPhrase("tops")]), steps=1
        )
        (outcome,) = self.run([request])
        self.pipeline.caches.clear()
        if outcome.error is not None:
            raise EngineError(f"the engine cannot run: {outcome.error}") from outcome.error

    def cost(self, width: int, height: int, garments: int) -> int:
        """Target, reference and text tokens of one request, an upper bound before its pictures are known."""
        side = self.pipeline.autoencoder.token_pixels
        target = width * height // side**2
        shown = max(1, min(garments, MAX_GARMENTS))
        if shown not in self._text_cost:
            told = compose([GarmentPhrase("auto")] * shown)
            self._text_cost[shown] = self.pipeline.text_encoder.count(told)
        references = reference_tokens((width, height), shown, self.config, side)
        return target + references + self._text_cost[shown]

    def run(self, requests: Sequence[TryOnRequest], on_step: OnStep | None = None) -> list[Outcome]:
        """One outcome a request, in order. Whatever goes wrong with one request stays with it.

        Raises EngineError when the device is lost, and whatever `on_step` raises.
        """
        with self._lock, torch.inference_mode():
            jobs = [_Job(request, self.approximation) for request in requests]
            try:
                for job in jobs:
                    self._guarded(job, self._begin)
                while waiting := [job for job in jobs if job.outcome is None]:
                    for group in self._groups(waiting):
                        self._step(group, on_step)
            finally:
                self.pipeline.release()
            return [job.outcome for job in jobs if job.outcome is not None]

    def _begin(self, job: _Job) -> None:
        job.dressing = plan(job.request, self.config, self.pipeline.autoencoder.token_pixels, self.options.overflow)
        self._begin_pass(job, job.dressing, job.dressing.person)

    def _begin_pass(self, job: _Job, dressing: Dressing, person: ImageInput) -> None:
        turn = dressing.passes[job.turn]
        conditioning = self.pipeline.condition(turn.instruction, (person, *turn.garments), job.ledger)
        job.draft = self.pipeline.draft(conditioning, dressing.size, dressing.steps, seed=job.request.seed)

    def _groups(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        """Jobs in order, as many to a forward as the token budget holds, at least one."""
        budget, group, room = self._token_budget, [], 0
        for job in jobs:
            if group and job.tokens > room:
                yield group
                group = []
            room = (room if group else budget) - job.tokens
            group.append(job)
        if group:
            yield group

    def _step(self, jobs: Sequence[_Job], on_step: OnStep | None) -> None:
        """One forward of jobs that fit it together; should it fail, of each of them alone."""
        started = time.perf_counter()
        try:
            clean = self.pipeline.advance([job.draft for job in jobs if job.draft is not None])
            self._synchronize()
        except Exception as error:
            _refuse_lost_device(error)
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            for job in jobs:
                self._step([job], on_step)
            return
        seconds = time.perf_counter() - started
        for job, x0 in zip(jobs, clean, strict=True):
            job.ledger.add("denoise", seconds)
            job.steps_done += 1
            if self._wanted(job, x0, on_step):
                self._guarded(job, self._end_pass)

    def _wanted(self, job: _Job, x0: Tensor, on_step: OnStep | None) -> bool:
        """Reports the step; a job whose caller no longer wants it is canceled."""
        dressing, draft = job.dressing, job.draft
        if on_step is None or dressing is None or draft is None:
            return True
        preview = None
        if self.options.previews and not draft.done:
            with job.ledger.timed("vae_decode", self.pipeline.device):
                preview = self.pipeline.autoencoder.preview(x0)
        steps = dressing.steps * len(dressing.passes)
        if on_step(StepEvent(job.request.id, job.steps_done, steps, preview)):
            return True
        job.cancel()
        return False

    def _end_pass(self, job: _Job) -> None:
        """Decodes a finished draft; the picture is the result, or the person of the next pass."""
        dressing, draft = job.dressing, job.draft
        if dressing is None or draft is None or not draft.done:
            return
        with job.ledger.timed("vae_decode", self.pipeline.device):
            image = self.pipeline.decode(draft)
        job.turn += 1
        if job.turn == len(dressing.passes):
            job.succeed(image)
        else:
            self._begin_pass(job, dressing, named_by_pixels(image))

    def _guarded(self, job: _Job, work: Callable[[_Job], None]) -> None:
        """Runs one job's own part; its error becomes its outcome."""
        try:
            work(job)
        except Exception as error:
            _refuse_lost_device(error)
            job.fail(error)

    def _synchronize(self) -> None:
        if self.pipeline.device.type == "cuda":
            torch.cuda.synchronize(self.pipeline.device)


def _refuse_lost_device(error: Exception) -> None:
    """Raises EngineError for an accelerator error other than a lack of memory: nothing runs after it."""
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    elif isinstance(error, torch.AcceleratorError):
        raise EngineError(f"the device is lost, the engine must be loaded again: {error}") from error


def load(
    model: str | Path,
    *,
    backend: str = "torch",
    device: str = "auto",
    dtype: str = "auto",
    options: EngineOptions | None = None,
) -> TorchEngine:
    """The engine of `nano`, a checkpoint folder or a hub id, with the named kernels.

    Raises CheckpointError for a checkpoint that does not load, BackendError for kernels or a device that are
    not here, RequestError for an unknown dtype.
    """
    options = options or EngineOptions()
    kernels, place = pick_kernels(backend), pick_device(device)
    number = pick_dtype(dtype, place)
    folder = locate(model)
    config = CheckpointConfig.load(folder)
    pipeline = load_pipeline(
        folder,
        kernels=kernels,
        device=place,
        dtype=number,
        caches=Caches.of(
            text_bytes=options.text_cache_bytes,
            latent_bytes=options.latent_cache_bytes,
            reference_bytes=options.reference_cache_bytes,
        ),
        reference_attention=options.reference_attention,
        loras=options.loras,
    )
    name = folder.name if Path(model).expanduser().is_dir() else str(model)
    engine = TorchEngine(name, pipeline, config, options)
    _log.info("loaded %s: %s kernels, %s, %s", name, kernels.name, place, str(number).removeprefix("torch."))
    return engine
