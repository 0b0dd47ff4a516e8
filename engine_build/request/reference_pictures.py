"""Photos to reference pictures a checkpoint reads: scaled, cropped or padded, never stretched.

The stock way is diffusers' for FLUX.2: cap the area, then crop the few pixels beyond a multiple of a token's
side. A checkpoint with a fixed garment canvas lays pictures on it instead. When there are more garments than
a checkpoint has places, several share a contact sheet and the instruction is told where each one is.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine_build.cache_keys import together
from engine_build.engine import ImageInput
from engine_build.errors import RequestError
from engine_build.instruction import TAIL

STOCK_AREA = 1024 * 1024
MAX_ASPECT = 8
MIN_TOKENS = 4
SHEET_GAP = 16

_PLACES = {
    2: ("left", "right"),
    3: ("left", "middle", "right"),
    4: ("top left", "top right", "bottom left", "bottom right"),
    6: ("top left", "top middle", "top right", "bottom left", "bottom middle", "bottom right"),
}


@dataclass(frozen=True)
class Placed:
    """One picture the model sees, which request images it holds (2, 3, ...) and where each is on it."""

    picture: ImageInput
    images: tuple[int, ...]
    places: tuple[str, ...] = ()


def target_size(person: tuple[int, int], default: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Output (width, height): the person's aspect ratio at the default's area, sides multiples of `multiple`.

    Of the neighbouring multiples, the pair nearest in aspect and area. Raises RequestError beyond 8:1.
    """
    check_aspect(person)
    aspect = person[0] / person[1]
    area = default[0] * default[1]
    ideal = math.sqrt(area * aspect)
    floor = max(1, int(ideal // multiple))
    choices = []
    for columns in (floor, floor + 1):
        rows = max(1, round(columns * multiple / aspect / multiple))
        width, height = columns * multiple, rows * multiple
        misfit = abs(math.log(width / height / aspect)) + 0.5 * abs(math.log(width * height / area))
        choices.append((misfit, (width, height)))
    return min(choices)[1]


def fit_area(image: Image.Image, area: int, multiple: int) -> Image.Image:
    """diffusers' way: shrink (Lanczos) to at most `area` pixels, then crop the centre to multiples.

    Raises RequestError for a picture under 4 tokens a side or beyond 8:1.
    """
    check_aspect(image.size)
    width, height = image.size
    if min(width, height) < MIN_TOKENS * multiple:
        raise RequestError(
            f"a picture of {width}x{height} is too small: both sides must be at least {MIN_TOKENS * multiple} pixels"
        )
    if width * height > area:
        scale = math.sqrt(area / (width * height))
        width, height = max(multiple, int(width * scale)), max(multiple, int(height * scale))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return _centre(image, (width // multiple * multiple, height // multiple * multiple))


def fit_cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale (Lanczos) to cover (width, height), crop the centre; for sizes close to the picture's aspect."""
    scale = max(size[0] / image.width, size[1] / image.height)
    scaled = (max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    return _centre(image, size)


def fit_canvas(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale (Lanczos) to fit inside (width, height), centred, the rest in the colour of the edge."""
    check_aspect(image.size)
    scale = min(size[0] / image.width, size[1] / image.height)
    scaled = (
        min(size[0], max(1, round(image.width * scale))),
        min(size[1], max(1, round(image.height * scale))),
    )
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    if scaled == size:
        return image
    canvas = Image.new("RGB", size, edge_colour(image))
    canvas.paste(image, ((size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2))
    return canvas


def fit_person(image: Image.Image, target: tuple[int, int], multiple: int, *, on_canvas: bool) -> Image.Image:
    """The person at the target's size when the aspects agree within two tokens a side.

    Otherwise on a canvas of that size, or, without a canvas, in the photo's own aspect at the target's area.
    """
    check_aspect(image.size)
    scale = max(target[0] / image.width, target[1] / image.height)
    lost = max(image.width * scale - target[0], image.height * scale - target[1])
    if lost <= 2 * multiple:
        return fit_cover(image, target)
    if on_canvas:
        return fit_canvas(image, target)
    return fit_area(image, min(STOCK_AREA, target[0] * target[1]), multiple)


def named_by_pixels(image: Image.Image) -> ImageInput:
    """The picture under a content hash of its pixels, for pictures that did not come with one."""
    rgb = image.convert("RGB")
    return ImageInput(rgb, hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest())


def check_aspect(size: tuple[int, int]) -> None:
    """Raises RequestError for a picture beyond 8:1."""
    width, height = size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RequestError(f"a picture of {width}x{height} is too narrow: at most {MAX_ASPECT}:1")


def edge_colour(image: Image.Image) -> tuple[int, int, int]:
    """The median colour of the outermost pixels."""
    pixels = np.asarray(image.convert("RGB"))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(channel) for channel in np.median(edge, axis=0))
    return red, green, blue


def arrange(garments: Sequence[ImageInput], places: int) -> list[Placed]:
    """The garments as at most `places` pictures: one each, or evenly on contact sheets when there are more.

    Raises RequestError when there is no place at all.
    """
    if not garments:
        return []
    if places < 1:
        raise RequestError("this checkpoint has no room for a garment beside the person")
    if len(garments) <= places:
        return [Placed(garment, (number,)) for number, garment in enumerate(garments, start=2)]
    placed, start = [], 0
    for i in range(places):
        count = (len(garments) - start + places - i - 1) // (places - i)
        members = garments[start : start + count]
        numbers = tuple(range(start + 2, start + 2 + count))
        if count == 1:
            placed.append(Placed(members[0], numbers))
        else:
            spoken = _PLACES[_cells(count)][:count]
            placed.append(Placed(contact_sheet(members), numbers, spoken))
        start += count
    return placed


def contact_sheet(garments: Sequence[ImageInput]) -> ImageInput:
    """Several garments on one white picture, in a grid read row by row, each scaled alike in its cell.

    Its content hash names the members in their order, so the caches know it again, and whose it is.
    """
    cells = _cells(len(garments))
    columns = cells if cells <= 3 else cells // 2
    rows = cells // columns
    side = max(max(g.image.size) for g in garments)
    side = min(side, 1024)
    step = side + SHEET_GAP
    sheet = Image.new("RGB", (columns * step - SHEET_GAP, rows * step - SHEET_GAP), "white")
    for i, garment in enumerate(garments):
        scale = side / max(garment.image.size)
        size = tuple(max(1, round(edge * scale)) for edge in garment.image.size)
        small = garment.image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
        x, y = (i % columns) * step, (i // columns) * step
        sheet.paste(small, (x + (side - size[0]) // 2, y + (side - size[1]) // 2))
    return ImageInput(sheet, together(garment.content_hash for garment in garments))


def retell(instruction: str, placed: Sequence[Placed]) -> str:
    """The instruction with the image numbers, and places on contact sheets, that the model sees.

    "the hat of image 6" becomes "the hat at the right of image 4". The customer's own quoted words stay.
    """
    seen = {
        number: (slot, picture.places[i] if picture.places else "")
        for slot, picture in enumerate(placed, start=2)
        for i, number in enumerate(picture.images)
    }
    if all(number == slot and not place for number, (slot, place) in seen.items()):
        return instruction

    def rewritten(match: re.Match[str]) -> str:
        slot, place = seen.get(int(match["number"]), (int(match["number"]), ""))
        if not place:
            return f"{match['of']}{match['word']} {slot}"
        if match["of"]:
            return f" at the {place} of {match['word']} {slot}"
        return f"{match['word']} {slot} ({place})"

    told, tail, quoted = instruction.partition(TAIL)
    told = re.sub(r"(?P<of>(?: of )?)\b(?P<word>[Ii]mage) (?P<number>\d+)\b", rewritten, told)
    return told + tail + quoted


def _cells(count: int) -> int:
    """The grid a contact sheet of `count` garments is cut into. Raises RequestError beyond the largest."""
    for cells in sorted(_PLACES):
        if count <= cells:
            return cells
    raise RequestError(f"a contact sheet holds at most {max(_PLACES)} garments, not {count}")


def _centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    if (left, top) == (0, 0) and image.size == size:
        return image
    return image.crop((left, top, left + size[0], top + size[1]))
