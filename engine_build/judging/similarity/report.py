"""What `similarity.py` found, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine_build.judging.people.wilson import Share

COLUMNS = {"fid": "FID", "kid": "KID x1000", "ssim": "SSIM", "lpips": "LPIPS"}
NAMES = {"ssim": "SSIM", "lpips": "LPIPS", "m_dino": "M-DINO", "m_clip_i": "M-CLIP-I"}


@dataclass
class SetRow:
    """Figures of one group of results; None for what was not measured. `kid` and its deviation are times 1000."""

    kind: str
    group: str
    samples: int
    fid: float | None = None
    kid: float | None = None
    kid_sd: float | None = None
    ssim: float | None = None
    lpips: float | None = None


@dataclass(frozen=True)
class Mean:
    """A mean over `n` cases, None of none; `left_out` counts cases by why they are not in it."""

    mean: float | None
    n: int
    left_out: dict[str, int]

    @classmethod
    def of(cls, values: Sequence[float], left_out: Mapping[str, int]) -> Mean:
        return cls(sum(values) / len(values) if values else None, len(values), dict(sorted(left_out.items())))


@dataclass
class SimilarityReport:
    """Every figure, what it was measured on, and what is missing. `weights` holds the networks' SHA-256."""

    photographs: str
    subjects: int
    results: dict[str, str] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    rows: list[SetRow] = field(default_factory=list)
    outside: dict[str, Mean] = field(default_factory=dict)
    likeness: dict[str, Mean] = field(default_factory=dict)
    usable: Share | None = None
    weights: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, figures rounded to six places."""
        told: dict[str, Any] = _rounded(asdict(self))
        told["usable"] = self.usable.as_dict() if self.usable else None
        return told

    def text(self) -> str:
        """A table, what stands beside it, and what was left out."""
        lines = []
        for kind, folder in self.results.items():
            have = self.subjects - len(self.missing[kind])
            lines.append(f"{kind:9}{folder}: {have} of {self.subjects} have a result")
        if self.rows:
            lines += ["", f"{'':20}{'samples':>8}" + "".join(f"{name:>12}" for name in COLUMNS.values())]
            lines += [self._row(row) for row in self.rows]
        for kind in self.results.keys() - {row.kind for row in self.rows}:
            lines.append(f"{kind}: no sample has a photograph in the garments: nothing to measure it beside")
        for title, means in (("outside the mask", self.outside), ("garment", self.likeness)):
            for name, mean in means.items():
                value = "none" if mean.mean is None else f"{mean.mean:.4f}"
                why = "".join(f"; {count} left out: {reason}" for reason, count in mean.left_out.items())
                lines.append(f"{NAMES[name]} {title}: {value} over {mean.n}{why}")
        if self.usable is not None:
            lines.append(f"good enough to ship: {self.usable.text()} of {self.usable.n}")
        if self.rows and "inception" not in self.weights:
            lines.append("FID and KID are not measured: name the network with --inception")
        if any(row.kind == "paired" for row in self.rows) and not any(name != "inception" for name in self.weights):
            lines.append("LPIPS is not measured: name its backbone with --lpips")
        return "\n".join(lines) + "\n"

    def _row(self, row: SetRow) -> str:
        shown = [getattr(row, name) for name in COLUMNS]
        digits = (3, 3, 4, 4)
        cells = "".join(f"{'-' if x is None else f'{x:.{d}f}':>12}" for x, d in zip(shown, digits, strict=True))
        return f"{row.kind:9}{row.group:11}{row.samples:>8}{cells}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
