"""What `make bench-overload` offers: a scene a measurement, in arrivals a second for a service of capacity 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtests.replay.client import Manners
from loadtests.traffic.arrivals import Curve, flash_sale, steady


@dataclass(frozen=True)
class TenantTraffic:
    """What one tenant does in a scene: a curve of arrivals a second for a service of capacity 1, and its manners."""

    tenant: str
    curve: Callable[[float], Curve]
    manners: Manners = field(default_factory=Manners)


@dataclass(frozen=True)
class OverloadScene:
    """One measurement; `goals` names what is asked of it, `length` stretches the usual duration."""

    name: str
    traffic: tuple[TenantTraffic, ...]
    goals: tuple[str, ...] = ()
    length: float = 1.0


def rate(times: float) -> Callable[[float], Curve]:
    """A steady load of so many times the capacity."""
    return lambda capacity: steady(times * capacity)


def sale(capacity: float) -> Curve:
    """Doors that open on a third of the capacity with five times it."""
    return flash_sale(0.3 * capacity, 5.0 * capacity, at_s=8.0, decay_s=10.0)


FLOODED = ("goodput", "latency", "reject")
SCENES = (
    OverloadScene("0.7 times capacity", (TenantTraffic("shop", rate(0.7)),), ("latency",)),
    OverloadScene("1 times capacity", (TenantTraffic("shop", rate(1.0)),), ("latency", "reject")),
    OverloadScene("2 times capacity", (TenantTraffic("shop", rate(2.0)),), FLOODED),
    OverloadScene("5 times capacity", (TenantTraffic("shop", rate(5.0)),), FLOODED),
    OverloadScene("flash sale", (TenantTraffic("shop", sale),), ("latency", "reject"), 1.3),
    OverloadScene(
        "greedy tenant",
        (TenantTraffic("greedy", rate(4.7)), TenantTraffic("polite", rate(0.3))),
        (*FLOODED, "fairness"),
    ),
    OverloadScene(
        "two floods",
        (TenantTraffic("greedy", rate(3.0)), TenantTraffic("polite", rate(2.0))),
        (*FLOODED, "fairness"),
    ),
    OverloadScene(
        "retry storm",
        (TenantTraffic("shop", rate(2.0), Manners(retries=20, rude=True, patience_s=10.0)),),
        FLOODED,
    ),
    OverloadScene(
        "slow readers",
        (TenantTraffic("shop", rate(0.7), Manners(slow_readers=0.5, slow_bytes_s=256.0)),),
        ("latency",),
    ),
)
