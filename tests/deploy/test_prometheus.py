"""The rules: tested by promtool, made of metrics we have, each alert with a runbook entry and a test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml
from metric_names import unknown_metrics

from service import metrics
from service.errors import QueueFull
from service.gateway.http.problems import OWN_REFUSALS
from service.metrics import LATENCY_BUCKETS

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml"))
RUNBOOK = (DEPLOY / "runbook.md").read_text()

GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALL = [rule for group in GROUPS for rule in group["rules"]]
RECORDED = frozenset(rule["record"] for rule in ALL if "record" in rule)
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}


def test_promtool_passes_every_test_of_the_rules(promtool: str) -> None:
    run = subprocess.run(
        [promtool, "test", "rules", *map(str, TESTS)], capture_output=True, text=True, timeout=150
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(TESTS) == run.stdout.count("SUCCESS") == 2


def test_the_configuration_is_one_prometheus_takes(promtool: str) -> None:
    config = DEPLOY / "prometheus" / "prometheus.yaml"
    subprocess.run([promtool, "check", "config", str(config)], check=True, capture_output=True)
    jobs = {job["job_name"] for job in yaml.safe_load(config.read_text())["scrape_configs"]}
    assert set(re.findall(r'job="([^"]+)"', RULES.read_text())) == jobs


def test_rules_use_only_metrics_that_exist() -> None:
    for rule in ALL:
        assert not unknown_metrics(rule["expr"], RECORDED), rule


def test_a_metric_that_does_not_exist_is_found() -> None:
    assert unknown_metrics("rate(changeroom_requests[5m]) + changeroom:nothing") == {
        "changeroom_requests",
        "changeroom:nothing",
    }


def test_every_core_metric_of_the_store_and_the_fleet_is_watched() -> None:
    text = RULES.read_text()
    for name in (
        metrics.REQUESTS_TOTAL, metrics.REQUEST_LATENCY, metrics.QUEUE_TIME, metrics.BACKLOG, metrics.DEAD_LETTER,
        metrics.LEASE_LOST, metrics.WORKER_READY, metrics.GPU_MEMORY, metrics.ADMISSION_REJECTED,
    ):  # fmt: skip
        assert name in text


def test_labels_in_rules_are_what_the_service_says() -> None:
    text = RULES.read_text()
    assert set(re.findall(r'le="([^"]+)"', text)) <= {str(bucket) for bucket in LATENCY_BUCKETS}
    ours = re.search(r'changeroom_admission_rejected_total\{[^}]*reason=~"([^"]+)"', text)
    # A full catalogue is a limit of one key; the others are want of room.
    assert ours is not None and set(ours[1].split("|")) == {QueueFull.code, *OWN_REFUSALS} - {"catalogue-full"}
    assert set(re.findall(r'kind="([^"]+)"', text)) == {"reserved", "allocated", "total"}


def test_every_alert_fires_and_stays_silent_in_a_test() -> None:
    loud, silent = set(), set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test["alert_rule_test"]:
                (loud if check["exp_alerts"] else silent).add(check["alertname"])
    assert loud == set(ALERTS)
    assert silent == set(ALERTS)


def test_every_alert_has_a_severity_and_a_link_to_its_entry() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook"] == f"deploy/runbook.md#{name.lower()}"


def test_the_runbook_has_an_entry_for_every_alert_and_no_other() -> None:
    entries = dict(re.findall(r"(?ms)^## (Changeroom\w+)\n(.*?)(?=^## |\Z)", RUNBOOK))
    assert set(entries) == set(ALERTS)
    for name, text in entries.items():
        for part in ("**What it means.**", "**Look.**", "**Do.**"):
            assert part in text, (name, part)
        assert "```" in text, f"{name}: no command to copy"


def test_queries_in_the_runbook_use_metrics_that_exist(tmp_path: Path, promtool: str) -> None:
    queries = re.findall(r"(?m)^query '(.+)'$", RUNBOOK)
    assert len(queries) >= len(ALERTS)
    rules = []
    for query in queries:
        assert not unknown_metrics(query, RECORDED), query
        rules.append({"record": f"q:{len(rules)}", "expr": query})
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))
    run = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
