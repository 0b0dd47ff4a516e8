"""A small judged set of drawn pictures, and two systems' results for it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

CATEGORIES = ("tops", "pants", "coats", "shoes", "bags", "hats")
COLOURS = ("#c0563b", "#33506e", "#8a7a5c", "#3c6e57", "#b08a3e", "#704a78")


def draw_set(root: Path, garments: tuple[int, ...], size: tuple[int, int] = (90, 120)) -> Path:
    """Writes root/set (one sample a number of garments), root/a and root/b with a result a sample; returns root/set."""
    for name in ("set", "a", "b"):
        (root / name).mkdir(parents=True)
    rows = []
    for i, count in enumerate(garments):
        files = [f"{i}_{j}.png" for j in range(count)]
        for j, file in enumerate(files):
            drawn(COLOURS[j], "#f4f1ea", (60, 60), i).save(root / "set" / file)
        for folder, name, colour in (("set", f"{i}_person.png", "#bbbbbb"), ("set", f"{i}_truth.png", COLOURS[0])):
            drawn(colour, "#e7e2d6", size, i).save(root / folder / name)
        drawn(COLOURS[0], "#e7e2d6", size, i, "A").save(root / "a" / f"s{i}.png")
        drawn(COLOURS[1], "#e7e2d6", size, i, "B").save(root / "b" / f"s{i}.png")
        references = [{"category": CATEGORIES[j], "sub_style": "plain", "file": file} for j, file in enumerate(files)]
        words = f"wearing {count} garments </script> <!-- no. {i}"
        row = {"id": f"s{i}", "person": f"{i}_person.png", "references": references, "instruction": words}
        rows.append({**row, "truth": f"{i}_truth.png"})
    (root / "set" / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "set"


def drawn(colour: str, ground: str, size: tuple[int, int], seed: int, letter: str = "") -> Image.Image:
    """A figure of one colour; `seed` moves it, so that no two pictures are alike."""
    picture = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((size[0] // 4 + seed, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4 + seed), fill=colour)
    pen.text((2, 2), letter, fill="#000000")
    return picture
