"""The dashboards: checked in as generated, provisioned where Grafana looks, and every query answered with data.

The last is tried on a real Prometheus that scrapes a running service under load.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from metric_names import unknown_metrics
from PIL import Image
from scraped_service import Scraped, Visitors, scraped_service

from deploy.grafana.__main__ import ALL, DASHBOARDS, files
from deploy.grafana.cluster import FOLDER
from deploy.grafana.drawing import PALETTE, ticks, worded
from deploy.grafana.panels import COLUMNS, DATASOURCE, Panel, Place, layout
from deploy.grafana.prometheus import Prometheus, PrometheusError, Query, Span
from deploy.grafana.sheet import BROWSERS, WIDTH, page, photograph
from deploy.grafana.sheet import main as sheet_command
from loadtests.bench.local_service import free_port

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
RECORDED = frozenset(rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule)
PANELS = [panel for dashboard in ALL for panel in dashboard.panels]
# What a machine without a GPU has no data for: the worker exposes these gauges with a CUDA device only.
ONLY_WITH_A_GPU = {"GPU memory allocated", "GPU memory reserved", "Share of the card reserved"}
PATIENCE_S = 120.0
WINDOW_S = 30.0
pytestmark = pytest.mark.timeout(400)


def test_what_is_checked_in_is_what_the_generator_writes() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path}: run python -m deploy.grafana"
    assert {path.name for path in DASHBOARDS.iterdir()} == {path.name for path in files() if path.parent == DASHBOARDS}


def test_nothing_that_runs_imports_the_generator() -> None:
    for floor in ("service", "engine_build", "kernels", "loadtests"):
        for path in (ROOT / floor).rglob("*.py"):
            assert not re.search(r"(?m)^\s*(from|import) deploy\b", path.read_text()), path


def test_panels_lie_side_by_side_within_the_grid() -> None:
    for dashboard in ALL:
        taken: set[tuple[int, int]] = set()
        for place, _ in layout(dashboard):
            columns = range(place.x, place.x + place.width)
            cells = {(x, y) for x in columns for y in range(place.y, place.y + place.height)}
            assert not cells & taken and all(x < COLUMNS for x, _ in cells)
            taken |= cells
        assert {x for x, _ in taken} == set(range(COLUMNS))


def test_every_panel_says_what_it_shows() -> None:
    for dashboard in ALL:
        titles = [panel.title for panel in dashboard.panels]
        assert len(set(titles)) == len(titles) and dashboard.about
    for panel in PANELS:
        assert panel.about.endswith(".") and panel.unit, panel.title
        if panel.kind == "timeseries":
            assert all(query.legend for query in panel.queries), panel.title


def test_queries_use_only_metrics_that_exist() -> None:
    for panel in PANELS:
        for query in panel.queries:
            assert not unknown_metrics(query.expr, RECORDED), (panel.title, query.expr)


def test_grafana_finds_dashboards_and_data_where_they_are_put() -> None:
    grafana = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]
    mounted = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/providers.yaml").read_text())["providers"]
    assert ROOT / mounted[provider["options"]["path"]] == DASHBOARDS
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"] and (DASHBOARDS / home.name).is_file()
    sources = mounted["/etc/grafana/provisioning/datasources/changeroom.yaml"]
    (source,) = yaml.safe_load((ROOT / sources).read_text())["datasources"]
    assert {"type": source["type"], "uid": source["uid"]} == DATASOURCE


def test_kubernetes_gets_the_same_dashboards_data_source_and_rules() -> None:
    maps = list(yaml.safe_load_all((FOLDER / "dashboards.yaml").read_text()))
    carried: dict[str, Any] = {}
    for one in maps:
        if "grafana_dashboard" in one["metadata"]["labels"]:
            carried |= {name: json.loads(text) for name, text in one["data"].items()}
    assert carried == {path.name: json.loads(path.read_text()) for path in DASHBOARDS.iterdir()}
    (source,) = (one for one in maps if "grafana_datasource" in one["metadata"]["labels"])
    (given,) = yaml.safe_load(source["data"]["changeroom.yaml"])["datasources"]
    assert given["uid"] == DATASOURCE["uid"]
    autoscaling = (ROOT / "deploy/kubernetes/overlays/production/autoscaling.yaml").read_text()
    assert f"serverAddress: {given['url']}" in autoscaling
    assert yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"] == RULES


def test_the_gpu_panels_draw_a_worker_that_has_a_gpu(tmp_path: Path, promtool: str) -> None:
    panels = [panel for panel in PANELS if panel.gpu_only]
    labels = 'job="changeroom-worker", instance="w:9101"'
    series = [
        {"series": f'changeroom_gpu_memory_bytes{{{labels}, kind="{kind}"}}', "values": f"{size}x5"}
        for kind, size in (("allocated", 30 << 30), ("reserved", 40 << 30), ("total", 80 << 30))
    ]
    expected = {"GPU memory allocated": 30 << 30, "GPU memory reserved": 40 << 30, "Share of the card reserved": 0.5}
    checks = [
        {
            "expr": f"sum by (instance) ({query.expr})",
            "eval_time": "2m",
            "exp_samples": [{"labels": '{instance="w:9101"}', "value": expected[panel.title]}],
        }
        for panel in panels
        for query in panel.queries
    ]
    test = {
        "rule_files": [str(ROOT / "deploy/prometheus/rules.yaml")],
        "tests": [{"interval": "30s", "input_series": series, "promql_expr_test": checks}],
    }
    path = tmp_path / "gpu.yaml"
    path.write_text(yaml.safe_dump(test))
    run = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def crowds(at: float) -> float:
    """Visitors a second: a steady stream, and every twelve seconds more at once than any machine serves.

    What is turned away must not depend on how fast the machine is.
    """
    return 60.0 if at % 12 < 0.5 else 5.0


@pytest.fixture(scope="module")
def under_load(tmp_path_factory: pytest.TempPathFactory, promtool: str) -> Iterator[Scraped]:
    """A service that has visitors, and the Prometheus that scrapes it."""
    with scraped_service(tmp_path_factory.mktemp("scraped")) as service, Visitors(service, crowds):
        yield service


@pytest.fixture
def prometheus(under_load: Scraped) -> Iterator[Prometheus]:
    """Closed whatever the test finds: a socket left open would fail another test."""
    client = Prometheus(under_load.prometheus)
    yield client
    client.close()


def without_data(prometheus: Prometheus) -> set[tuple[str, str]]:
    """(panel, legend) of every query that draws nothing."""
    now = time.time()
    span = Span(now - 60, now, 1, WINDOW_S)
    return {
        (panel.title, query.legend) for panel in PANELS for query in panel.queries if not prometheus.query(query, span)
    }


def empty_in_the_end(prometheus: Prometheus) -> set[tuple[str, str]]:
    """What still draws nothing after the load had its time, GPU panels left out."""
    exempt = {(panel.title, query.legend) for panel in PANELS if panel.gpu_only for query in panel.queries}
    give_up_at = time.monotonic() + PATIENCE_S
    while (empty := without_data(prometheus) - exempt) and time.monotonic() < give_up_at:
        time.sleep(1)
    return empty


def test_every_panel_has_data_of_a_service_under_load(prometheus: Prometheus) -> None:
    assert {panel.title for panel in PANELS if panel.gpu_only} == ONLY_WITH_A_GPU
    assert not empty_in_the_end(prometheus)


def test_a_query_without_data_and_a_wrong_one_are_told_apart(prometheus: Prometheus) -> None:
    span = Span(time.time() - 10, time.time(), 1, WINDOW_S)
    assert prometheus.query(Query("changeroom_nothing"), span) == []
    with pytest.raises(PrometheusError, match="parse error"):
        prometheus.query(Query("rate(changeroom_nothing["), span)
    with pytest.raises(PrometheusError, match="not known"):
        prometheus.query(Query("up[$__range]"), span)


def test_the_layout_puts_a_panel_that_does_not_fit_on_the_next_line() -> None:
    (dashboard,) = (one for one in ALL if one.uid == "changeroom-stages")
    places = {item.title: place for place, item in layout(dashboard) if isinstance(item, Panel)}
    assert places["VAE"] == Place(0, places["Queue"].y + places["Queue"].height, 8, 7)


@pytest.mark.browser
@pytest.mark.skipif(not any(map(which, BROWSERS)) and not os.environ.get("CI"), reason="Chromium is missing")
def test_the_sheet_draws_every_panel(prometheus: Prometheus, tmp_path: Path) -> None:
    assert not empty_in_the_end(prometheus)
    now = time.time()
    html, height = page(prometheus, Span(now - 60, now, 1, WINDOW_S))
    titles = re.findall(r"<h3[^>]*>([^<]+)</h3>", html)
    assert sorted(titles) == sorted(escape(panel.title) for panel in PANELS)
    empty = re.findall(r'<h3[^>]*>([^<]+)</h3><p class="empty">', html)
    assert set(empty) == ONLY_WITH_A_GPU
    photograph(html, height, tmp_path / "dashboards.png")
    with Image.open(tmp_path / "dashboards.png") as picture:
        assert picture.size == (WIDTH, height)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    drawn = {tuple(bytes.fromhex(colour[1:])) for colour in PALETTE[:5]}
    assert drawn <= colours


@given(st.floats(1e-6, 1e9), st.booleans())
def test_ticks_reach_the_top_in_a_few_round_steps(top: float, whole: bool) -> None:
    marks = ticks(top, whole=whole)
    assert marks[0] == 0 and marks[-1] >= top * 0.999 and 2 <= len(marks) <= 7
    assert not whole or all(mark == int(mark) for mark in marks)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.25, "s", "250 ms"), (2.0, "s", "2 s"), (0.035, "percentunit", "3.5 %"), (3 << 30, "bytes", "3 GiB"),
     (0.0, "bytes", "0 B"), (12_000.0, "short", "12 k"), (1.5, "reqps", "1.5/s")],
)  # fmt: skip
def test_values_are_worded_with_their_unit(value: float, unit: str, text: str) -> None:
    assert worded(value, unit) == text


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert sheet_command(["--prometheus", nobody, "-o", str(tmp_path / "sheet.png")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {nobody} does not answer") and told.count("\n") == 1
