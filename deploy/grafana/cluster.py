"""Dashboards and alert rules as the Kubernetes objects of deploy/kubernetes/components/monitoring.

kustomize reads no file outside its folder, so these are written there: a ConfigMap a dashboard and one for the data
source, with the labels that Grafana's sidecar looks for, and a PrometheusRule for the operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1]
FOLDER = DEPLOY / "kubernetes" / "components" / "monitoring"
RULES = DEPLOY / "prometheus" / "rules.yaml"
DATASOURCES = DEPLOY / "grafana" / "datasources.yaml"
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
WRITTEN = "# Written by `python -m deploy.grafana`; change deploy/grafana or deploy/prometheus/rules.yaml instead.\n"


class _Literal(str):
    """A text that YAML shows as it is, line by line."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def dashboards(files: Mapping[str, dict[str, Any]]) -> str:
    """One ConfigMap a dashboard, from their JSON by file name, and one for the data source."""
    source = yaml.safe_load(DATASOURCES.read_text())
    source["datasources"][0] |= {"name": "Changeroom", "url": PROMETHEUS, "isDefault": False}
    maps = [
        _config_map(
            "changeroom-grafana-datasource",
            {"grafana_datasource": "1"},
            {"changeroom.yaml": yaml.safe_dump(source, sort_keys=False)},
        )
    ]
    for name, content in files.items():
        compact = json.dumps(content, separators=(",", ":"))
        maps.append(_config_map(f"{Path(name).stem}-dashboard", {"grafana_dashboard": "1"}, {name: compact}))
    return WRITTEN + yaml.dump_all(maps, Dumper=_Dumper, sort_keys=False, width=1 << 20)


def rules() -> str:
    """The rule file as a PrometheusRule."""
    spec = yaml.safe_load(RULES.read_text())
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "changeroom"},
        "spec": spec,
    }
    return WRITTEN + yaml.safe_dump(rule, sort_keys=False, width=1 << 20)


def _config_map(name: str, labels: dict[str, str], data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "data": {file: _Literal(text) for file, text in data.items()},
    }
