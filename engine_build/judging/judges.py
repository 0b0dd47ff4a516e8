"""Who can be asked: the interface of a judge, and the one that asks a vision model at an endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from engine_build.judging import prompts
from engine_build.judging.answers import Form, Place, Preference
from engine_build.judging.calls import Caller, NotJudged, Question, Reply
from engine_build.judging.cases import UNREADABLE, Case, Shown
from engine_build.judging.prompts import PLACE, WORN, Garment


class Judge(Protocol):
    """Fills in the forms. `rubric` is the hash of its words, `settings` what else an answer depends on."""

    @property
    def rubric(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def parallel(self) -> int:
        """How many questions it takes at once."""

    @property
    def at(self) -> str:
        """The address of whoever answers, for the record."""

    def words(self, case: Case, pictures: Shown) -> str:
        """What is asked, as part of the answer's key."""

    def ask(self, case: Case, pictures: Shown) -> Reply[Form]:
        """The form of a case, or why there is none; never raises for what the judge does."""


class EndpointJudge:
    """A vision model at an OpenAI-compatible address."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    @property
    def rubric(self) -> str:
        return prompts.RUBRIC

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.caller.endpoint.settings()

    @property
    def parallel(self) -> int:
        return max(1, self.caller.endpoint.parallel)

    @property
    def at(self) -> str:
        """Without a name and password that the address may hold."""
        scheme, _, rest = self.caller.endpoint.url.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

    def question(self, case: Case, pictures: Shown) -> Question:
        """What the model is sent. Raises UNREADABLE for a picture that is none."""
        person, references, results = pictures.opened()
        if case.call == PLACE:
            return prompts.place(person, results[0])
        told = zip(references, case.sample.references, strict=True)
        garments = [Garment(picture, one.category, one.sub_style) for picture, one in told]
        if case.call == WORN:
            return prompts.worn(person, garments, results[0], case.sample.instruction)
        return prompts.pair(person, garments, results[0], results[1], case.sample.instruction)

    def words(self, case: Case, pictures: Shown) -> str:
        try:
            question = self.question(case, pictures)
        except UNREADABLE:
            return ""
        return question.task + json.dumps(question.schema, sort_keys=True)

    def ask(self, case: Case, pictures: Shown) -> Reply[Form]:
        try:
            question = self.question(case, pictures)
            for picture in question.pictures:
                picture.load()
        except UNREADABLE as error:
            return Reply(NotJudged("picture unreadable"), said=str(error)[:300])
        if case.call == WORN:
            return self.caller.ask(question, prompts.reader_of_worn(len(case.sample.references)))
        return self.caller.ask(question, Place.of if case.call == PLACE else Preference.of)
