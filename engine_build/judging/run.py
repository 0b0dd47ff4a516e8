"""A run: every question of the plan that has no answer yet is asked, every answer written as it comes.

As many threads ask as the judge takes. A run may be ended at any moment; the same command goes on, and what is in the
journal is not asked again. Answers that failed for the endpoint's sake are asked again by the next run.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from engine_build.errors import RequestError
from engine_build.judging import cases
from engine_build.judging.answers import Form
from engine_build.judging.calls import FINAL, NotJudged, Reply
from engine_build.judging.cases import UNREADABLE, Case, Shown
from engine_build.judging.cost import Estimate, Prices, tokens_of
from engine_build.judging.journal import NAME, Header, Journal, Row, Writer, read
from engine_build.judging.judges import EndpointJudge, Judge
from engine_build.judging.samples import JudgedSet, Sample
from engine_build.judging.scores import NO_RESULT

STOPPED = frozenset({"budget spent", "endpoint failing"})
"""Reasons after which a run ends: nothing was asked, so nothing is written."""
Progress = Callable[[int, int], None]


@dataclass
class Outcome:
    """What a run did. `stopped` says why it ended before its time."""

    asked: int = 0
    answered: int = 0
    requests: int = 0
    tokens: tuple[int, int] = (0, 0)
    absent: int = 0
    stopped: str = ""


@dataclass(frozen=True)
class Work:
    """What is judged by whom: a set, the folders of its results (one, or two that are compared), where answers go."""

    judged: JudgedSet
    results: tuple[Path, ...]
    judge: Judge
    out: Path

    def header(self) -> Header:
        mode = "score" if len(self.results) == 1 else "preference"
        return Header(self.judge.rubric, self.judge.settings, self.judged.name, self.judged.digest, mode)

    def absent(self, sample: Sample) -> bool:
        return not all(sample.result_in(folder).is_file() for folder in self.results)


def run(
    work: Work,
    wanted: Iterable[Case],
    prices: Prices | None = None,
    max_cost: float | None = None,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Ask what is wanted and not answered. Raises RequestError for a journal of something else or no results at all."""
    _with_results(work)
    with Writer(work.out, work.header(), [_sample_row(sample) for sample in work.judged.samples]) as writer:
        absent = {sample.id for sample in work.judged.samples if work.absent(sample)}
        for name in sorted(absent - set(writer.journal.absent)):
            writer.add({"kind": "absent", "sample": name, "reason": NO_RESULT})
        todo = [case for case in wanted if case.sample.id not in absent]
        asking = _Asking(work, writer, Outcome(absent=len(absent)), prices or Prices(), max_cost)
        with ThreadPoolExecutor(work.judge.parallel) as pool:
            try:
                for done, _ in enumerate(pool.map(asking.take, todo), start=1):
                    progress(done, len(todo))
            except BaseException:
                asking.outcome.stopped = "interrupted"
                raise
    return asking.outcome


def estimate(work: Work, wanted: Iterable[Case]) -> Estimate:
    """What `run` would ask of an endpoint, without asking; nothing is written."""
    judge = work.judge
    if not isinstance(judge, EndpointJudge):
        raise RequestError("only a judge at an endpoint costs anything")
    _with_results(work)
    journal = None
    if (work.out / NAME).exists():
        journal = read(work.out)
        against = work.header().differs(journal.header)
        if against:
            raise RequestError(f"{work.out} was begun otherwise: {'; '.join(against)}. Choose another --out")
    absent = {sample.id for sample in work.judged.samples if work.absent(sample)}
    questions, answered, tokens = 0, 0, (0, 0)
    for case in wanted:
        if case.sample.id in absent:
            continue
        try:
            pictures = cases.shown(case, work.results)
            question = judge.question(case, pictures)
        except UNREADABLE:
            continue
        key = cases.key(case, pictures, judge.words(case, pictures), judge.settings)
        if journal is not None and settled(journal, key):
            answered += 1
            continue
        questions += 1
        more = tokens_of(question, judge.caller.endpoint)
        tokens = (tokens[0] + more[0], tokens[1] + more[1])
    return Estimate(questions, answered, len(absent), *tokens)


def settled(journal: Journal, key: str) -> bool:
    """Whether there is an answer under a key, or a reason that another day would not mend."""
    row = journal.by_key.get(key)
    return row is not None and ("form" in row or row["missing"] in FINAL)


@dataclass
class _Asking:
    """A run under way. Whoever gets an answer writes it before asking for another: a kill costs what is in flight."""

    work: Work
    writer: Writer
    outcome: Outcome
    prices: Prices
    max_cost: float | None
    asking: set[str] = field(default_factory=set)
    lock: threading.Condition = field(default_factory=threading.Condition)

    def take(self, case: Case) -> None:
        """Have one case answered, unless the run has ended."""
        if self.outcome.stopped:
            return
        key, shown, pictures = self._key(case)
        with self.lock:
            while key in self.asking:  # the same pictures under another name: one question, asked once
                self.lock.wait()
            if settled(self.writer.journal, key):
                self.outcome.answered += 1
                self._keep(case, key, shown)
                return
            self.asking.add(key)
        try:
            unreadable: Reply[Form] = Reply(NotJudged("picture unreadable"))
            self._note(case, key, shown, unreadable if pictures is None else self.work.judge.ask(case, pictures))
        finally:
            with self.lock:
                self.asking.discard(key)
                self.lock.notify_all()

    def _note(self, case: Case, key: str, shown: str, reply: Reply[Form]) -> None:
        """Write what came of a case, and end the run where it must end."""
        with self.lock:
            self.outcome.requests += reply.requests
            self.outcome.tokens = (self.outcome.tokens[0] + reply.tokens[0], self.outcome.tokens[1] + reply.tokens[1])
            if isinstance(reply.value, NotJudged) and reply.value.reason in STOPPED:
                self.outcome.stopped = reply.value.reason
                return
            self.outcome.asked += 1
            self.writer.add(_answer_row(case, key, shown, reply, self.work.judge.at))
            if self.max_cost is not None and self.prices.of(self.outcome.tokens) >= self.max_cost:
                self.outcome.stopped = "cost reached"

    def _key(self, case: Case) -> tuple[str, str, Shown | None]:
        """A case's key, the digest of the results it shows, its pictures (None where a result is none)."""
        judge, files = self.work.judge, [case.sample.result_in(folder) for folder in self.work.results]
        shown = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
        try:
            pictures = cases.shown(case, self.work.results)
        except UNREADABLE as error:
            if not all(map(_readable, files)):
                return hashlib.sha256(f"{case.name} {shown}".encode()).hexdigest(), shown, None
            raise RequestError(f"{case.sample.id}: a picture of the set cannot be read: {error}") from error
        return cases.key(case, pictures, judge.words(case, pictures), judge.settings), shown, pictures

    def _keep(self, case: Case, key: str, shown: str) -> None:
        """Make the answer under `key` the one that counts for its case, where another line came after it."""
        row = self.writer.journal.answers.get(case.name)
        if row is None or row["key"] != key:
            sample, call, variant, repeat = case.name
            mine = {"sample": sample, "call": call, "variant": variant, "repeat": repeat, "results": shown}
            self.writer.add({**self.writer.journal.by_key[key], **mine, "requests": 0, "tokens": [0, 0]})


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except UNREADABLE:
        return False
    return True


def _answer_row(case: Case, key: str, shown: str, reply: Reply[Form], at: str) -> Row:
    sample, call, variant, repeat = case.name
    row: Row = {"kind": "answer", "sample": sample, "call": call, "variant": variant, "repeat": repeat, "key": key}
    row["results"] = shown
    if isinstance(reply.value, NotJudged):
        row |= {"missing": reply.value.reason, "said": reply.said}
    else:
        row |= {"form": reply.value.model_dump(mode="json"), "mended": reply.mended}
    return row | {"requests": reply.requests, "tokens": list(reply.tokens), "served": reply.served, "at": at}


def _sample_row(sample: Sample) -> Row:
    rows = [{"category": one.category, "sub_style": one.sub_style} for one in sample.references]
    return {"kind": "sample", "id": sample.id, "references": rows, "instruction": sample.instruction}


def _with_results(work: Work) -> None:
    samples: Sequence[Sample] = work.judged.samples
    for folder in work.results:
        if not folder.is_dir():
            raise RequestError(f"{folder} is not a folder of results")
        if not any(sample.result_in(folder).is_file() for sample in samples):
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:3]) or "nothing"
            raise RequestError(
                f"{folder} holds no result of the set: {samples[0].id}.png is looked for, {there} is there"
            )
