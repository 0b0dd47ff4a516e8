"""The open parts of a running gateway, and how a request reaches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.gateway.http import headers
from service.gateway.http.own_address import OwnAddress
from service.gateway.routes.departures import Departures
from service.gateway.work.api_keys import Caller, KeyRing
from service.gateway.work.fleet import Fleet
from service.gateway.work.garments import Garments
from service.gateway.work.tryons import Asked, TryOns
from service.jobs.queue import JobQueue
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class Gateway:
    """Everything a route may use; opened and closed by the application's lifespan."""

    settings: Settings
    queue: JobQueue
    tryons: TryOns
    garments: Garments
    fleet: Fleet
    keys: KeyRing
    metrics: Metrics
    address: OwnAddress
    departures: Departures


def gateway_of(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


def caller_of(request: Request) -> Caller:
    """Raises Unauthorized."""
    return gateway_of(request).keys.caller(request)


Parts = Annotated[Gateway, Depends(gateway_of)]
Who = Annotated[Caller, Depends(caller_of)]


def asked_of(request: Request, parts: Gateway, caller: Caller) -> Asked:
    """What the headers say, strictly. Raises InvalidRequest."""
    settings = parts.settings
    return Asked(
        caller=caller,
        idempotency_key=headers.idempotency_key(headers.single(request.headers, "Idempotency-Key")),
        deadline_s=headers.cancel_after(
            headers.single(request.headers, "Cancel-After"),
            default_s=settings.deadline_default_s,
            max_s=settings.deadline_max_s,
        ),
        request_id=request.state.request_id,
        traceparent=request.state.traceparent,
        timings=request.state.timings,
    )
