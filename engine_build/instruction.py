"""The instruction grammar: from categories and layering words to the one sentence the model is told.

Training, the engine's contact sheets and the service's prompt rewriter share this file, so that what a
checkpoint was trained on is what it is asked. It needs nothing but the standard library.

    The person of image 1, maintaining exactly their face, pose and background, wearing the top of image 2
    tucked in, the pants of image 3 and the coat of image 4 open, revealing the top.

Image 1 is the person, images 2 to 7 are the garments. Every garment is assigned once, coats last, because
what they reveal or cover closes the sentence. A customer's own words follow as a quoted tail that cannot end
its own quotation, so they can colour the picture but never move a garment to another image. The wording
follows the try-on prompts published for FLUX.2-class models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_GARMENTS = 6
MAX_WORDS = 2000
MAX_TAIL = 2800
MAX_DESCRIPTION = 60

CATEGORIES: tuple[str, ...] = (
    "tops",
    "pants",
    "skirts",
    "dresses",
    "coats",
    "shoes",
    "bags",
    "hats",
    "auto",
)

NOUNS: Mapping[str, str] = {
    "tops": "top",
    "pants": "pants",
    "skirts": "skirt",
    "dresses": "dress",
    "coats": "coat",
    "shoes": "shoes",
    "bags": "bag",
    "hats": "hat",
    "auto": "garment",
}

LAYER_WORDS: Mapping[str, tuple[str, ...]] = {
    "tops": ("tucked in", "untucked", "under the dress", "over the dress"),
    "pants": ("over the shoes", "inside the shoes"),
    "skirts": ("over the pants",),
    "dresses": ("over the pants",),
    "coats": ("open", "closed"),
    "shoes": (),
    "bags": ("in front", "behind", "left hand", "right hand"),
    "hats": ("over the hair", "tilted"),
    "auto": (),
}

PREFIX = "The person of image 1, maintaining exactly their face, pose and background, wearing "
TAIL = ' The customer adds: "'

_SAID: Mapping[str, str] = {
    "in front": "in front of the arm",
    "behind": "behind the arm",
    "left hand": "in the left hand",
    "right hand": "in the right hand",
}
_ORDER = ("tops", "dresses", "pants", "skirts", "shoes", "hats", "bags", "auto", "coats")
_UNDER_COAT = ("tops", "dresses")
_ASSIGNMENT = re.compile(
    r"\bthe (?:[^,\"]*? )??(top|pants|skirt|dress|coat|shoes|bag|hat|garment)"
    r"(?: at the ([a-z -]+?))? of image (\d+)"
)


@dataclass(frozen=True)
class GarmentPhrase:
    """One garment as it is spoken of.

    `category` is one of CATEGORIES and `layer` one of LAYER_WORDS[category] or None. `description` is a few
    words in front of the noun ("red striped"). A garment is image 2, 3, ... by its position unless `image`
    says otherwise; on a contact sheet several garments share an `image` and each has a `place` on it
    ("top left").
    """

    category: str
    layer: str | None = None
    description: str | None = None
    image: int | None = None
    place: str | None = None


@dataclass(frozen=True)
class Assignment:
    """One "the hat at the top left of image 3" read back from an instruction."""

    noun: str
    image: int
    place: str | None = None


def compose(garments: Sequence[GarmentPhrase], words: str = "") -> str:
    """One sentence that dresses the person of image 1 in `garments`, the customer's words as a quoted tail.

    Deterministic. Raises ValueError for no or more than six garments, an unknown category or layer word, an
    image number below 2, or two garments of one image that are not told apart by their places.
    """
    numbered = _numbered(garments)
    spoken = sorted(numbered, key=lambda garment: _ORDER.index(garment.category))
    parts = [_said(garment, numbered) for garment in spoken]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    quoted = clean_words(words, MAX_TAIL)
    return f"{PREFIX}{listed}." + (f'{TAIL}{quoted}"' if quoted else "")


def assignments(instruction: str) -> list[Assignment]:
    """Every garment the instruction assigns to an image, as spoken; the customer's tail is not read."""
    return [
        Assignment(noun, int(image), place or None)
        for noun, place, image in _ASSIGNMENT.findall(instruction.partition(TAIL)[0])
    ]


def clean_words(words: str, limit: int = MAX_WORDS) -> str:
    """A customer's words as one safe line: any language and emoji stay, at most `limit` characters.

    Control, bidirectional-override and invisible tag characters, lone surrogates and noncharacters go; the
    joiners that emoji and several scripts need stay. Double quotes of every kind become single ones, so the
    text cannot end the quotation it is placed in.
    """
    kept = []
    for char in unicodedata.normalize("NFC", words):
        kind = unicodedata.category(char)
        if char in _DOUBLE_QUOTES:
            kept.append("'")
        elif char.isspace() or kind in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif char in "\u200c\u200d" or not (kind in ("Cf", "Cs", "Co") or _is_noncharacter(char)):
            kept.append(char)
    return " ".join("".join(kept).split())[:limit].rstrip(" \u200c\u200d")


def parse_layers(words: str, categories: Sequence[str]) -> tuple[str | None, ...]:
    """The layer word each garment gets from free English words ("keep the coat open, tuck in the shirt").

    One entry per category, None where nothing was said. In a clause that names garments a wish counts only
    for those, in one that names none only when it is short ("tucked in", "keep it open"). The last wish said
    wins; a negation ("don't tuck it in") turns a wish into its opposite.
    """
    found: dict[str, str] = {}
    for clause in _CLAUSES.split(clean_words(words).lower().replace("\u2019", "'")):
        named = {category for category, nouns in _NAMES.items() if nouns.search(clause)}
        spoken_of = categories if len(clause.split()) <= _SHORT_CLAUSE else ()
        for category, layer, cue, opposite in _CUES:
            if category not in categories or category not in (named or spoken_of):
                continue
            match = cue.search(clause)
            if match is None:
                continue
            if not _NEGATION.search(clause[: match.start()]):
                found[category] = layer
            elif opposite is not None:
                found[category] = opposite
    return tuple(found.get(category) for category in categories)


def _numbered(garments: Sequence[GarmentPhrase]) -> list[GarmentPhrase]:
    if not 1 <= len(garments) <= MAX_GARMENTS:
        raise ValueError(f"an instruction takes 1 to {MAX_GARMENTS} garments, not {len(garments)}")
    numbered = []
    taken: set[tuple[int, str | None]] = set()
    for position, garment in enumerate(garments, start=2):
        if garment.category not in CATEGORIES:
            raise ValueError(f"unknown category {garment.category!r}: one of {', '.join(CATEGORIES)}")
        if garment.layer is not None and garment.layer not in LAYER_WORDS[garment.category]:
            known = ", ".join(LAYER_WORDS[garment.category]) or "none"
            raise ValueError(f"unknown layer {garment.layer!r} for {garment.category}: known are {known}")
        image = position if garment.image is None else garment.image
        place = _plain(garment.place)
        if image < 2:
            raise ValueError(f"image {image} cannot be a garment: image 1 is the person")
        if (
            (image, place) in taken
            or (place and (image, None) in taken)
            or (place is None and any(image == other for other, _ in taken))
        ):
            raise ValueError(f"two garments on image {image} need two different places")
        taken.add((image, place))
        numbered.append(
            GarmentPhrase(garment.category, garment.layer, _plain(garment.description), image, place)
        )
    return numbered


def _said(garment: GarmentPhrase, all_garments: Sequence[GarmentPhrase]) -> str:
    described = f"{garment.description} " if garment.description else ""
    place = f" at the {garment.place}" if garment.place else ""
    phrase = f"the {described}{NOUNS[garment.category]}{place} of image {garment.image}"
    if garment.layer is None:
        return phrase
    if garment.category != "coats":
        return f"{phrase} {_SAID.get(garment.layer, garment.layer)}"
    under = [NOUNS[name] for name in _UNDER_COAT if any(other.category == name for other in all_garments)]
    covered = " and ".join(f"the {noun}" for noun in under)
    if garment.layer == "open":
        return f"{phrase} open, revealing {covered or 'what is underneath'}"
    return f"{phrase} closed over {covered}" if covered else f"{phrase} closed"


def _plain(text: str | None) -> str | None:
    """A short description that cannot hold an assignment of its own: no punctuation, no "image"."""
    if not text:
        return None
    kept = "".join(
        char if char.isalnum() or unicodedata.combining(char) or char in "'-" else " " for char in text
    )
    spoken = [word for word in kept.split() if word.lower() not in ("image", "images", "of")]
    return " ".join(spoken)[:MAX_DESCRIPTION].strip() or None


def _is_noncharacter(char: str) -> bool:
    return (ord(char) & 0xFFFE) == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF


def _names(nouns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{nouns})\b")


_DOUBLE_QUOTES = frozenset('"\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb\u301d\u301e\u301f\uff02')
_SHORT_CLAUSE = 4
_CLAUSES = re.compile(r"[.,;:!?]|\b(?:and|but|then|while|with)\b")
_NEGATION = re.compile(r"(?:\bnot|n't|\bdont|\bnever|\bno|\bwithout)\b")
_NAMES: Mapping[str, re.Pattern[str]] = {
    "tops": _names("tops?|(?:t-?|under)?shirts?|tees?|blouses?|sweaters?|jumpers?|pullovers?|hoodies?|knit"),
    "pants": _names("pants|trousers|jeans|shorts|leggings|chinos"),
    "skirts": _names("skirts?"),
    "dresses": _names("dress|dresses|gowns?"),
    "coats": _names("coats?|jackets?|blazers?|parkas?|cardigans?|overcoats?|trench"),
    "shoes": _names("shoes?|boots?|sneakers?|heels?|sandals?|trainers?"),
    "bags": _names("bags?|handbags?|purses?|totes?|backpacks?|clutch"),
    "hats": _names("hats?|caps?|beanies?|berets?"),
}


def _cue(
    category: str, layer: str, pattern: str, opposite: str | None = None
) -> tuple[str, str, re.Pattern[str], str | None]:
    return category, layer, re.compile(pattern), opposite


_CUES = (
    _cue("tops", "tucked in", r"\btuck(?:ed|ing)?\b", "untucked"),
    _cue("tops", "untucked", r"\b(?:untuck(?:ed)?|hang(?:ing)? (?:out|loose|over)|leave .{0,24}\bout\b)"),
    _cue(
        "tops",
        "under the dress",
        r"\b(?:under(?:neath)?|beneath) (?:the |a )?(?:dress|gown)\b",
        "over the dress",
    ),
    _cue("tops", "over the dress", r"\bover (?:the |a )?(?:dress|gown)\b", "under the dress"),
    _cue("pants", "over the shoes", r"\bover (?:the )?(?:shoes|boots|sneakers)\b", "inside the shoes"),
    _cue(
        "pants",
        "inside the shoes",
        r"\b(?:in|into|inside) (?:the )?(?:shoes|boots|sneakers)\b",
        "over the shoes",
    ),
    _cue("skirts", "over the pants", r"\bover (?:the )?(?:pants|trousers|jeans|leggings)\b"),
    _cue("dresses", "over the pants", r"\bover (?:the )?(?:pants|trousers|jeans|leggings)\b"),
    _cue(
        "coats",
        "closed",
        r"\b(?:closed?|shut|(?:buttoned|zipped|done|button|zip|do)\b.{0,24}\bup|buttoned|zipped)\b",
        "open",
    ),
    _cue("coats", "open", r"\b(?:open(?:ed)?|unbutton(?:ed)?|unzip(?:ped)?|undone)\b", "closed"),
    _cue("bags", "in front", r"\bin front\b|\bbefore the arm\b", "behind"),
    _cue("bags", "behind", r"\bbehind\b", "in front"),
    _cue("bags", "left hand", r"\bleft(?: hand| arm)\b", "right hand"),
    _cue("bags", "right hand", r"\bright(?: hand| arm)\b", "left hand"),
    _cue("hats", "over the hair", r"\b(?:over|on) (?:the |her |his |their |my )?hair\b"),
    _cue("hats", "tilted", r"\b(?:tilt(?:ed)?|askew|at an angle)\b"),
)
