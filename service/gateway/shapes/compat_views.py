"""What callers of the OpenAI and FASHN shapes see, as pydantic models."""

from __future__ import annotations

from pydantic import ConfigDict

from service.gateway.shapes.views import EXAMPLE_ID, View
from service.jobs import fashn_words


class OpenAIImage(View):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class OpenAIImages(View):
    """The answer of OpenAI's image edits endpoint."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "created": 1795287600,
                    "data": [{"b64_json": "/9j/4AAQSkZJRg…", "revised_prompt": "The person of image 1, …"}],
                    "output_format": "jpeg",
                    "size": "768x1024",
                }
            ]
        }
    )

    created: int
    data: list[OpenAIImage]
    output_format: str
    size: str


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
