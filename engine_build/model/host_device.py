"""Tensors between host and device without either waiting for the other.

Copies from and to page-locked memory run on the device's own time; only `Landing.wait` waits, for one point in
the stream and not for the whole device. On a CPU everything has happened at once.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor


def upload(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; the host goes on at once."""
    if device.type != "cuda" or x.device.type == "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class Landing:
    """A tensor on its way to the host, or with None only the moment when all work before it is done."""

    def __init__(self, x: Tensor | None, device: torch.device) -> None:
        self._host, self._event = x, None
        if device.type == "cuda":
            if x is not None:
                self._host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
                self._host.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> Tensor | None:
        """The tensor in host memory, once it is there. Raises torch.AcceleratorError when the device is lost."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


class Stopwatch:
    """Seconds between its making and `stop`, on a GPU as the device's stream sees them."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._started = self._mark()
        self._stopped = self._started

    def stop(self) -> None:
        self._stopped = self._mark()

    def seconds(self) -> float:
        """To be asked only when the device has passed `stop`."""
        took: float = (
            self._started.elapsed_time(self._stopped) / 1000 if self._on_gpu else self._stopped - self._started
        )
        return took

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
