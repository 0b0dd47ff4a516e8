"""Evidence at its smallest: every measurement on disk once, figures over seeds, plots; nothing is done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recipe import write_config

from engine_build.training.config import EvidenceConfig, TrainConfig
from engine_build.training.evidence.run import FIGURES, run
from engine_build.training.train import run_stage


def test_evidence_is_gathered_once_and_summed_over_seeds(tmp_path: Path) -> None:
    config = TrainConfig.load(write_config(tmp_path))
    short = {"steps": 1, "chunk": 2}
    tables = {
        **(config.tables or {}),
        "isolate": replace(config.stage("isolate"), start_from="", report_samples=0, **short),
        "dmd": replace(config.stage("dmd"), start_from="isolate", fake_updates=1, **short),
    }
    evidence = EvidenceConfig(
        seeds=(0, 1),
        stages=("isolate",),
        student_steps=(1,),
        student_share=0.5,
        samples=2,
        mix=(1.0,),
        teacher_steps=2,
        cut_steps=(1,),
        diversity_repeats=2,
        guidance=1.5,
        focus=True,
        guided=("isolate",),
        baseline="nano",
    )
    config = replace(config, tables=tables, evidence=evidence)
    report = json.loads(run(config, run_stage).read_text())
    assert set(report["figures"]) == {
        *("start/2", "start/1", "isolate/2-cfg", "isolate/2", "isolate/1"),
        *("dmd-1/1", "dmd-1-part/1"),
    }
    assert {name: row["nfe"] for name, row in report["figures"].items()} == {
        "start/2": 2,
        "start/1": 1,
        "isolate/2-cfg": 4,
        "isolate/2": 2,
        "isolate/1": 1,
        "dmd-1/1": 1,
        "dmd-1-part/1": 1,
    }
    for row in report["figures"].values():
        assert row["seeds"] == 2 and 1 <= row["overall"]["mean"] <= 10
        assert set(row) & set(FIGURES) >= {"sharpness", "kid", "diversity", "omission_rate", "attribute_accuracy"}
    one, two = (
        json.loads((config.out / f"seed-{s}" / "measured" / "isolate@2.json").read_text())["overall"] for s in (0, 1)
    )
    assert report["figures"]["isolate/2"]["overall"]["mean"] == pytest.approx((one + two) / 2, abs=1e-4)
    assert one != two
    if (config.out / "plots").exists():
        assert (config.out / "plots" / "stages.png").stat().st_size > 1000

    def never(*_: object, **__: object) -> Path:
        raise AssertionError("nothing is missing, so nothing may be trained")

    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("measured/*.json")}
    run(config, never)
    assert before == {path: path.stat().st_mtime_ns for path in config.out.rglob("measured/*.json")}
