"""What callers see of the loaded models, as pydantic models in the shape of the OpenAI list."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.config import JsonDict

from service.gateway.shapes.views import View
from service.jobs.schemas import EngineFacts

NANO: JsonDict = {
    "id": "nano",
    "object": "model",
    "created": 0,
    "owned_by": "changeroom",
    "backend": "torch",
    "device": "cpu",
    "workers": 1,
    "reference_attention": "isolated",
    "max_references": 7,
    "default_size": "72x96",
    "max_pixels": 27648,
    "size_multiple": 8,
    "default_steps": 8,
    "max_steps": 32,
    "token_budget": 2048,
    "note": "knows only its illustrated world",
}


class ModelView(View, EngineFacts):
    """A loaded model, as its workers announce it, in the OpenAI list's shape with our facts beside.

    `token_budget` bounds the tokens of one forward, and so how many try-ons run together.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [NANO]})

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "changeroom"
    workers: int
    default_size: str


class ModelList(View):
    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [NANO]}]})

    object: str = "list"
    data: list[ModelView]
