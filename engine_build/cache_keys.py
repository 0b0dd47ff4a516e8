"""What the engine's caches know pictures by: names made of content hashes, and the keys that hold them.

    name      hash of a photo's bytes             a1b2
              the same photo, fitted as a person  a1b2:person
              several photos on one sheet         a1b2+c3d4
              a pass's picture, of this person    9e8f+a1b2
    latents   (name, (width, height))
    K/V       (checkpoint, name, (width, height), ((adapter's hash, scale), …))

Keys name content, never slots or requests. From each of them one can tell whose photos went into it, so that erasing
a photo also erases whatever was made from it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable

Key = tuple[Hashable, ...]
Size = tuple[int, int]
Adapters = tuple[tuple[str, float], ...]  # content hash and scale of each


def as_person(name: str) -> str:
    """A photo fitted as the person of a request, which other sizes and crops tell from the same photo as a garment."""
    return f"{name}:person"


def together(names: Iterable[str]) -> str:
    """One picture made from several, in their order."""
    return "+".join(names)


def latents_key(name: str, size: Size) -> Key:
    """Latents of a picture as it is fed to the autoencoder."""
    return (name, size)


def reference_key(checkpoint: str, name: str, size: Size, adapters: Adapters = ()) -> Key:
    """Keys and values of a reference, which depend on the weights too, and on the adapters beside them."""
    return (checkpoint, name, size, adapters)


def made_from(key: Hashable, hashes: Collection[str]) -> bool:
    """Whether a key of latents or K/V names one of these content hashes among its parts."""
    parts = key if isinstance(key, tuple) else (key,)
    return any(source in hashes for part in parts if isinstance(part, str) for source in re.split(r"[:+]", part))
