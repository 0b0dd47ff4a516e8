"""What the OpenAPI document says of `POST /v1/images/edits`: OpenAI's fields beside the pictures, and its events."""

from __future__ import annotations

from typing import Any

from engine_build.instruction import MAX_WORDS
from service.gateway.shapes.request import MAX_SEED

FIELDS: dict[str, Any] = {
    "prompt": {"type": "string", "maxLength": MAX_WORDS, "examples": ["keep the coat open"]},
    "model": {
        "type": "string",
        "examples": ["changeroom"],
        "description": "`changeroom` for whatever is loaded, or an id of GET /v1/models (404 for another).",
    },
    "n": {"type": "integer", "enum": [1]},
    "size": {
        "type": "string",
        "pattern": "^(auto|[0-9]{2,5}x[0-9]{2,5})$",
        "default": "auto",
        "examples": ["auto"],
        "description": "`auto`, or width x height within `max_pixels` and `size_multiple` of GET /v1/models.",
    },
    "output_format": {"type": "string", "enum": ["png", "jpeg", "webp"], "default": "png"},
    "response_format": {"type": "string", "enum": ["b64_json", "url"], "default": "b64_json"},
    "quality": {
        "type": "string",
        "enum": ["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"],
        "default": "auto",
        "description": "Of JPEG and WebP. `auto` and `hd` are `high`, `standard` is `medium`.",
    },
    "output_compression": {
        "type": "integer",
        "minimum": 0,
        "maximum": 100,
        "description": "JPEG and WebP quality to the number, instead of `quality`; with png only 100.",
    },
    "background": {"type": "string", "enum": ["auto", "opaque"], "default": "auto"},
    "stream": {"type": "boolean", "default": False, "description": "Answer with server-sent events."},
    "partial_images": {
        "type": "integer",
        "minimum": 0,
        "maximum": 3,
        "default": 0,
        "description": "Previews on the way, small JPEGs; only with `stream`.",
    },
    "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
    "user": {"type": "string", "maxLength": 512, "description": "As `safety_identifier`, which goes first."},
    "safety_identifier": {
        "type": "string",
        "maxLength": 512,
        "description": "Yours for an end user: told again in the answer, kept in the try-on's metadata.",
    },
    "input_fidelity": {"type": "string", "enum": ["high"], "description": "There is no other."},
    "moderation": {"type": "string", "enum": ["auto", "low"], "description": "Nothing is moderated here."},
}

EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event; `data` is JSON with `type`, `b64_json` and the fields of OpenAI's events.",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": ["image_edit.partial_image", "image_edit.completed", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}

EVENTS_EXAMPLE = (
    'event: image_edit.partial_image\ndata: {"type":"image_edit.partial_image","partial_image_index":0,'
    '"b64_json":"…","created_at":1795287600,"background":"opaque","output_format":"jpeg","quality":"high",'
    '"size":"auto"}\n\n'
)
