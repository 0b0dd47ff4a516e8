"""The loop that turns an origin into shards: rules, twins, review, caption, write; resumable after every shard.

`out/build.json` says how far it got. A build that was interrupted, by anything, leaves whole shards and that file;
resumed, it ends with the very bytes an uninterrupted one would have written (a vision model's answers aside).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine_build.errors import RequestError
from engine_build.instruction import LAYER_WORDS, GarmentPhrase, compose
from engine_build.judging.calls import Endpoint, NotJudged
from engine_build.training.data.candidate_entry import Dropped, PreparedEntry
from engine_build.training.data.entry import Entry
from engine_build.training.data.origins import Item, Origin
from engine_build.training.data.report import Report
from engine_build.training.data.review import Review, Reviewer
from engine_build.training.data.shards import ShardFile, shard_name, spans_of, write_whole
from engine_build.training.data.twins import Look, Seen

STATE = "build.json"
WINDOW = 16
"""Samples reviewed side by side."""


@dataclass(frozen=True)
class BuildPlan:
    """How to build. `distance` in bits of 128 below which pictures are twins, None keeps twins.

    `endpoint` judges; `caption` is who describes garments, "grammar" (categories alone) or "model". `unjudged`
    samples are kept or dropped. A shard ends at `shard_samples` or `shard_mib`, whichever comes first.
    """

    shard_samples: int = 1000
    shard_mib: float = 512.0
    distance: int | None = 6
    endpoint: Endpoint | None = None
    caption: str = "grammar"
    unjudged: str = "keep"

    def __post_init__(self) -> None:
        if self.caption not in ("grammar", "model") or self.unjudged not in ("keep", "drop"):
            raise RequestError("caption is grammar or model, unjudged keep or drop")
        if self.caption == "model" and self.endpoint is None:
            raise RequestError("captions by a model need an endpoint")
        if self.shard_samples < 1 or self.shard_mib <= 0:
            raise RequestError("a shard holds at least one sample")

    def described(self) -> dict[str, Any]:
        """What must not change between a build and its resumption."""
        return {
            "shard_samples": self.shard_samples,
            "shard_mib": self.shard_mib,
            "distance": self.distance,
            "model": self.endpoint.model if self.endpoint else None,
            "caption": self.caption,
            "unjudged": self.unjudged,
        }


def build(
    origin: Origin,
    out: Path,
    plan: BuildPlan,
    resume: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Write `out/shard-*.tar`, `report.json` and `report.txt`; `progress` hears (done, total) items.

    Raises RequestError when `out` holds another build, or an unfinished one and `resume` is not asked.
    """
    out.mkdir(parents=True, exist_ok=True)
    asked_for = {"origin": origin.described, **plan.described()}
    start, report = _begin(out, asked_for, resume)
    source = str(origin.described.get("folder") or f"world/{origin.described.get('world')}")
    report = report or Report(source, asked_for)
    seen = None if plan.distance is None else _seen(out, report.shards, plan.distance)
    with ExitStack() as stack:
        reviewer = None
        if plan.endpoint is not None:
            reviewer = stack.enter_context(Reviewer(plan.endpoint, report.asked))
        work = _Work(out, plan, report, seen, asked_for)
        stack.callback(work.discard)
        done = start
        for item, opinion in _reviewed(origin.items(start), reviewer, plan, seen):
            done += 1
            work.take(item, opinion)
            report.asked = reviewer.asked if reviewer else 0
            if work.full:
                work.close(done)
            if progress is not None:
                progress(done, origin.total)
        work.close(done, finished=True)
    write_whole(out / "report.json", report.as_json().encode())
    write_whole(out / "report.txt", report.text().encode())
    return report


Opinion = Review | NotJudged | None


class _Work:
    """The shard in the making and everything decided so far."""

    def __init__(
        self, out: Path, plan: BuildPlan, report: Report, seen: Seen | None, asked_for: dict[str, Any]
    ) -> None:
        self.out, self.plan, self.report, self.seen, self.asked_for = out, plan, report, seen, asked_for
        self.shard: ShardFile | None = None

    @property
    def full(self) -> bool:
        shard = self.shard
        return shard is not None and (
            len(shard.spans) >= self.plan.shard_samples or shard.size >= self.plan.shard_mib * 2**20
        )

    def take(self, item: Item, opinion: Opinion) -> None:
        """Write the item or note why not."""
        self.report.seen += 1
        try:
            prepared, entry = self._accepted(item, opinion)
        except Dropped as dropped:
            self.report.drop(dropped.reason, item.name, dropped.detail)
            return
        if self.shard is None:
            self.shard = ShardFile(self.out / shard_name(self.report.shards))
        self.shard.add(entry, [item.name, *(one.text() for one in prepared.looks)])
        if self.seen is not None:
            self.seen.add(item.name, prepared.looks)
        self.report.written += 1
        self.report.masked += entry.masked
        self.report.categories.update(one.category for one in entry.references)
        self.report.references[str(len(entry.references))] += 1

    def close(self, done: int, finished: bool = False) -> None:
        """End the shard, if there is one, and write down how far the build is."""
        if self.shard is not None:
            self.shard.finish()
            self.report.bytes += self.shard.path.stat().st_size
            self.report.shards += 1
            self.shard = None
        said = {"next": done, "finished": finished, "asked_for": self.asked_for}
        text = json.dumps({**said, "report": json.loads(self.report.as_json())}, ensure_ascii=False)
        write_whole(self.out / STATE, text.encode())

    def discard(self) -> None:
        """Leave no unfinished shard behind."""
        if self.shard is not None:
            self.shard.discard()

    def _accepted(self, item: Item, opinion: Opinion) -> tuple[PreparedEntry, Entry]:
        if isinstance(item.found, Dropped):
            raise item.found
        prepared = item.found
        twin = None if self.seen is None else self.seen.twin(prepared.looks)
        if twin is not None:
            raise Dropped("duplicate", f"of {twin}")
        if isinstance(opinion, Review) and opinion.problem is not None:
            raise Dropped(f"vision model: {opinion.problem}")
        if isinstance(opinion, NotJudged):
            self.report.leave_unjudged(opinion.reason, item.name)
            if self.plan.unjudged == "drop":
                raise Dropped("not judged", opinion.reason)
        entry = prepared.entry
        if isinstance(opinion, Review):
            entry = captioned(entry, opinion, describe=self.plan.caption == "model")
        if self.plan.endpoint is not None:
            entry = replace(entry, facts={**entry.facts, "judged": isinstance(opinion, Review)})
        return prepared, entry


def captioned(entry: Entry, review: Review, describe: bool) -> Entry:
    """The sample with unknown categories named by the model and, if asked, its garments described; told anew.

    What the source says of a garment stands. A layer word that its category does not know is left out.
    """
    references = []
    for one, said in zip(entry.references, review.garments, strict=True):
        category = said.category if one.category == "auto" else one.category
        layer, description = one.layer, one.description
        if describe:
            layer = layer or (said.layer if said.layer in LAYER_WORDS[category] else None)
            description = description or said.description
        references.append(replace(one, category=category, layer=layer, description=description))
    if tuple(references) == entry.references:
        return entry
    told = compose([GarmentPhrase(r.category, r.layer, r.description) for r in references])
    return replace(entry, references=tuple(references), instruction=told)


def _reviewed(
    items: Iterator[Item], reviewer: Reviewer | None, plan: BuildPlan, seen: Seen | None
) -> Iterator[tuple[Item, Opinion]]:
    """Items in order with the model's opinion; nothing is asked about twins of what was taken before."""
    if reviewer is None or plan.endpoint is None:
        yield from ((item, None) for item in items)
        return
    with ThreadPoolExecutor(max(1, plan.endpoint.parallel)) as pool:
        while window := list(islice(items, WINDOW)):
            opinions = [
                pool.submit(reviewer.review, item.found.pictures[0], item.found.pictures[1:])
                if isinstance(item.found, PreparedEntry) and (seen is None or seen.twin(item.found.looks) is None)
                else None
                for item in window
            ]
            for item, opinion in zip(window, opinions, strict=True):
                yield item, None if opinion is None else opinion.result()


def _begin(out: Path, asked_for: dict[str, Any], resume: bool) -> tuple[int, Report | None]:
    path = out / STATE
    if not path.exists():
        if any(out.glob("*.tar")):
            raise RequestError(f"{out} holds shards of another making; choose another folder")
        return 0, None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        same, finished = said["asked_for"] == json.loads(json.dumps(asked_for)), said["finished"]
        start, report = int(said["next"]), Report.of_json(said["report"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is not the state of a build; choose another folder") from error
    if finished:
        raise RequestError(f"{out} holds a finished build; choose another folder")
    if not same:
        raise RequestError(f"{out} holds a build of something else, or with other options; choose another folder")
    if not resume:
        raise RequestError(f"{out} holds an unfinished build: pass --resume to go on, or choose another folder")
    return start, report


def _seen(out: Path, shards: int, distance: int) -> Seen:
    seen = Seen(distance)
    for number in range(shards):
        for span in spans_of(out / shard_name(number)):
            name, *looks = span.marks
            seen.add(name, tuple(Look.of_text(text) for text in looks))
    return seen
