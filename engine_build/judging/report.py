"""The report of one journal or several: JSON that equals whenever the journals do, and the same as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError
from engine_build.judging import preferences, tables, trust
from engine_build.judging.journal import Journal, read
from engine_build.judging.people.votes import count
from engine_build.judging.scores import COMBINED, FIGURES, SampleScores, exact_of, of_journal
from engine_build.judging.tables import Rows, drawn

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """What is known from journals. `value` is JSON-ready."""

    value: dict[str, Any]
    lines: list[str] = field(default_factory=list)

    def json(self) -> str:
        return json.dumps(self.value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def report(
    folders: Sequence[Path],
    exact: Path | None = None,
    votes: Sequence[Path] = (),
    key: Path | None = None,
) -> Report:
    """Report on judged folders; of several also a comparison on the samples that all of them have.

    `exact` is a journal of the same results with exact scores. `votes` are people's on pairs of the first two folders,
    unblinded by `key`. Raises RequestError for what cannot be compared.
    """
    if key is not None and not votes:
        raise RequestError("a key unblinds votes, and none are named")
    journals = [read(folder) for folder in folders]
    if {journal.header.mode for journal in journals} == {"preference"}:
        if len(journals) > 1 or exact is not None or votes:
            raise RequestError("a journal of preferences is reported by itself")
        return _of_preferences(journals[0])
    value: dict[str, Any] = {"format": FORMAT, "combined": COMBINED, "judged": []}
    lines: list[str] = []
    for folder, journal in zip(folders, journals, strict=True):
        one = _of_scores(folder, journal)
        value["judged"].append(one.value)
        lines += one.lines
    if len(journals) > 1:
        value["compared"] = trust.compared(journals)
        lines += _compared_lines([folder.name for folder in folders], value["compared"])
    if exact is not None:
        value["truth"] = {folder.name: trust.truth(j, read(exact)) for folder, j in zip(folders, journals, strict=True)}
        for name, against in value["truth"].items():
            said = f"{name} against exact scores, {against['samples']} samples ({against['left_out']} left out)"
            lines += _trust_lines(said, {figure: against[figure] for figure in FIGURES}, "tau")
    if votes:
        if len(journals) != 2 or key is None:
            raise RequestError("votes are on two folders of results: name both, and the page's key with --key")
        value["people"] = trust.people(journals[0], journals[1], count(votes, key).preference)
        said = ", ".join(f"{name} {row['tau']} ({row['n']})" for name, row in value["people"].items())
        lines += [f"Kendall's tau to people's votes (samples): {said}", ""]
    return Report(value, lines)


def _of_scores(folder: Path, journal: Journal) -> Report:
    samples = of_journal(journal)
    overall = tables.figures(samples)
    parts: dict[str, Rows] = {
        "by_count": tables.by_count(samples),
        "by_background": tables.by_background(samples),
        "by_category": tables.by_item(samples, "category"),
        "by_sub_style": tables.by_item(samples, "sub_style"),
    }
    exact = {name: tables.figure(values) for name, values in exact_of(journal).items()}
    hidden = sum(item.score is None for one in samples if one.identity is not None for item in one.items)
    again, sham = trust.again(journal), trust.sham(journal)
    value = {
        "name": folder.name,
        "header": journal.header.row(),
        "samples": len(samples),
        "figures": {name: one.as_dict() for name, one in overall.items()},
        **{part: _rows(rows) for part, rows in parts.items()},
        "exact": {name: one.as_dict() for name, one in exact.items()},
        "missing": tables.missing(samples),
        "items": _items(samples),
        "hidden_items": hidden,
        "limbs": _limbs(samples),
        "requests": sum(row["requests"] for row in journal.answers.values()),
        "tokens": [sum(row["tokens"][i] for row in journal.answers.values()) for i in (0, 1)],
        "mended": sum(bool(row.get("mended")) for row in journal.answers.values()),
        "at": sorted({row["at"] for row in journal.answers.values()}),
        "served": sorted({row["served"] for row in journal.answers.values()} - {""}),
        "again": again,
        "sham": sham,
    }
    header = journal.header
    lines = [
        f"{folder.name}: {len(samples)} samples of {header.set_name}, judged by {header.judge.get('model')} "
        f"(judge {header.judge_hash}, words {header.rubric})",
        f"Means ± half a 95% bootstrap interval; (n/of) where not all are covered. {COMBINED}.",
        "",
        *drawn(
            {
                "all": overall,
                **({"exact": exact} if exact else {}),
                **{f"{n} garments": row for n, row in parts["by_count"].items()},
            },
            "samples",
        ),
        "",
        *drawn(parts["by_background"], "background"),
        "",
        *drawn(parts["by_category"], "category"),
        "",
        *drawn(parts["by_sub_style"], "sub-style"),
        "",
    ]
    if hidden:
        lines += [f"Garments without a score because others hide them, as the judge says: {hidden}", ""]
    if value["missing"]:
        lines += ["Missing: " + ", ".join(f"{reason} {n}" for reason, n in tables.missing(samples).items()), ""]
    if len(value["at"]) > 1 or len(value["served"]) > 1:
        lines += [f"Answers came from {', '.join(value['at'])} as {', '.join(value['served'])}: not one judge", ""]
    lines += _trust_lines("Asked again", again, "alpha") + _trust_lines("Sham (result as JPEG) less result", sham)
    return Report(value, lines)


def _rows(rows: Rows) -> dict[str, Any]:
    return {row: {name: one.as_dict() for name, one in of.items()} for row, of in rows.items()}


def _items(samples: Sequence[SampleScores]) -> dict[str, list[float | None]]:
    """Every item of every sample, in the order of its references."""
    return {sample.id: [item.score for item in sample.items] for sample in samples}


def _limbs(samples: Sequence[SampleScores]) -> dict[str, int]:
    said = [sample.limbs for sample in samples if sample.limbs is not None]
    return {name: said.count(name) for name in sorted(set(said))}


def _of_preferences(journal: Journal) -> Report:
    found = preferences.summary(journal)
    names = preferences.OUTCOMES
    lines = [
        f"A against B, {found['judged']} of {found['of']} pairs judged in both orders by "
        f"{journal.header.judge.get('model')} (words {journal.header.rubric})",
        "  ".join([f"{'garments':9}", *(f"{name:>8}" for name in names)]),
        *("  ".join([f"{g:9}", *(f"{row[name]:>8}" for name in names)]) for g, row in found["by_count"].items()),
        f"Verdicts that flipped with the order: {_share(found['flipped'])}; first place won "
        f"{_share(found['first_place_won'])} of the decided answers",
    ]
    return Report({"format": FORMAT, "header": journal.header.row(), "preferences": found}, lines)


def _compared_lines(names: list[str], found: Mapping[str, Any]) -> list[str]:
    lines = ["On the samples that all have a score of:"]
    for name, row in found.items():
        means = "  ".join(f"{one} {mean:.3f}" for one, mean in zip(names, row["means"], strict=False))
        lines.append(f"  {name} ({row['n']}/{row['of']})  {means}")
        for other, apart in zip(names[1:], row["less_the_first"], strict=False):
            if apart["low"] is not None:
                lines.append(
                    f"    {other} less {names[0]}: {apart['mean']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
                )
    return [*lines, ""]


def _trust_lines(title: str, found: Mapping[str, Any], more: str = "") -> list[str]:
    if not found:
        return []
    lines = [f"{title}:"]
    for name, row in found.items():
        numbers = [f"n {row['n']}"]
        for key, said in (("mean", "bias"), ("mean_size", "mean size"), ("deviation", "deviation"), (more, more)):
            if key and row.get(key) is not None:
                numbers.append(f"{said} {row[key]:+.3f}" if key == "mean" else f"{said} {row[key]:.3f}")
        lines.append(f"  {name}: {', '.join(numbers)}")
    return [*lines, ""]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
