"""Real pictures for the generator: the one thing JSON Schema cannot describe."""

from __future__ import annotations

import base64
import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from service.gateway.shapes.openapi import UPLOADED


def _encoded(colour: str, format: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (48, 64), colour).save(out, format)
    return out.getvalue()


PICTURES = st.sampled_from([_encoded(c, f) for c in ("red", "navy") for f in ("JPEG", "PNG", "WEBP")])

schemathesis.openapi.format("image", PICTURES.map(lambda data: base64.b64encode(data).decode()))
schemathesis.openapi.media_type("image/*", PICTURES)
for kind in UPLOADED:
    schemathesis.openapi.media_type(kind, PICTURES)
