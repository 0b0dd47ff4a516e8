"""A size that the service itself would give may be asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from gateway_live import INFO

from engine_build.request import reference_pictures
from service.errors import UnprocessableRequest
from service.gateway.work import fleet
from service.gateway.work.fleet import Fleet
from service.jobs.queue import JobQueue


def fleet_of(default: tuple[int, int], multiple: int) -> Fleet:
    worker = INFO.model_copy(update={"default_size": default, "size_multiple": multiple})

    async def ready() -> list[Any]:
        return [worker]

    return Fleet(cast(JobQueue, SimpleNamespace(workers=SimpleNamespace(ready=ready))))


def test_the_least_side_is_the_engines() -> None:
    assert fleet.MIN_TOKENS == reference_pictures.MIN_TOKENS


@pytest.mark.parametrize(("default", "multiple"), [((72, 96), 8), ((144, 192), 8), ((192, 256), 16), ((768, 1024), 16)])
async def test_every_size_that_comes_out_may_go_in(default: tuple[int, int], multiple: int) -> None:
    """A person of 800x200 became 160x40, which `size` refused."""
    checked = fleet_of(default, multiple)
    for person in [
        (800, 200),
        (200, 800),
        (800, 100),
        (100, 800),
        (640, 480),
        (300, 301),
        *((w, 97) for w in range(97, 776, 7)),
    ]:
        await checked.check(reference_pictures.target_size(person, default, multiple), None)


async def test_less_than_the_engine_takes_is_refused() -> None:
    with pytest.raises(UnprocessableRequest, match="at least 32"):
        await fleet_of((72, 96), 8).check((160, 24), None)
