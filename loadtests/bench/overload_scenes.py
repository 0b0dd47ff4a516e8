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
class Scene:
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
    Scene("0.7 times capacity", (TenantTraffic("shop", rate(0.7)),), ("latency",)),
    Scene("1 times capacity", (TenantTraffic("shop", rate(1.0)),), ("latency", "reject")),
    Scene("2 times capacity", (TenantTraffic("shop", rate(2.0)),), FLOODED),
    Scene("5 times capacity", (TenantTraffic("shop", rate(5.0)),), FLOODED),
    Scene("flash sale", (TenantTraffic("shop", sale),), ("latency", "reject"), 1.3),
    Scene(
        "greedy tenant",
        (TenantTraffic("greedy", rate(4.7)), TenantTraffic("polite", rate(0.3))),
        (*FLOODED, "fairness"),
    ),
    Scene(
        "two floods",
        (TenantTraffic("greedy", rate(3.0)), TenantTraffic("polite", rate(2.0))),
        (*FLOODED, "fairness"),
    ),
    Scene(
        "retry storm",
        (TenantTraffic("shop", rate(2.0), Manners(retries=20, rude=True, patience_s=10.0)),),
        FLOODED,
    ),
    Scene(
        "slow readers",
        (TenantTraffic("shop", rate(0.7), Manners(slow_readers=0.5, slow_bytes_s=256.0)),),
        ("latency",),
    ),
)
