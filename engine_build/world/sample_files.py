"""Procedural samples on disk: a person, garments, the truth, region maps and the request that asks for it.

`write_samples` is `changeroom samples`; `write_gallery` makes the studio page's people, garments and outfits.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from engine_build.instruction import MAX_GARMENTS
from engine_build.world.instructions import instruction_of
from engine_build.world.render import Rendered, render
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import REGION_OF

REGIONS = {"background": 0, "skin": 1, "face": 2, "hair": 3, **REGION_OF}


def picture(x: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an RGB picture."""
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def sample_row(drawn: Rendered, garments: int, result: Tensor) -> Image.Image:
    """Person, garments, result (3, H, W) and truth of a one-scene drawing, side by side."""
    height, width = result.shape[1:]
    side = height // 2
    row = Image.new("RGB", (3 * width + 3 * side, height), (255, 255, 255))
    row.paste(picture(drawn.person[0]), (0, 0))
    for i in range(garments):
        shot = picture(drawn.garments[0, i]).resize((side, side), Image.Resampling.LANCZOS)
        row.paste(shot, (width + i % 3 * side, i // 3 * side))
    row.paste(picture(result), (width + 3 * side, 0))
    row.paste(picture(drawn.target[0]), (2 * width + 3 * side, 0))
    return row


def write_samples(folder: Path, seed: int = 0, garments: int = 3, height: int = 96) -> Path:
    """Write one scene; returns the path of its request.json. Raises ValueError unless garments are 1 to 6."""
    if not 1 <= garments <= MAX_GARMENTS:
        raise ValueError(f"garments must be 1 to {MAX_GARMENTS}, not {garments}")
    folder.mkdir(parents=True, exist_ok=True)
    scene = sample_scene(HELD_OUT_SEED + seed, garments)
    drawn = render([scene], height)
    picture(drawn.person[0]).save(folder / "person.png")
    picture(drawn.target[0]).save(folder / "truth.png")
    Image.fromarray(drawn.person_regions[0].numpy()).save(folder / "person_regions.png")
    Image.fromarray(drawn.target_regions[0].numpy()).save(folder / "truth_regions.png")
    rows = []
    for i, garment in enumerate(scene.garments):
        name = f"garment_{i + 1}_{garment.category}.png"
        picture(drawn.garments[0, i]).save(folder / name)
        rows.append(
            {
                "file": name,
                "category": garment.category,
                "layer": garment.layer_words,
                "description": garment.description,
            }
        )
    request = {
        "person": "person.png",
        "garments": rows,
        "instruction": instruction_of(scene),
        "seed": seed,
        "truth": "truth.png",
        "regions": {"labels": REGIONS, "person": "person_regions.png", "truth": "truth_regions.png"},
    }
    path = folder / "request.json"
    path.write_text(json.dumps(request, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def write_gallery(folder: Path, height: int = 96) -> Path:
    """Write people, garments and outfits with manifest.json; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    people, garments, outfits = [], [], []
    for i, count in enumerate((4, 3, 2, 5, 3, 4)):
        scene = sample_scene(HELD_OUT_SEED + 7_000 + i, count)
        drawn = render([scene], height)
        person = f"person-{i + 1}.png"
        picture(drawn.person[0]).save(folder / person)
        people.append({"file": person, "label": f"Person {i + 1}"})
        worn = []
        for j, garment in enumerate(scene.garments):
            name = f"{garment.category}-{i + 1}.png"
            picture(drawn.garments[0, j]).save(folder / name)
            label = garment.description[:1].upper() + garment.description[1:]
            garments.append({"file": name, "category": garment.category, "label": label})
            worn.append({"file": name, "category": garment.category, "layer": garment.layer_words})
        outfits.append({"person": person, "garments": worn, "prompt": ""})
    manifest = folder / "manifest.json"
    value = {"people": people, "garments": garments, "outfits": outfits}
    manifest.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest
