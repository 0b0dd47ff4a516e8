"""A try-on request as the model will carry it out: checked, fitted pictures, one pass or several.

More garments than a checkpoint has places either share contact sheets (`sheets`) or are put on one group
after the other, each pass starting from the last one's picture (`sequential`), coats last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engine_build.cache_keys import as_person
from engine_build.config import CheckpointConfig
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import RequestError
from engine_build.instruction import LAYER_WORDS, MAX_GARMENTS, TAIL, GarmentPhrase, compose
from engine_build.request.reference_pictures import (
    MIN_TOKENS,
    STOCK_AREA,
    Placed,
    arrange,
    fit_area,
    fit_canvas,
    fit_person,
    retell,
    target_size,
)

Overflow = Literal["sheets", "sequential"]
_OUTERMOST = ("shoes", "bags", "hats", "coats")


@dataclass(frozen=True)
class Pass:
    """One run of the model: its instruction and fitted garment pictures, beside the person of image 1."""

    instruction: str
    garments: tuple[ImageInput, ...]


@dataclass(frozen=True)
class RequestPlan:
    """A checked request: output `size` (width, height), steps of each pass, the fitted person, the passes."""

    size: tuple[int, int]
    steps: int
    person: ImageInput
    passes: tuple[Pass, ...]


def plan(request: TryOnRequest, config: CheckpointConfig, token_pixels: int, overflow: Overflow) -> RequestPlan:
    """How `request` runs on a checkpoint. Raises RequestError for what the checkpoint cannot do."""
    count = len(request.garments)
    if not 1 <= count <= MAX_GARMENTS:
        raise RequestError(f"a try-on takes 1 to {MAX_GARMENTS} garments, not {count}")
    steps = config.default_steps if request.steps is None else request.steps
    if not 1 <= steps <= config.max_steps:
        raise RequestError(f"steps must be between 1 and {config.max_steps}, not {steps}")
    size = _size(request, config, token_pixels)
    places = config.max_references - 1
    if overflow == "sequential" and count > places >= 1:
        passes = tuple(_sequential(request, config, token_pixels, places))
    else:
        placed = arrange(request.garments, places)
        passes = (_pass(retell(request.instruction, placed), placed, config, token_pixels),)
    return RequestPlan(size, steps, fitted_person(request.person, size, config, token_pixels), passes)


def fitted_person(person: ImageInput, size: tuple[int, int], config: CheckpointConfig, token_pixels: int) -> ImageInput:
    """The person's photo as the model reads it for an output of `size`."""
    on_canvas = config.garment_canvas is not None
    fitted = fit_person(person.image.convert("RGB"), size, token_pixels, on_canvas=on_canvas)
    return replace(person, image=fitted, content_hash=as_person(person.content_hash))


def fitted_garment(garment: ImageInput, count: int, config: CheckpointConfig, token_pixels: int) -> ImageInput:
    """A garment's photo, or a contact sheet of `count` of them, as the model reads it."""
    image = garment.image.convert("RGB")
    if config.garment_canvas is not None:
        return replace(garment, image=fit_canvas(image, config.garment_canvas))
    return replace(garment, image=fit_area(image, min(STOCK_AREA, config.garment_area * count), token_pixels))


def reference_tokens(size: tuple[int, int], garments: int, config: CheckpointConfig, token_pixels: int) -> int:
    """The most reference tokens a request of `garments` garments can bring, the person included."""
    person = size[0] * size[1]
    places = min(garments, max(1, config.max_references - 1))
    if config.garment_canvas is not None:
        each = config.garment_canvas[0] * config.garment_canvas[1] * places
    else:
        each = min(config.garment_area * garments, STOCK_AREA * places)
    return (person + each) // token_pixels**2


def _size(request: TryOnRequest, config: CheckpointConfig, multiple: int) -> tuple[int, int]:
    if request.size is None:
        return target_size(request.person.image.size, config.default_size, multiple)
    width, height = request.size
    least = MIN_TOKENS * multiple
    if width < least or height < least or width % multiple or height % multiple:
        raise RequestError(f"size {width}x{height} must be in multiples of {multiple} and at least {least} a side")
    if width * height > config.max_pixels:
        raise RequestError(f"size {width}x{height} is more than this checkpoint's {config.max_pixels} pixels")
    return width, height


def _pass(instruction: str, placed: Sequence[Placed], config: CheckpointConfig, token_pixels: int) -> Pass:
    garments = tuple(fitted_garment(p.picture, len(p.images), config, token_pixels) for p in placed)
    return Pass(instruction, garments)


def _layer(garment: ImageInput) -> str | None:
    """The garment's layer where the grammar knows it; free words are in the customer's own."""
    return garment.layer if garment.layer in LAYER_WORDS[garment.category or "auto"] else None


def _sequential(request: TryOnRequest, config: CheckpointConfig, token_pixels: int, places: int) -> list[Pass]:
    """Groups of at most `places` garments, what is worn outside last, each told of its own garments only."""
    ordered = sorted(request.garments, key=lambda g: _OUTERMOST.index(g.category) if g.category in _OUTERMOST else -1)
    words = request.instruction.partition(TAIL)[2].removesuffix('"')
    passes = []
    for start in range(0, len(ordered), places):
        group = ordered[start : start + places]
        phrases = [GarmentPhrase(g.category or "auto", _layer(g)) for g in group]
        try:
            told = compose(phrases, words)
        except ValueError as error:
            raise RequestError(str(error)) from error
        passes.append(_pass(told, arrange(group, places), config, token_pixels))
    return passes
