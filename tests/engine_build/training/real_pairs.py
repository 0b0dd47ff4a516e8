"""Tiny folders in the layouts of real data sets: drawn people with a garment on, and the garment alone."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (96, 128)
BODY = (30, 40, 66, 84)
CIHP_TOP, CIHP_ARM, DRESSCODE_PANTS, DRESSCODE_SKIRT, DRESSCODE_DRESS, DRESSCODE_TOP = 5, 14, 6, 5, 7, 4


def person(number: int, colour: str = "") -> Image.Image:
    """A photo of someone in a garment; other numbers are other people in other rooms."""
    rng = random.Random(f"person/{number}")
    image = Image.new("RGB", SIZE, _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.randrange(96), rng.randrange(128)
        draw.rectangle((x, y, x + rng.randrange(8, 40), y + rng.randrange(8, 40)), fill=_colour(rng))
    draw.rectangle(BODY, fill=colour or garment_colour(number))
    draw.ellipse((38, 12, 58, 38), fill=(224, 172, 140))
    return image


def garment(number: int, colour: str = "") -> Image.Image:
    """The same garment on a white ground."""
    image = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(image).rectangle((20, 24, 76, 100), fill=colour or garment_colour(number))
    return image


def garment_colour(number: int) -> str:
    """A colour of each number."""
    return "#" + "".join(f"{level:02x}" for level in random.Random(f"garment/{number}").choices(range(20, 220), k=3))


def parse(label: int, box: tuple[int, int, int, int] = BODY) -> Image.Image:
    """A map of labels in a palette, as the data sets have them."""
    image = Image.new("P", SIZE, 0)
    image.putpalette([value for i in range(256) for value in (i * 7 % 256, i * 13 % 256, i * 29 % 256)])
    ImageDraw.Draw(image).rectangle(box, fill=label)
    ImageDraw.Draw(image).rectangle((22, 40, 29, 80), fill=CIHP_ARM)
    return image


def write_viton_hd(folder: Path, count: int = 4, agnostic: bool = False) -> Path:
    """`count` pairs under train/ with train_pairs.txt, which pairs people with others' garments, as lists do."""
    base = folder / "train"
    for name in ("image", "cloth", "image-parse-v3", *(("agnostic-v3.2", "agnostic-mask") if agnostic else ())):
        (base / name).mkdir(parents=True)
    rows = []
    for i in range(count):
        name = f"{i:05d}_00"
        person(i).save(base / "image" / f"{name}.jpg", quality=95)
        garment(i).save(base / "cloth" / f"{name}.jpg", quality=95)
        parse(CIHP_TOP).save(base / "image-parse-v3" / f"{name}.png")
        if agnostic:
            mask = Image.new("L", SIZE, 0)
            ImageDraw.Draw(mask).rectangle(BODY, fill=255)
            mask.save(base / "agnostic-mask" / f"{name}_mask.png")
            hidden = person(i)
            hidden.paste((128, 128, 128), mask=mask)
            hidden.save(base / "agnostic-v3.2" / f"{name}.jpg", quality=95)
        rows.append(f"{name}.jpg {(i + 1) % count:05d}_00.jpg")
    (folder / "train_pairs.txt").write_text("\n".join(rows) + "\n")
    return folder


def write_dresscode(folder: Path) -> Path:
    """A dress, a top, trousers and a skirt, with lists of pairs and maps of labels."""
    rows = (("dresses", 0, DRESSCODE_DRESS), ("upper_body", 1, DRESSCODE_TOP))
    rows += (("lower_body", 2, DRESSCODE_PANTS), ("lower_body", 3, DRESSCODE_SKIRT))
    for part, i, label in rows:
        base = folder / part
        for name in ("images", "label_maps"):
            (base / name).mkdir(parents=True, exist_ok=True)
        person(i + 50).save(base / "images" / f"{i:06d}_0.jpg", quality=95)
        garment(i + 50).save(base / "images" / f"{i:06d}_1.jpg", quality=95)
        parse(label).save(base / "label_maps" / f"{i:06d}_4.png")
        with (base / "train_pairs.txt").open("a") as file:
            file.write(f"{i:06d}_0.jpg\t{i:06d}_1.jpg\n")
    return folder


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
