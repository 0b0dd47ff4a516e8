"""The forms a judge fills in, read strictly: scores are whole numbers from 1 to 10 or there is no answer.

An answer that is not JSON is repaired once, by taking away what stands round the JSON; nothing is added, completed or
converted, because that would be a guess. Keys that the form does not have are ignored, keys that it has are needed.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from engine_build.instruction import MAX_GARMENTS

LIMBS = ("fine", "wrong at first look only", "wrong at both looks")
BACKGROUNDS = ("plain", "complex")
VERDICTS = ("first", "second", "same")
_COMMA_BEFORE_END = re.compile(r",(\s*[}\]])")

Score = Annotated[int, Field(ge=1, le=10)]
Faults = Annotated[tuple[str, ...], Field(max_length=20)]
_F = TypeVar("_F", bound="Form")


class Form(BaseModel):
    """Base of every form: frozen, no number from a text, no text from a number."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def of(cls: type[_F], content: str) -> _F:
        """The form of an answer. Raises ValueError for one that does not fit."""
        return cls.model_validate_json(content, strict=True)


class Item(Form):
    """One garment: `score` is None where another requested garment hides it entirely, as asked."""

    image: int
    faults: Faults = ()
    score: Score | None


class Worn(Form):
    """What person, references and result show together."""

    identity_faults: Faults = ()
    identity: Score
    garments: Annotated[tuple[Item, ...], Field(max_length=MAX_GARMENTS)]


class Place(Form):
    """What person and result alone show."""

    background_kind: Literal["plain", "complex"]
    background_faults: Faults = ()
    background: Score
    limbs: Literal["fine", "wrong at first look only", "wrong at both looks"]
    physics_faults: Faults = ()
    physics: Score


class Preference(Form):
    """Which of two results is better."""

    why: str = ""
    better: Literal["first", "second", "same"]


def worn(content: str, garments: int) -> Worn:
    """The form of the first question. Raises ValueError unless it speaks of every garment picture once."""
    said = Worn.of(content)
    items = sorted(said.garments, key=lambda item: item.image)
    if [item.image for item in items] != list(range(2, garments + 2)):
        raise ValueError("one entry for each garment picture expected")
    return said.model_copy(update={"garments": tuple(items)})


def repaired(content: str) -> str:
    """The JSON object in an answer: without the words and fences round it and without commas before an end.

    Strings are left as they are unless one holds such a comma; the forms' strings are remarks, never scores.
    """
    first, last = content.find("{"), content.rfind("}")
    if first < 0 or last < first:
        return content
    return _COMMA_BEFORE_END.sub(r"\1", content[first : last + 1])


def schema(form: type[Form]) -> dict[str, Any]:
    """The form as JSON Schema in the strict dialect: every key required, none added, no references."""
    score = {"type": "integer", "minimum": 1, "maximum": 10}
    faults = {"type": "array", "items": {"type": "string"}}
    if form is Worn:
        item = _object(image={"type": "integer"}, faults=faults, score={"anyOf": [score, {"type": "null"}]})
        return _object(identity_faults=faults, identity=score, garments={"type": "array", "items": item})
    if form is Place:
        return _object(
            background_kind={"type": "string", "enum": list(BACKGROUNDS)},
            background_faults=faults,
            background=score,
            limbs={"type": "string", "enum": list(LIMBS)},
            physics_faults=faults,
            physics=score,
        )
    return _object(why={"type": "string"}, better={"type": "string", "enum": list(VERDICTS)})


def _object(**properties: object) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
