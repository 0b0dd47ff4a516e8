"""Comparisons of the evidence are paired by seed, and what one side lacks is left out."""

import math

import pytest

from engine_build.training.evidence.comparisons import compare
from engine_build.training.evidence.run import collected


def row(overall: float, rare: float | None = None) -> dict:
    return {"overall": overall, "nfe": 32, "samples": 8, "patterns": {"rare": rare, "common": 0.5}}


MEASURED = {
    "isolate/32": {0: row(5.0, 0.2), 1: row(7.0, None), 2: row(6.0, 0.4)},
    "nft/32": {0: row(5.5, 0.3), 1: row(7.5, 0.6)},
}


def test_seeds_are_paired_and_a_missing_one_counts_for_nothing():
    rows = {(r["asked"], r["figure"]): r for r in compare(MEASURED, 32)}
    overall = rows["what reinforcement does at equal evaluations", "overall"]
    assert overall["seeds"] == 2
    assert overall["values"] == [6.5, 6.0]
    assert overall["difference"] == {"mean": 0.5, "standard_error": 0.0}
    assert overall["ratio"]["mean"] == pytest.approx((5.5 / 5 + 7.5 / 7) / 2, abs=1e-5)
    rare = rows["what reinforcement does at equal evaluations", "pattern_rare"]
    assert rare["seeds"] == 1
    assert rare["difference"] == {"mean": pytest.approx(0.1), "standard_error": None}
    assert not any(asked == "what isolation costs" for asked, _ in rows)


def test_a_ratio_is_only_told_of_positive_figures():
    found = {"dmd-4/4": {0: {"kid": 0.5}}, "cfg-distill/4": {0: {"kid": -0.1}}}
    (kid,) = (r for r in compare(found, 32) if r["figure"] == "kid" and "cut" in r["asked"])
    assert kid["ratio"] is None
    assert kid["difference"]["mean"] == pytest.approx(0.6)


def test_means_over_seeds_carry_their_standard_error():
    figures = collected(MEASURED)
    overall = figures["isolate/32"]["overall"]
    assert overall["mean"] == 6.0
    assert overall["standard_error"] == pytest.approx(1 / math.sqrt(3), abs=1e-5)
    assert figures["isolate/32"]["pattern_rare"]["mean"] == pytest.approx(0.3)
    assert figures["nft/32"]["seeds"] == 2
