"""Which names in a PromQL expression are neither a metric of service/metrics.py nor recorded by our rules."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from service.metrics import Metrics

_NAME = re.compile(r"\bchangeroom[_:][a-zA-Z0-9_:]*")


def exposed() -> set[str]:
    """Every sample name a process can expose, with the suffixes of counters and histograms."""
    registry = CollectorRegistry()
    Metrics(registry)
    names: set[str] = set()
    for family in registry.collect():
        names.add(f"{family.name}_total" if family.type == "counter" else family.name)
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
    return names


def unknown_metrics(expression: str, recorded: frozenset[str] = frozenset()) -> set[str]:
    return set(_NAME.findall(expression)) - exposed() - recorded
