"""What a bench found, for people and for machines."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from engine_build.bench.goals import goals_of
from engine_build.bench.machine import accelerator, machine
from engine_build.bench.rows import Results, Row
from engine_build.runtime.loading import pick_device


def as_dict(results: Results, command: str) -> dict[str, Any]:
    """Everything, with the machine, versions, date and command."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "weights": results.weights,
        **machine(str(pick_device(results.plan.device))),
        "plan": asdict(results.plan),
        "end_to_end": [asdict(row) for row in results.rows],
        "attention": [asdict(row) for row in results.attention],
        "packed": [asdict(row) for row in results.packed],
        "goals": [asdict(goal) for goal in goals_of(results)],
    }


def file_name(results: Results) -> str:
    """One name a device, preset and date, like `gpu-klein-4b-nvidia-h200-2026-11-21.json`."""
    device = str(accelerator(str(pick_device(results.plan.device)))["device"])
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    subject = re.sub(r"[^a-z0-9]+", "-", results.weights.removesuffix(" shapes, random weights").lower()).strip("-")
    return f"gpu-{subject}-{name}-{datetime.now(UTC).date().isoformat()}.json"


def table(results: Results) -> str:
    """Markdown tables of everything measured."""
    lines = [
        "| size | garments | mode | p20 ms | p50 ms | p80 ms | times faster | times the floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in results.rows),
    ]
    if results.attention:
        lines += [
            "",
            "| tokens | kernels | ms | TFLOP/s | times the floor | SDPA of | ms | TFLOP/s |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {a.tokens} | {a.kernels} | {a.ours_ms:.3f} | {a.ours_tflops:.3g} "
            f"| {'' if a.times_floor is None else f'{a.times_floor:.2f}'} "
            f"| {a.sdpa} | {a.sdpa_ms:.3f} | {a.sdpa_tflops:.3g} |"
            for a in results.attention
        ]
    if results.packed:
        lines += ["", "| size | requests | images/s |", "| --- | --- | --- |"]
        lines += [
            f"| {p.width}x{p.height} | {p.requests} | "
            + (p.status if p.images_per_second is None else f"{p.images_per_second:.2f}")
            + " |"
            for p in results.packed
        ]
    if goals := goals_of(results):
        lines += ["", "| goal | bound | measured | reached |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {goal.name} | {goal.bound:g} | {'' if goal.measured is None else f'{goal.measured:.4g}'} "
            f"| {'not measured' if goal.reached is None else 'yes' if goal.reached else 'no'} |"
            for goal in goals
        ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    start = f"| {row.width}x{row.height} | {row.garments} | {row.mode} |"
    if row.p20 is None or row.p50 is None or row.p80 is None:
        return f"{start} {row.status} | | | | |"
    faster = f"{row.times_faster:.2f}" if row.times_faster else ""
    floor = f"{row.times_floor:.2f}" if row.times_floor else ""
    return f"{start} {row.p20:.1f} | {row.p50:.1f} | {row.p80:.1f} | {faster} | {floor} |"
