"""A training run's folder: resumable state, logs and progress, the same for every stage.

State is everything the next step depends on (weights, optimizer, EMA, step, torch RNG), written to a temporary name
and renamed, or in pieces (split_files.py), so an interruption at any instant leaves a loadable state. Batches are pure
functions of the step number, hence a resumed run sees the very batches the uninterrupted one would have seen.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from engine_build.errors import RequestError
from engine_build.training.loop import split_files
from engine_build.training.loop.sharding import Place, average_gradients, clip_gradients, placed, placed_state, whole

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Whatever else a stage must remember from one step to the next."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


def has_state(path: Path) -> bool:
    """Whether a stage left its state at `path`, whole or in pieces."""
    return path.exists() or split_files.index_of(path).exists()


def read_state(path: Path) -> dict[str, Any]:
    """What a stage left. Only tensors and plain values are read (`weights_only`).

    A whole file is mapped, not read: the processes of a machine share its pages. Raises RequestError for lost pieces.
    """
    if path.exists():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(split_files.read(path), map_location="cpu", weights_only=True)


def steps_taken(path: Path) -> int:
    """How many steps a stage has taken, by its state at `path`; 0 without one. Raises RequestError for lost pieces."""
    return int(read_state(path)["step"]) if has_state(path) else 0


class Run:
    """One stage of one run: `folder/stage.pt` holds its state, `folder/stage.jsonl` its log.

    With `largest_file` the state is written in pieces of so many bytes at most.

    With `tensorboard`, the log is also written to `folder/tensorboard/stage`, which needs changeroom[train].
    Of several processes only the first writes.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        place: Place | None = None,
        tensorboard: bool = False,
        largest_file: int = 0,
    ) -> None:
        self.folder, self.stage, self.place, self.largest_file = folder, stage, place or Place(), largest_file
        self.board = _board(folder / "tensorboard" / stage) if tensorboard and self.place.first else None
        folder.mkdir(parents=True, exist_ok=True)
        self.state_path = folder / f"{stage}.pt"
        self.log_path = folder / f"{stage}.jsonl"
        self.started = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None. Raises RequestError for lost pieces."""
        return read_state(self.state_path) if has_state(self.state_path) else None

    def save(self, state: dict[str, Any]) -> None:
        content = {**state, "rng": torch.get_rng_state()}
        if self.largest_file:
            whole_file = io.BytesIO()
            torch.save(content, whole_file)
            split_files.write(self.state_path, whole_file.getvalue(), self.largest_file)
            self.state_path.unlink(missing_ok=True)
            return
        temporary = self.state_path.with_suffix(".tmp")
        torch.save(content, temporary)
        os.replace(temporary, self.state_path)

    def restore(
        self,
        model: nn.Module,
        ema: Ema,
        optimizers: Sequence[torch.optim.Optimizer],
        more: Mapping[str, Stateful] | None = None,
    ) -> int:
        """Load the last saved state into all of them; the step to go on with, 0 when nothing was saved."""
        state = self.load()
        if state is None:
            return 0
        for name, part in (more or {}).items():
            part.load_state_dict(state[name])
        like = model.state_dict()
        model.load_state_dict({name: placed(value, like[name]) for name, value in state["model"].items()})
        ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(placed_state(saved, optimizer))
        torch.set_rng_state(state["rng"])
        return int(state["step"])

    def keep(
        self,
        step: int,
        model: nn.Module,
        ema: Ema,
        optimizers: Sequence[torch.optim.Optimizer],
        more: Mapping[str, Stateful] | None = None,
    ) -> None:
        """Save everything `restore` reads; `step` is the next one to take. All processes must call it."""
        state = {
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            **{name: part.state_dict() for name, part in (more or {}).items()},
        }
        gathered = whole(state, self.place.first)
        if self.place.first:
            self.save({**gathered, "step": step})

    def log(self, step: int, **values: float) -> None:
        """One line of JSON; nothing on any but the first process."""
        if not self.place.first:
            return
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{self.stage}/{name}", float(value), step)
        row = {"step": step, "seconds": round(time.monotonic() - self.started, 1)}
        row.update({k: round(float(v), 5) for k, v in values.items()})
        with self.log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def warn(self, step: int, text: str) -> None:
        """A line of the log that says something is wrong, and a warning of the process."""
        if not self.place.first:
            return
        logger.warning("%s, step %d: %s", self.stage, step, text)
        if self.board is not None:
            self.board.add_text(f"{self.stage}/warning", text, step)
        with self.log_path.open("a") as file:
            file.write(json.dumps({"step": step, "warning": text}) + "\n")

    def progress(self, start: int, total: int) -> Iterator[tuple[int, Progress, Any]]:
        """Yield each step from `start` with the bar, so that the loop may update its description."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, refresh_per_second=1, disable=not self.place.first) as bar:
            task = bar.add_task(self.stage, total=total, completed=start)
            for step in range(start, total):
                yield step, bar, task
                bar.advance(task)


class Ema:
    """Exponential moving average of parameters with warm-up: decay min(max, (1 + n) / (10 + n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside, `module` holds the averages; afterwards exactly what it held before."""
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.values)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = {name: placed(value, self.values[name]) for name, value in state["values"].items()}
        self.updates = state["updates"]


def _board(folder: Path) -> Any:
    """A TensorBoard writer. Raises RequestError when tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RequestError("TensorBoard logs need the train extra: pip install changeroom[train]") from error
    return SummaryWriter(folder)


def descend(
    loss: Tensor,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    rate: float,
    place: Place | None = None,
) -> None:
    """One optimizer step at learning rate `rate`, gradients averaged over processes, clipped to norm 1 and cleared."""
    loss.backward()
    if place is not None:
        average_gradients(model, place)
    clip_gradients(model, 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def warm_then_decay(step: int, total: int, warm_up: int, decay: int, updates: int | None = None) -> float:
    """Learning-rate factor: linear warm-up, flat, then linear to zero over the last `decay` steps.

    `updates` is how many an optimiser has made that began at a later step than 0.
    """
    rising = min(1.0, (min(step, step if updates is None else updates) + 1) / max(1, warm_up))
    falling = min(1.0, (total - step) / max(1, decay))
    return min(rising, falling)


def psnr(prediction: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    return float(-10 * torch.log10((prediction - truth).square().mean().clamp_min(1e-10)))
