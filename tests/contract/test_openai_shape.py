"""`/v1/images/edits` compared with the openai package's own types, field by field."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import openai
import pytest
from gateway_live import INFO, Live, picture
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent, ImagesResponse
from openai.types.image_edit_params import ImageEditParamsBase
from PIL import Image

from service.gateway.routes.openai_form import KNOWN
from service.gateway.shapes import edits
from service.jobs.schemas import JobError

PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")
FILES = [("image[]", ("p.jpg", PERSON, "image/jpeg")), ("image[]", ("s.jpg", SHIRT, "image/jpeg"))]
# Fields of other models and formats of OpenAI's: refused as unknown, with the list of those there are.
OTHERS = {"complexity", "frame_count", "frame_duration_ms", "markup", "svg"}


@pytest.fixture
def images(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="unused", base_url=live.url + "/v1", max_retries=0) as client:
        yield client


def edit(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/images/edits", files=FILES, data=fields)


def opened(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_every_parameter_of_the_package_is_known_or_refused_by_name() -> None:
    theirs = set(ImageEditParamsBase.__annotations__) | {"stream"}
    assert theirs - {"image", "mask"} - set(KNOWN) == OTHERS
    assert set(KNOWN) - theirs == {"seed", "moderation"}
    assert set(KNOWN) == set(edits.FIELDS), "the document tells every field that is read, and no other"


def test_the_answer_has_the_fields_and_values_of_the_package(http: httpx.Client) -> None:
    told = edit(http, prompt="").json()
    read = ImagesResponse.model_validate(told, strict=True)
    assert set(told) == {"created", "data", "background", "output_format", "quality", "size", "usage"}
    assert set(told) <= set(ImagesResponse.model_fields)
    for name in ("background", "output_format", "quality"):
        (values,) = (each for each in get_args(ImagesResponse.model_fields[name].annotation) if get_args(each))
        assert told[name] in get_args(values), name
    assert (read.background, read.output_format, read.quality, read.size) == ("opaque", "png", "high", "192x256")
    assert read.data and opened(read.data[0].b64_json or "").format == "PNG"
    usage = read.usage
    assert usage is not None and usage.output_tokens_details is not None
    assert usage.input_tokens + usage.output_tokens == usage.total_tokens
    assert usage.input_tokens == usage.input_tokens_details.image_tokens + usage.input_tokens_details.text_tokens
    assert usage.output_tokens == 192 * 256 // 256 == usage.output_tokens_details.image_tokens


@pytest.mark.parametrize(
    ("asked", "told"),
    [("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "xhigh"), ("max", "max"), ("auto", "high"),
     ("standard", "medium"), ("hd", "high"), ("", "high")],
)  # fmt: skip
def test_quality_is_told_in_the_words_of_the_package(http: httpx.Client, asked: str, told: str) -> None:
    answer = edit(http, quality=asked, output_format="webp").json()
    assert answer["quality"] == told and answer["output_format"] == "webp"
    assert opened(answer["data"][0]["b64_json"]).format == "WEBP"


def test_an_end_users_identifier_comes_back(live: Live, http: httpx.Client) -> None:
    assert edit(http, user="u-1").json()["safety_identifier"] == "u-1"
    both = edit(http, user="u-1", safety_identifier="s-1").json()
    assert both["safety_identifier"] == "s-1"
    long = edit(http, user="u" * 513)
    assert long.status_code == 400 and long.json()["error"]["param"] == "user"


REFUSED = [
    ({"n": "2"}, 400, "n", "unsupported-parameter"),
    ({"background": "transparent"}, 400, "background", "unsupported-parameter"),
    ({"input_fidelity": "low"}, 400, "input_fidelity", "unsupported-parameter"),
    ({"partial_images": "1"}, 400, "partial_images", "unsupported-parameter"),
    ({"partial_images": "4", "stream": "true"}, 400, "partial_images", "invalid-field"),
    ({"stream": "true", "response_format": "url"}, 400, "response_format", "unsupported-parameter"),
    ({"stream": "perhaps"}, 400, "stream", "unsupported-parameter"),
    ({"output_compression": "50"}, 400, "output_compression", "unsupported-parameter"),
    ({"output_compression": "101", "output_format": "jpeg"}, 400, "output_compression", "invalid-field"),
    ({"quality": "best"}, 400, "quality", "invalid-field"),
    ({"output_format": "svg"}, 400, "output_format", "invalid-field"),
    ({"size": "100x100"}, 400, "size", "unsupported-size"),
    ({"size": "big"}, 400, "size", "invalid-field"),
    ({"prompt": "x" * 2001}, 400, "prompt", "invalid-field"),
    ({"seed": "-1"}, 400, "seed", "invalid-field"),
    ({"markup": "x"}, 400, "markup", "unknown-field"),
    ({"seed": ["1", "2"]}, 400, "seed", "invalid-field"),
    ({"model": "junk"}, 404, "model", "unknown-model"),
]


@pytest.mark.parametrize(("fields", "status", "param", "code"), REFUSED, ids=[str(each[0])[:40] for each in REFUSED])
def test_what_is_wrong_is_400_and_names_openais_field(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str, code: str
) -> None:
    answer = edit(http, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), answer.text
    assert answer.json()["status"] == status
    assert error["type"] == "invalid_request_error" and error["message"] == answer.json()["detail"]


@pytest.mark.parametrize(("at", "status"), [(0, 400), (1, 400)])
@pytest.mark.parametrize(("data", "code"), [(b"nothing", "unsupported-image-format"), (b"", "empty-image")])
def test_a_picture_is_named_by_its_place(http: httpx.Client, at: int, status: int, data: bytes, code: str) -> None:
    files = list(FILES)
    files[at] = ("image[]", ("x.jpg", data, "image/jpeg"))
    answer = http.post("/v1/images/edits", files=files)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["error"]["param"] == f"image[{at}]" and answer.json()["detail"].startswith(f"image[{at}]: ")


@pytest.mark.parametrize("model", ["", "changeroom", INFO.model])
def test_the_model_may_be_left_out_or_be_one_that_is_loaded(http: httpx.Client, model: str) -> None:
    assert edit(http, model=model).status_code == 200


def test_a_named_model_without_a_worker_to_tell_is_worth_another_try(held: Live, http: httpx.Client) -> None:
    held.call(held.queue.workers.withdraw("test-worker"))
    held.call(_forgotten(held))
    answer = edit(http, model="junk")
    assert (answer.status_code, answer.json()["code"]) == (503, "engine-unavailable")
    assert answer.headers["retry-after"] and answer.json()["error"]["type"] == "server_error"


async def _forgotten(live: Live) -> None:
    live.app.state.gateway.fleet._read = 0.0


def test_a_stream_is_read_by_the_package(images: openai.OpenAI) -> None:
    stream = images.images.edit(image=[PERSON, SHIRT], prompt="", stream=True, partial_images=2, quality="low")
    *partials, last = list(stream)
    assert [each.type for each in partials] == ["image_edit.partial_image"] * 2
    for index, each in enumerate(partials):
        assert isinstance(each, ImageEditPartialImageEvent)
        ImageEditPartialImageEvent.model_validate(each.model_dump(), strict=True)
        assert each.partial_image_index == index and each.size == "auto" and each.quality == "low"
        assert opened(each.b64_json).format == "JPEG" and each.output_format == "jpeg"
    assert isinstance(last, ImageEditCompletedEvent)
    ImageEditCompletedEvent.model_validate(last.model_dump(), strict=True)
    assert (last.output_format, last.size, last.background) == ("png", "192x256", "opaque")
    assert opened(last.b64_json).format == "PNG" and last.usage.total_tokens > last.usage.output_tokens > 0


def test_a_stream_without_partial_images_is_one_event(images: openai.OpenAI) -> None:
    (only,) = images.images.edit(image=[PERSON, SHIRT], prompt="", stream=True)
    assert only.type == "image_edit.completed"


def test_a_stream_that_fails_raises_the_packages_error(live: Live, images: openai.OpenAI) -> None:
    live.worker.failing = JobError(code="engine-failed", message="The engine stopped.", retryable=True)
    try:
        with pytest.raises(openai.APIError, match="The engine stopped") as failed:
            list(images.images.edit(image=[PERSON, SHIRT], prompt="", stream=True))
    finally:
        live.worker.failing = None
    assert failed.value.code == "engine-failed" and failed.value.type == "server_error"
    with pytest.raises(openai.BadRequestError):
        images.images.edit(image=PERSON, prompt="", stream=True)
