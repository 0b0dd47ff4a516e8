"""The Engine that runs a checkpoint with torch, on a CPU or a GPU, with a named set of kernels.

Requests of one batch share packed forwards, whatever their sizes, steps and numbers of references; each keeps
its own noise, fate and error. A request leaves the pack when it is finished, canceled or broken. One that the
device has no memory for is tried alone, then once more when the others are done, and then fails by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from engine_build.autoencoder import picture
from engine_build.buckets import Bucket
from engine_build.config import CheckpointConfig
from engine_build.draft import Draft
from engine_build.dressing import Dressing, plan, reference_tokens
from engine_build.engine import EngineInfo, ImageInput, OnStep, Outcome, StepEvent, TryOnRequest
from engine_build.errors import EngineError
from engine_build.graphs import GraphSteps
from engine_build.instruction import MAX_GARMENTS, GarmentPhrase, compose
from engine_build.job import Job, Ticket, grouped, refuse_lost_device
from engine_build.loading import graphs_of, load_pipeline, pick_device, pick_dtype, pick_kernels
from engine_build.memory_plan import fit
from engine_build.options import CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET, EngineOptions
from engine_build.pipeline import Pipeline
from engine_build.reference_cache import Caches
from engine_build.references import named_by_pixels
from engine_build.transfer import Landing, Stopwatch
from engine_build.weights import locate

_log = logging.getLogger(__name__)


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
        """One step of every load that the declared buckets promise, forgotten afterwards. Raises EngineError.

        With none declared: the default size, with one garment, or with CUDA graphs with each number of them.
        """
        graphs = isinstance(self.pipeline.stepper, GraphSteps)
        most = max(1, min(MAX_GARMENTS, self.config.max_references - 1)) if graphs else 1
        for bucket in self.options.warm or (Bucket(*self.config.default_size, most),):
            for garments, requests in bucket.loads():
                self._warm_up((bucket.width, bucket.height), garments, requests)
        self.pipeline.caches.clear()

    def _warm_up(self, size: tuple[int, int], garments: int, requests: int) -> None:
        grey = ImageInput(Image.new("RGB", size, "grey"), "warm-up")
        told = compose([GarmentPhrase("tops")] * garments)
        worn = (replace(grey, category="tops"),) * garments
        asked = [TryOnRequest(f"warm-up {i}", grey, worn, told, steps=1, size=size) for i in range(requests)]
        for outcome in self.run(asked):
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
            jobs = [Job(request, self.approximation) for request in requests]
            try:
                for job in jobs:
                    self._guarded(job, self._begin)
                while waiting := [job for job in jobs if job.outcome is None and not job.put_off]:
                    for group in grouped(waiting, self._token_budget):
                        self._step(group, on_step)
                for job in jobs:
                    if job.outcome is None:
                        self._run_alone(job, on_step)
            finally:
                self.pipeline.release()
            return [job.outcome for job in jobs if job.outcome is not None]

    def forget(
        self, content: Collection[str] | None = (), *, words: bool = False, older_than_s: float | None = None
    ) -> None:
        """See `Engine.forget`."""
        self.pipeline.caches.forget(content, words=words, older_than_s=older_than_s)

    def _run_alone(self, job: Job, on_step: OnStep | None) -> None:
        """The last try of a job that lacked memory: the others are done, and what can be freed is."""
        _log.warning("request %s lacked memory and is tried alone", job.request.id)
        self.pipeline.free_memory()
        while job.outcome is None:
            if job.draft is None:
                self._guarded(job, self._begin)
            elif job.drawn:
                self._guarded(job, self._end_pass)
            else:
                self._step([job], on_step)

    def _begin(self, job: Job) -> None:
        job.dressing = plan(job.request, self.config, self.pipeline.autoencoder.token_pixels, self.options.overflow)
        job.draft = self._draft(job, job.dressing, job.dressing.person, 0)

    def _draft(self, job: Job, dressing: Dressing, person: ImageInput, turn: int) -> Draft:
        wanted = dressing.passes[turn]
        conditioning = self.pipeline.condition(wanted.instruction, (person, *wanted.garments), job.ledger)
        return self.pipeline.draft(conditioning, dressing.size, dressing.steps, seed=job.request.seed)

    def _step(self, jobs: Sequence[Job], on_step: OnStep | None) -> None:
        """One forward of jobs that fit it together; should it fail, of each of them alone.

        On a GPU a step is reported while the next one runs, so that the device never waits for the host.
        """
        watch = Stopwatch(self.pipeline.device)
        try:
            clean = self.pipeline.advance([job.draft for job in jobs if job.draft is not None])
        except Exception as error:
            refuse_lost_device(error)
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            clean = None
        if clean is None:
            for job in jobs:
                self._step([job], on_step)
            return
        watch.stop()
        for job, x0 in zip(jobs, clean, strict=True):
            self._issue(job, x0, watch, on_step is not None)
        for job in jobs:
            self._settle(job, on_step)

    def _issue(self, job: Job, x0: Tensor, watch: Stopwatch, watched: bool) -> None:
        """Notes a step that was started, with a preview when somebody watches and there is memory for one."""
        pixels = None
        if watched and self.options.previews and not job.drawn:
            try:
                with job.ledger.timed("vae_decode", torch.device("cpu")):  # the host's share: `_settle` waits
                    pixels = self.pipeline.autoencoder.preview_pixels(x0)
            except torch.OutOfMemoryError as error:
                refuse_lost_device(error)
        job.tickets.append(Ticket(watch, Landing(pixels, self.pipeline.device), pixels is not None))

    def _settle(self, job: Job, on_step: OnStep | None) -> None:
        """Reports the steps that are due: on a GPU all but the newest, and that one too when it was the last."""
        ahead = 1 if self.pipeline.device.type == "cuda" and not job.drawn else 0
        while len(job.tickets) > ahead:
            ticket = job.tickets.popleft()
            try:
                ticket.landing.wait()
            except Exception as error:
                refuse_lost_device(error)
                raise
            job.ledger.add("denoise", ticket.watch.seconds())
            job.steps_done += 1
            if not self._wanted(job, ticket, on_step):
                job.cancel()
                return
        if job.drawn:
            self._guarded(job, self._end_pass)

    def _wanted(self, job: Job, ticket: Ticket, on_step: OnStep | None) -> bool:
        """Reports a step; False when the caller no longer wants the job."""
        if on_step is None or job.dressing is None:
            return True
        steps = job.dressing.steps * len(job.dressing.passes)
        preview = picture(ticket.landing) if ticket.shown else None
        return on_step(StepEvent(job.request.id, job.steps_done, steps, preview))

    def _end_pass(self, job: Job) -> None:
        """Decodes a finished draft; the picture is the result, or the person of the next pass."""
        dressing, draft = job.dressing, job.draft
        if dressing is None or draft is None:
            return
        with job.ledger.timed("vae_decode", self.pipeline.device):
            image = self.pipeline.decode(draft)
        if job.turn + 1 == len(dressing.passes):
            job.succeed(image)
            return
        named = named_by_pixels(image)
        person = replace(named, content_hash=f"{named.content_hash}+{job.request.person.content_hash}")
        job.draft = self._draft(job, dressing, person, job.turn + 1)
        job.turn += 1

    def _guarded(self, job: Job, work: Callable[[Job], None]) -> None:
        """Runs one job's own part; its error becomes its outcome."""
        try:
            work(job)
        except Exception as error:
            refuse_lost_device(error)
            job.fail(error)


def load(
    model: str | Path,
    *,
    backend: str = "torch",
    device: str = "auto",
    dtype: str = "auto",
    options: EngineOptions | None = None,
) -> TorchEngine:
    """The engine of `nano`, a checkpoint folder or a hub id, with the named kernels.

    dtype `fp8` is bfloat16 with FP8 linears in the MMDiT's blocks. Raises CheckpointError for a checkpoint that
    does not load, BackendError for kernels, a device or an FP8 that are not here, RequestError for an unknown
    dtype, MemoryShortage when the device has too little memory free for the plan of `engine_build.memory_plan`.
    """
    options = options or EngineOptions()
    kernels, place = pick_kernels(backend), pick_device(device)
    number = pick_dtype(dtype, place)
    folder = locate(model)
    config = CheckpointConfig.load(folder)
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place)
        options, planned = fit(folder, dtype=dtype, backend=backend, options=options, free=free)
        _log.info("%s", planned.table(free))
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
        fp8=dtype == "fp8",
    )
    if recording := graphs_of(options, pipeline.model):
        pipeline.stepper = recording
    name = folder.name if Path(model).expanduser().is_dir() else str(model)
    engine = TorchEngine(name, pipeline, config, options)
    shown = "fp8" if dtype == "fp8" else str(number).removeprefix("torch.")
    graphs = "CUDA graphs" if recording else "no CUDA graphs"
    _log.info("loaded %s: %s kernels, %s, %s, %s", name, kernels.name, place, shown, graphs)
    return engine
