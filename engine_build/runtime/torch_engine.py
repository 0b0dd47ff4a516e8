"""The Engine that runs a checkpoint with torch, on a CPU or a GPU, with a named set of kernels.

Requests of one batch share packed forwards, whatever their sizes, steps and numbers of references; each keeps
its own noise, fate and error. A request leaves the pack when it is finished, canceled or broken. One that the
device has no memory for is tried alone, then once more when the others are done, and then fails by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from engine_build.cache_keys import together
from engine_build.config import CheckpointConfig
from engine_build.engine import AdapterInfo, EngineInfo, ImageInput, OnStep, Outcome, StepEvent, TryOnRequest
from engine_build.errors import EngineError
from engine_build.instruction import MAX_GARMENTS, GarmentPhrase, compose
from engine_build.memory.plan import fit
from engine_build.model.autoencoder import picture
from engine_build.model.host_device import Landing, Stopwatch
from engine_build.model.weights import locate
from engine_build.options import CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET, EngineOptions
from engine_build.request.plan import RequestPlan, plan, reference_tokens
from engine_build.request.reference_pictures import named_by_pixels
from engine_build.request.warm_sizes import WarmSize
from engine_build.runtime.adapter_names import AdapterNames
from engine_build.runtime.caches import Caches
from engine_build.runtime.cuda_graphs import GraphSteps
from engine_build.runtime.latent_state import LatentState
from engine_build.runtime.loading import graphs_of, load_pipeline, pick_device, pick_dtype, pick_kernels
from engine_build.runtime.pipeline import Pipeline
from engine_build.runtime.running_request import RunningRequest, Ticket, refuse_lost_device
from engine_build.token_budget import batches

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
        self.names = AdapterNames(pipeline.bank, pipeline.model.kernels.name)
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

        Again with the first adapter where any is registered: kernels and graphs with adapters are others.
        With none declared: the default size, with one garment, or with CUDA graphs with each number of them.
        """
        graphs = isinstance(self.pipeline.stepper, GraphSteps)
        most = max(1, min(MAX_GARMENTS, self.config.max_references - 1)) if graphs else 1
        for bucket in self.options.warm or (WarmSize(*self.config.default_size, most),):
            for garments, requests in bucket.loads():
                self._warm_up((bucket.width, bucket.height), garments, requests)
                for adapter in self.adapters()[:1]:
                    self._warm_up((bucket.width, bucket.height), garments, requests, ((adapter.name, 1.0),))
        if self.options.previews:
            side, (width, height) = self.pipeline.autoencoder.token_pixels, self.config.default_size
            grid = (self.pipeline.autoencoder.channels, height // side, width // side)
            self.pipeline.autoencoder.preview_pixels(torch.zeros(grid, device=self.pipeline.device))
        self.pipeline.caches.clear()

    def _warm_up(
        self, size: tuple[int, int], garments: int, requests: int, adapters: tuple[tuple[str, float], ...] = ()
    ) -> None:
        grey = ImageInput(Image.new("RGB", size, "grey"), "warm-up")
        told = compose([GarmentPhrase("tops")] * garments)
        worn = (replace(grey, category="tops"),) * garments
        asked = TryOnRequest("warm-up", grey, worn, told, steps=1, size=size, adapters=adapters)
        for outcome in self.run([asked] * requests):
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
            batch = [RunningRequest(request, self.name, self.approximation) for request in requests]
            try:
                for running in batch:
                    self._guarded(running, self._begin)
                while waiting := [running for running in batch if running.outcome is None and not running.put_off]:
                    for group in batches(waiting, self._token_budget, lambda running: running.tokens):
                        for held in self._held(group):
                            self._step(held, on_step)
                for running in batch:
                    if running.outcome is None:
                        self._run_alone(running, on_step)
            finally:
                self.pipeline.release()
            return [running.outcome for running in batch if running.outcome is not None]

    def forget(
        self, content: Collection[str] | None = (), *, words: bool = False, older_than_s: float | None = None
    ) -> None:
        """See `Engine.forget`."""
        self.pipeline.caches.forget(content, words=words, older_than_s=older_than_s)

    def register_adapter(self, name: str, path: Path) -> AdapterInfo:
        """See `Engine.register_adapter`."""
        return self.names.register(name, path)

    def remove_adapter(self, name: str) -> None:
        """See `Engine.remove_adapter`."""
        self.names.remove(name)

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """See `Engine.adapters`."""
        return self.names.listed()

    def _held(self, group: list[RunningRequest]) -> Iterable[list[RunningRequest]]:
        """The group in as many parts as the places for adapters ask for."""
        bank = self.pipeline.bank
        return [group] if bank is None else bank.groups(group, lambda running: running.mixture)

    def _run_alone(self, running: RunningRequest, on_step: OnStep | None) -> None:
        """The last try of a request that lacked memory: the others are done, and what can be freed is."""
        _log.warning("request %s lacked memory and is tried alone", running.request.id)
        self.pipeline.free_memory()
        while running.outcome is None:
            if running.state is None:
                self._guarded(running, self._begin)
            elif running.drawn:
                self._guarded(running, self._end_pass)
            else:
                self._step([running], on_step)

    def _begin(self, running: RunningRequest) -> None:
        side = self.pipeline.autoencoder.token_pixels
        running.planned = plan(running.request, self.config, side, self.options.overflow)
        running.mixture, running.used = self.names.resolve(running.request.adapters)
        running.state = self._begin_pass(running, running.planned, running.planned.person, 0)

    def _begin_pass(self, running: RunningRequest, planned: RequestPlan, person: ImageInput, turn: int) -> LatentState:
        wanted = planned.passes[turn]
        pictures = (person, *wanted.garments)
        conditioning = self.pipeline.condition(wanted.instruction, pictures, running.meter, running.mixture)
        return self.pipeline.begin(conditioning, planned.size, planned.steps, seed=running.request.seed)

    def _step(self, batch: Sequence[RunningRequest], on_step: OnStep | None) -> None:
        """One forward of batch that fit it together; should it fail, of each of them alone.

        On a GPU a step is reported while the next one runs, so that the device never waits for the host.
        """
        watch = Stopwatch(self.pipeline.device)
        try:
            clean = self.pipeline.advance([running.state for running in batch if running.state is not None])
        except Exception as error:
            refuse_lost_device(error)
            if len(batch) == 1:
                batch[0].fail(error)
                return
            clean = None
        if clean is None:
            for running in batch:
                self._step([running], on_step)
            return
        watch.stop()
        for running, x0 in zip(batch, clean, strict=True):
            self._issue(running, x0, watch, on_step is not None)
        for running in batch:
            self._settle(running, on_step)

    def _issue(self, running: RunningRequest, x0: Tensor, watch: Stopwatch, watched: bool) -> None:
        """Notes a step that was started, with a preview when somebody watches and there is memory for one."""
        pixels = None
        if watched and self.options.previews and not running.drawn:
            try:
                with running.meter.timed("vae_decode", torch.device("cpu")):  # the host's share: `_settle` waits
                    pixels = self.pipeline.autoencoder.preview_pixels(x0)
            except torch.OutOfMemoryError as error:
                refuse_lost_device(error)
        running.tickets.append(Ticket(watch, Landing(pixels, self.pipeline.device), pixels is not None))

    def _settle(self, running: RunningRequest, on_step: OnStep | None) -> None:
        """Reports the steps that are due: on a GPU all but the newest, and that one too when it was the last."""
        ahead = 1 if self.pipeline.device.type == "cuda" and not running.drawn else 0
        while len(running.tickets) > ahead:
            ticket = running.tickets.popleft()
            try:
                ticket.landing.wait()
            except Exception as error:
                refuse_lost_device(error)
                raise
            running.meter.add("denoise", ticket.watch.seconds())
            running.steps_done += 1
            if not self._wanted(running, ticket, on_step):
                running.cancel()
                return
        if running.drawn:
            self._guarded(running, self._end_pass)

    def _wanted(self, running: RunningRequest, ticket: Ticket, on_step: OnStep | None) -> bool:
        """Reports a step; False when the caller no longer wants the request."""
        if on_step is None or running.planned is None:
            return True
        steps = running.planned.steps * len(running.planned.passes)
        preview = picture(ticket.landing) if ticket.shown else None
        return on_step(StepEvent(running.request.id, running.steps_done, steps, preview))

    def _end_pass(self, running: RunningRequest) -> None:
        """Decodes a finished state; the picture is the result, or the person of the next pass."""
        planned, state = running.planned, running.state
        if planned is None or state is None:
            return
        with running.meter.timed("vae_decode", self.pipeline.device):
            image = self.pipeline.decode(state)
        if running.turn + 1 == len(planned.passes):
            running.succeed(image)
            return
        named = named_by_pixels(image)
        of_both = together((named.content_hash, running.request.person.content_hash))
        person = replace(named, content_hash=of_both)
        running.state = self._begin_pass(running, planned, person, running.turn + 1)
        running.turn += 1

    def _guarded(self, running: RunningRequest, work: Callable[[RunningRequest], None]) -> None:
        """Runs one request's own part; its error becomes its outcome."""
        try:
            work(running)
        except Exception as error:
            refuse_lost_device(error)
            running.fail(error)


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
    dtype, MemoryShortage when the device has too little memory free for the plan of `engine_build.memory.plan`.
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
        adapter_bytes=options.adapter_bytes,
    )
    if recording := graphs_of(options, pipeline.model):
        pipeline.stepper = recording
    name = folder.name if Path(model).expanduser().is_dir() else str(model)
    engine = TorchEngine(name, pipeline, config, options)
    shown = "fp8" if dtype == "fp8" else str(number).removeprefix("torch.")
    graphs = "CUDA graphs" if recording else "no CUDA graphs"
    _log.info("loaded %s: %s kernels, %s, %s, %s", name, kernels.name, place, shown, graphs)
    return engine
