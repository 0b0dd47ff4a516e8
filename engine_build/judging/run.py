"""A run: every question of the plan that has no answer yet is asked, every answer written as it comes.

One thread writes, as many ask as the judge takes. A run may be ended at any moment; the same command goes on, and
what is in the journal is not asked again. Answers that failed for the endpoint's sake are asked again by the next run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from engine_build.errors import RequestError
from engine_build.judging import cases
from engine_build.judging.answers import Form
from engine_build.judging.calls import FINAL, NotJudged, Reply
from engine_build.judging.cases import UNREADABLE, Case
from engine_build.judging.cost import Estimate, Prices, tokens_of
from engine_build.judging.journal import NAME, Header, Journal, Row, Writer, read
from engine_build.judging.judges import EndpointJudge, Judge
from engine_build.judging.samples import JudgedSet, Sample
from engine_build.judging.scores import NO_RESULT

STOPPED = frozenset({"budget spent", "endpoint failing"})
"""Reasons after which a run ends: nothing was asked, so nothing is written."""
Progress = Callable[[int, int], None]
_UNREADABLE: Reply[Form] = Reply(NotJudged("picture unreadable"))
_Answered = tuple[str, str, Reply[Form] | None]
"""A case's key, the digest of the results it shows, the judge's reply (None where the journal has it)."""


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
    outcome, done = Outcome(), 0
    with Writer(work.out, work.header(), [_sample_row(sample) for sample in work.judged.samples]) as writer:
        for sample in work.judged.samples:
            if work.absent(sample):
                outcome.absent += 1
                if writer.journal.absent.get(sample.id) != NO_RESULT:
                    writer.add({"kind": "absent", "sample": sample.id, "reason": NO_RESULT})
        todo = [case for case in wanted if case.sample.id not in writer.journal.absent]
        with ThreadPoolExecutor(work.judge.parallel) as pool:
            for case, (key, shown, reply) in _in_window(pool, work, writer.journal, todo):
                done += 1
                progress(done, len(todo))
                if reply is None:
                    outcome.answered += 1
                    _keep(writer, case, key)
                    continue
                outcome.requests += reply.requests
                outcome.tokens = (outcome.tokens[0] + reply.tokens[0], outcome.tokens[1] + reply.tokens[1])
                if isinstance(reply.value, NotJudged) and reply.value.reason in STOPPED:
                    outcome.stopped = reply.value.reason
                else:
                    outcome.asked += 1
                    writer.add(_answer_row(case, key, shown, reply, work.judge.at))
                if max_cost is not None and prices is not None and prices.of(outcome.tokens) >= max_cost:
                    outcome.stopped = "cost reached"
                if outcome.stopped:
                    todo.clear()
    return outcome


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


def _in_window(
    pool: ThreadPoolExecutor, work: Work, journal: Journal, todo: list[Case]
) -> Iterator[tuple[Case, _Answered]]:
    """Cases with their keys and replies as they come; few are begun ahead, so that pictures do not pile up.

    Emptying `todo` ends it once what was begun is done.
    """
    begun: dict[Future[_Answered], Case] = {}
    position = 0
    while True:
        for case in list(islice(todo, position, position + 2 * work.judge.parallel - len(begun))):
            begun[pool.submit(_answer, work, journal, case)] = case
            position += 1
        if not begun:
            return
        for future in wait(begun, return_when=FIRST_COMPLETED).done:
            yield begun.pop(future), future.result()


def _answer(work: Work, journal: Journal, case: Case) -> _Answered:
    files = [case.sample.result_in(folder) for folder in work.results]
    shown = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    try:
        pictures = cases.shown(case, work.results)
    except UNREADABLE as error:
        if not all(map(_readable, files)):
            return hashlib.sha256(f"{case.name} {shown}".encode()).hexdigest(), shown, _UNREADABLE
        raise RequestError(f"{case.sample.id}: a picture of the set cannot be read: {error}") from error
    key = cases.key(case, pictures, work.judge.words(case, pictures), work.judge.settings)
    return key, shown, None if settled(journal, key) else work.judge.ask(case, pictures)


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except UNREADABLE:
        return False
    return True


def _keep(writer: Writer, case: Case, key: str) -> None:
    """Make the answer under `key` the one that counts for its case, where another line came after it."""
    row = writer.journal.answers.get(case.name)
    if row is None or row["key"] != key:
        sample, call, variant, repeat = case.name
        mine = {"sample": sample, "call": call, "variant": variant, "repeat": repeat, "requests": 0, "tokens": [0, 0]}
        writer.add({**writer.journal.by_key[key], **mine})


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
