"""The ledger of a fault run as a markdown table: `python tests/faults/fault_table.py FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = "| fault | accepted → ended | refused, then accepted | ran again | measured (promise) | check |"


def line(row: dict[str, Any]) -> str:
    """One case."""
    ended = ", ".join(f"{count} {status}" for status, count in sorted(row.get("ended", {}).items()))
    refused = ", ".join(f"{count} of {what}" for what, count in sorted(row["refused_answers"].items()))
    measured = "; ".join(f"{m['what']}: {m['seconds']:g} s ({m['promise_s']:g})" for m in row["measured"])
    check = "equal" if row["passed"] else "**FAILED**"
    if "tries" in row:
        check += f" ({row['tries']['passed']} of {sum(row['tries'].values())} runs)"
    counts = f"{row['accepted']} → {ended}", refused or "none", str(row["ran_again"])
    return f"| {' | '.join((row['case'], *counts, measured or 'none', check))} |"


def table(document: dict[str, Any]) -> str:
    """The whole table, cases by name."""
    rows = sorted(document["cases"], key=lambda row: str(row["case"]))
    return "\n".join([HEAD, "| --- | --- | --- | --- | --- | --- |", *map(line, rows)])


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(Path(sys.argv[1]).read_text())) + "\n")
