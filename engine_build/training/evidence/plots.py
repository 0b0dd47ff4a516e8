"""Plots of the evidence, one a question: stages, evaluations, reinforcement, categories, isolation.

Needs matplotlib, of the train extra; without it the figures stay in evidence.json alone.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
DIMENSIONS = ("identity", "garment_fidelity", "background", "physics", "overall")
_SMOOTH = 10
_BY_NFE = ("overall", "attribute_accuracy", "sharpness", "kid", "diversity", "omission_rate")


def write(out: Path, report: dict[str, Any]) -> list[Path]:
    """Draw what the figures allow into `out/plots`; returns the files."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("no plots: they need the train extra, pip install changeroom[train]")
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, paint in (
        ("stages", _stages),
        ("evaluations", _evaluations),
        ("reinforcement", _reinforcement),
        ("categories", _categories),
        ("isolation", _isolation),
    ):
        figure = Figure(figsize=(11, 6), layout="constrained")
        if paint(figure, out, report):
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=110)
    return written


def _stages(figure: Any, out: Path, report: dict[str, Any]) -> bool:
    """The four dimensions and their geometric mean by stage, without guidance at the full schedule."""
    steps = str(report["teacher_steps"])
    named = ((*name.split("/"), figures) for name, figures in report["figures"].items())
    full = {stage: figures for stage, way, figures in named if way == steps or stage.startswith("dmd")}
    order = [n for n in ("start", "pretrain", "resolution", "tryon", "isolate", "nft", "cfg-distill") if n in full]
    order += sorted(n for n in full if n.startswith("dmd"))
    if not order:
        return False
    axes = figure.subplots()
    for i, dimension in enumerate(DIMENSIONS):
        values = [full[n].get(dimension, {}).get("mean", 0.0) for n in order]
        errors = [full[n].get(dimension, {}).get("standard_error") or 0.0 for n in order]
        axes.bar([x + 0.16 * i for x in range(len(order))], values, 0.15, yerr=errors, label=dimension)
    axes.set_xticks([x + 0.32 for x in range(len(order))], order)
    axes.set_ylabel("score, 1 to 10")
    axes.set_title("Held-out scores by stage (mean over seeds, standard error)")
    axes.legend()
    return True


def _evaluations(figure: Any, out: Path, report: dict[str, Any]) -> bool:
    """Quality against network evaluations: the teacher cut short, the CFG-distilled one, the students."""
    lines: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for name, figures in report["figures"].items():
        stage, way = name.split("/")
        if stage in ("start", "isolate", "nft", "cfg-distill") or stage.startswith("dmd"):
            line = stage + (" + CFG" if way.endswith("cfg") else "")
            if stage.startswith("dmd"):
                line = "dmd, part of the way" if stage.endswith("-part") else "dmd"
            lines.setdefault(line, []).append((figures["nfe"], figures))
    if not lines:
        return False
    panels = figure.subplots(2, 3).flatten()
    for axes, measure in zip(panels, _BY_NFE, strict=True):
        for line, points in sorted(lines.items()):
            known = sorted((nfe, f[measure]["mean"]) for nfe, f in points if measure in f)
            axes.plot([p[0] for p in known], [p[1] for p in known], marker="o", label=line)
        axes.set_xscale("log", base=2)
        axes.set_title(measure)
        axes.set_xlabel("evaluations a picture")
    panels[0].legend(fontsize=8)
    return True


def _reinforcement(figure: Any, out: Path, report: dict[str, Any]) -> bool:
    """Each dimension's reward through stage D: mean over seeds, running mean of `_SMOOTH` steps."""
    runs = [rows for seed in report["seeds"] if (rows := _logs(out, seed, "nft"))]
    if not runs:
        return False
    axes = figure.subplots()
    for name in ("reward", *DIMENSIONS[:4]):
        values = [sum(row[name] for row in at) / len(at) for at in zip(*runs, strict=False)]
        recent = [values[max(0, i + 1 - _SMOOTH) : i + 1] for i in range(len(values))]
        axes.plot([row["step"] for row in runs[0][: len(values)]], [sum(r) / len(r) for r in recent], label=name)
    axes.set_title(f"Rewards of sampled groups, mean over {len(runs)} seeds and up to {_SMOOTH} steps")
    axes.set_xlabel("step")
    axes.legend()
    return True


def _categories(figure: Any, out: Path, report: dict[str, Any]) -> bool:
    """Each category's held-out loss through stage C: one that drifts while another improves would show."""
    rows = [r for r in _logs(out, report["seeds"][0], "tryon") if any(k.startswith("held_out_") for k in r)]
    if not rows:
        return False
    axes = figure.subplots()
    for name in sorted(k for k in rows[0] if k.startswith("held_out_")):
        axes.plot([r["step"] for r in rows], [r[name] for r in rows], marker="o", label=name.removeprefix("held_out_"))
    axes.set_title("Held-out loss on the garment's region by category, first seed")
    axes.set_xlabel("step")
    axes.legend()
    return True


def _isolation(figure: Any, out: Path, report: dict[str, Any]) -> bool:
    """What isolation costs and saves, first seed."""
    path = out / f"seed-{report['seeds'][0]}" / "isolate" / "isolation.json"
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    left, right = figure.subplots(1, 2)
    names = list(found["quality"])
    left.bar(names, [found["quality"][n]["overall"] for n in names])
    left.set_title("Overall, 1 to 10")
    times = {f"{n}\n{k}": v for n, t in found["milliseconds_a_step"].items() for k, v in t.items() if "not" not in n}
    right.barh(list(times), list(times.values()))
    right.set_title("Milliseconds a step, batch of 8")
    return True


def _logs(out: Path, seed: int, stage: str) -> list[dict[str, Any]]:
    path = out / f"seed-{seed}" / f"{stage}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if "warning" not in line]
