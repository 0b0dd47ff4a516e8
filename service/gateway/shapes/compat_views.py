"""What callers of the OpenAI and FASHN shapes see, as pydantic models."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from service.gateway.shapes.views import EXAMPLE_ID, View
from service.jobs import fashn_words
from service.jobs.schemas import OutputFormat


class OpenAIImage(View):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class OpenAITokens(View):
    image_tokens: int
    text_tokens: int


class OpenAIUsage(View):
    """Tokens as admission counts them: the packed length of the request, 16 x 16 pixels of the result a token."""

    input_tokens: int
    input_tokens_details: OpenAITokens
    output_tokens: int
    output_tokens_details: OpenAITokens
    total_tokens: int


class OpenAIImages(View):
    """The answer of OpenAI's image edits endpoint. `safety_identifier` is the request's own, or its `user`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "created": 1795287600,
                    "data": [{"b64_json": "/9j/4AAQSkZJRg…", "revised_prompt": "The person of image 1, …"}],
                    "background": "opaque",
                    "output_format": "png",
                    "quality": "high",
                    "size": "768x1024",
                    "usage": {
                        "input_tokens": 7680,
                        "input_tokens_details": {"image_tokens": 7168, "text_tokens": 512},
                        "output_tokens": 3072,
                        "output_tokens_details": {"image_tokens": 3072, "text_tokens": 0},
                        "total_tokens": 10752,
                    },
                }
            ]
        }
    )

    created: int
    data: list[OpenAIImage]
    background: Literal["opaque"]
    output_format: OutputFormat
    quality: str
    size: str
    usage: OpenAIUsage
    safety_identifier: str | None = None


class FashnRun(View):
    model_config = ConfigDict(json_schema_extra={"examples": [{"id": EXAMPLE_ID, "error": None}]})

    id: str
    error: str | None = None


class FashnError(View):
    name: fashn_words.Failure
    message: str


class FashnStatus(View):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": EXAMPLE_ID,
                    "status": "completed",
                    "output": [f"http://localhost:8000/v1/try-ons/{EXAMPLE_ID}/image?token=1795374000.bWFj"],
                    "error": None,
                }
            ]
        }
    )

    id: str
    status: fashn_words.Status
    output: list[str] | None = None
    error: FashnError | None = None
