"""The usability rate: the share of results that somebody would ship as they are, from a file of verdicts.

    VERDICTS   one JSON row a verdict: {"id": ..., "usable": true|false}; several on one id are averaged first

A side-by-side page made with --ship asks for the same; `votes.py` counts it there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from engine_build.errors import RequestError
from engine_build.judging.people.wilson import Share, wilson


def usability(file: Path, ids: set[str]) -> Share:
    """The rate over samples, with its interval. Raises RequestError for a row that is no verdict on one of `ids`."""
    said: dict[str, list[bool]] = defaultdict(list)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, usable = row["id"], row["usable"]
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{file}, line {number}: not a verdict {{id, usable}}: {error!r}") from error
        if not isinstance(usable, bool):
            raise RequestError(f"{file}, line {number}: usable is true or false, not {usable!r}")
        if name not in ids:
            raise RequestError(f"{file}, line {number}: there is no sample {name!r} in this set")
        said[name].append(usable)
    if not said:
        raise RequestError(f"{file} holds no verdicts")
    return wilson(sum(sum(verdicts) / len(verdicts) for verdicts in said.values()), len(said))
