"""Pictures to send: the bundled procedural people and clothes, the same at phone size, or a folder of yours."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import get_args

from PIL import Image, ImageChops, ImageOps

from loadtests.traffic.arrivals import Arrival
from service.jobs.schemas import Category

PHONE_PIXELS = (1224, 1632)
SLOTS = (("tops",), ("pants", "skirts"), ("coats",), ("shoes",), ("bags",), ("hats",))
TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
BOUNDARY = "changeroom-loadtest"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class TrafficPhoto:
    """An encoded picture, its media type and what it shows (a garment category, or person)."""

    data: bytes
    media_type: str
    shows: str


@dataclass(frozen=True)
class Wardrobe:
    """The pictures a load test draws from: at least one person and one garment."""

    people: tuple[TrafficPhoto, ...]
    garments: tuple[TrafficPhoto, ...]

    def __post_init__(self) -> None:
        if not self.people or not self.garments:
            raise ValueError("a load test needs at least one person and one garment photo")

    def body(self, arrival: Arrival, rng: random.Random) -> bytes:
        """The multipart body of one try-on: one garment a slot (top, bottom, coat, ...) as long as there are."""
        outfit = self._outfit(arrival.garments, rng)
        fields = {
            "categories": ",".join(garment.shows for garment in outfit),
            "seed": str(rng.randrange(2**32)),
            "priority": arrival.priority,
        }
        if arrival.size is not None:
            fields["size"] = arrival.size
        parts = [_field(name, value) for name, value in fields.items()]
        parts.append(_file("person", rng.choice(self.people)))
        parts += [_file("garment", garment) for garment in outfit]
        return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()

    def _outfit(self, count: int, rng: random.Random) -> list[TrafficPhoto]:
        slots = [[garment for garment in self.garments if garment.shows in slot] for slot in SLOTS]
        filled = [slot for slot in slots if slot]
        rng.shuffle(filled)
        outfit = [rng.choice(slot) for slot in filled[:count]]
        return outfit + rng.choices(self.garments, k=count - len(outfit))


def _field(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def _file(name: str, photo: TrafficPhoto) -> bytes:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        f"Content-Type: {photo.media_type}\r\n\r\n"
    )
    return head.encode() + photo.data + b"\r\n"


def bundled() -> Wardrobe:
    """The sample people and clothes of the studio page: procedural drawings, a few kilobytes each."""
    folder = files("service") / "gateway" / "studio" / "samples"
    manifest = json.loads((folder / "manifest.json").read_text())

    def photo(entry: dict[str, str], shows: str) -> TrafficPhoto:
        return TrafficPhoto((folder / entry["file"]).read_bytes(), TYPES[Path(entry["file"]).suffix], shows)

    return Wardrobe(
        tuple(photo(entry, "person") for entry in manifest["people"]),
        tuple(photo(entry, entry["category"]) for entry in manifest["garments"]),
    )


def phone_sized(wardrobe: Wardrobe) -> Wardrobe:
    """The same pictures as 2-megapixel JPEGs with sensor-like noise, about as heavy as a phone's."""
    return Wardrobe(
        tuple(_enlarged(photo, seed) for seed, photo in enumerate(wardrobe.people)),
        tuple(_enlarged(photo, 1000 + seed) for seed, photo in enumerate(wardrobe.garments)),
    )


def _enlarged(photo: TrafficPhoto, seed: int) -> TrafficPhoto:
    image = ImageOps.fit(Image.open(io.BytesIO(photo.data)).convert("RGB"), PHONE_PIXELS, Image.Resampling.BICUBIC)
    grain = Image.frombytes("L", PHONE_PIXELS, random.Random(seed).randbytes(PHONE_PIXELS[0] * PHONE_PIXELS[1]))
    noise = grain.point([value // 12 for value in range(256)])
    out = io.BytesIO()
    ImageChops.add(image, Image.merge("RGB", [noise] * 3), 1.0, -10).save(out, "JPEG", quality=92)
    return TrafficPhoto(out.getvalue(), "image/jpeg", photo.shows)


def folder_of(path: Path) -> Wardrobe:
    """Photos of a folder: `person*` are people; the others garments, of the category their name begins with.

    Raises ValueError when people or garments are missing, OSError when the folder cannot be read.
    """
    known = get_args(Category)
    people, garments = [], []
    for file in sorted(path.iterdir()):
        media_type = TYPES.get(file.suffix.lower())
        if media_type is None:
            continue
        name = file.stem.lower()
        if name.startswith("person"):
            people.append(TrafficPhoto(file.read_bytes(), media_type, "person"))
        else:
            shows = next((category for category in known if name.startswith(category)), "auto")
            garments.append(TrafficPhoto(file.read_bytes(), media_type, shows))
    if not people or not garments:
        raise ValueError(f"{path}: put person*.jpg and one or more garments (tops*.jpg, coats*.png ...) there")
    return Wardrobe(tuple(people), tuple(garments))


def wardrobe(name: str) -> Wardrobe:
    """`small`, `phone`, or the path of a folder."""
    if name == "small":
        return bundled()
    if name == "phone":
        return phone_sized(bundled())
    return folder_of(Path(name))
