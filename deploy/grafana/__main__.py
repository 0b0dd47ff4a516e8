"""`python -m deploy.grafana`: write the files that are checked in, JSON for Grafana and objects for Kubernetes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.grafana import admission, cluster, gpu, overview, stages
from deploy.grafana.panels import dashboard_json

ALL = (overview.DASHBOARD, stages.DASHBOARD, admission.DASHBOARD, gpu.DASHBOARD)
DASHBOARDS = Path(__file__).parent / "dashboards"


def files() -> dict[Path, str]:
    """What each written file holds."""
    made = {f"{one.uid}.json": dashboard_json(one) for one in ALL}
    written = {DASHBOARDS / name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}
    return written | {
        cluster.FOLDER / "dashboards.yaml": cluster.dashboards(made),
        cluster.FOLDER / "rules.yaml": cluster.rules(),
    }


def main() -> None:
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
