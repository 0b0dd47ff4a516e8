"""What a build did: how many samples were seen and written, and what was dropped and why, by name."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 8
"""Names kept for each reason."""


@dataclass
class Tally:
    """How often something happened, and the first few samples it happened to."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass
class Report:
    """`seen` = `written` + all of `dropped`. `not_judged` samples were written although nobody judged them, or are
    among the dropped where the build was told so. `options` says what the build was asked for.
    """

    source: str
    options: dict[str, Any]
    seen: int = 0
    written: int = 0
    shards: int = 0
    bytes: int = 0
    masked: int = 0
    asked: int = 0
    dropped: dict[str, Tally] = field(default_factory=dict)
    not_judged: dict[str, Tally] = field(default_factory=dict)
    categories: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, name: str, detail: str = "") -> None:
        """A sample left out."""
        self.dropped.setdefault(reason, Tally()).add(f"{name} ({detail})" if detail else name)

    def leave_unjudged(self, reason: str, name: str) -> None:
        """A sample the vision model said nothing usable about."""
        self.not_judged.setdefault(reason, Tally()).add(name)

    def as_json(self) -> str:
        """Everything, reasons by frequency."""
        said = dict(vars(self))
        for name in ("dropped", "not_judged"):
            rows = sorted(said[name].items(), key=lambda row: (-row[1].count, row[0]))
            said[name] = {reason: vars(tally) for reason, tally in rows}
        for name in ("categories", "references"):
            said[name] = dict(sorted(said[name].items()))
        return json.dumps(said, indent=2, ensure_ascii=False)

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> Report:
        """What `as_json` wrote."""
        tallies = {
            name: {reason: Tally(**one) for reason, one in said[name].items()} for name in ("dropped", "not_judged")
        }
        counters = {name: Counter(said[name]) for name in ("categories", "references")}
        return cls(**{**said, **tallies, **counters})

    def text(self) -> str:
        """For people."""
        gone = sum(tally.count for tally in self.dropped.values())
        lines = [
            f"{self.source}",
            f"  seen {self.seen}, written {self.written} in {self.shards} shards ({self.bytes / 2**20:.1f} MiB), "
            f"dropped {gone}",
        ]
        if self.categories:
            lines.append("  garments: " + ", ".join(f"{name} {n}" for name, n in sorted(self.categories.items())))
            several = ", ".join(f"{count}: {n}" for count, n in sorted(self.references.items()))
            lines.append(f"  references in a sample: {several}")
        if self.masked:
            lines.append(f"  {self.masked} with the garment greyed, for want of another photo of the person")
        if self.asked:
            lines.append(f"  {self.asked} requests to the vision model")
        lines += _listed("dropped", self.dropped) + _listed("not judged", self.not_judged)
        return "\n".join(lines) + "\n"


def _listed(title: str, tallies: dict[str, Tally]) -> list[str]:
    lines = []
    for reason, tally in sorted(tallies.items(), key=lambda row: (-row[1].count, row[0])):
        more = " …" if tally.count > len(tally.examples) else ""
        lines.append(f"  {title}, {reason}: {tally.count}: {', '.join(tally.examples)}{more}")
    return lines
