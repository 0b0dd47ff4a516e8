"""The openai and fashn packages, unmodified, against the running gateway."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import fashn
import httpx
import openai
import pytest
from fashn.types import PredictionStatusResponse
from gateway_live import Live, data_url, picture
from PIL import Image

from service.jobs.schemas import JobError
from service.worker.webhooks import message

PERSON = picture(colour="bisque")
SHIRT = picture(64, 64, "navy")
COAT = picture(80, 64, "maroon")


@pytest.fixture
def images(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="unused", base_url=live.url + "/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def predictions(live: Live) -> Iterator[fashn.Fashn]:
    with fashn.Fashn(api_key="unused", base_url=live.url, max_retries=0) as client:
        yield client


def test_openai_edits_several_images(images: openai.OpenAI) -> None:
    answer = images.images.edit(
        model="changeroom",
        image=[("person.jpg", PERSON), ("shirt.jpg", SHIRT), ("coat.jpg", COAT)],
        prompt="keep the coat open",
        size="512x512",
        quality="high",
        output_format="png",
    )
    assert answer.data and answer.data[0].b64_json
    made = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert made.format == "PNG" and made.size == (512, 512)
    assert answer.size == "512x512" and "image 3" in (answer.data[0].revised_prompt or "")


def test_openai_url_answers_open_without_a_key(images: openai.OpenAI) -> None:
    answer = images.images.edit(
        image=[PERSON, SHIRT], prompt="", response_format="url", extra_headers={"Idempotency-Key": "url-1"}
    )
    assert answer.data and answer.data[0].url
    assert httpx.get(answer.data[0].url).headers["content-type"] == "image/png"


def test_openai_errors_are_its_own_exceptions(live: Live, images: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as alone:
        images.images.edit(image=PERSON, prompt="x")
    assert alone.value.code == "missing-garment" and "garment" in str(alone.value)
    with pytest.raises(openai.BadRequestError) as many:
        images.images.edit(image=[PERSON, SHIRT], prompt="x", n=2)
    assert many.value.param == "n"
    with pytest.raises(openai.BadRequestError) as broken:
        images.images.edit(image=[PERSON, b"nothing"], prompt="x")
    assert broken.value.code == "unsupported-image-format" and broken.value.param == "image[1]"
    live.worker.failing = JobError(code="engine-failed", message="The engine stopped.", retryable=True)
    try:
        with pytest.raises(openai.InternalServerError) as failed:
            images.images.edit(image=[PERSON, SHIRT], prompt="x")
    finally:
        live.worker.failing = None
    assert failed.value.code == "engine-failed"


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("out-of-memory", openai.BadRequestError),
        ("unprocessable-request", openai.BadRequestError),
        ("input-erased", openai.APIStatusError),
        ("store-unavailable", openai.InternalServerError),
        ("worker-lost", openai.InternalServerError),
    ],
)
def test_a_failed_job_is_the_callers_mistake_only_when_it_is_one(
    live: Live, images: openai.OpenAI, code: str, raised: type[openai.APIStatusError]
) -> None:
    live.worker.failing = JobError(code=code, message="Because.")
    try:
        with pytest.raises(raised) as failed:
            images.images.edit(image=[PERSON, SHIRT], prompt="x")
    finally:
        live.worker.failing = None
    documented = live_responses(live)[str(failed.value.status_code)]
    assert failed.value.code == code and code in documented["content"]["application/problem+json"]["examples"]


def live_responses(live: Live) -> dict[str, Any]:
    paths = httpx.get(live.url + "/openapi.json").json()["paths"]
    answers: dict[str, Any] = paths["/v1/images/edits"]["post"]["responses"]
    return answers


def test_openai_lists_models(images: openai.OpenAI) -> None:
    assert [model.id for model in images.models.list()] == ["plain"]


def test_openai_retrieves_one_model_or_raises_its_own_not_found(images: openai.OpenAI) -> None:
    (listed,) = images.models.list()
    assert images.models.retrieve("plain") == listed
    for unknown in ("plain-2", "somebody/plain"):
        with pytest.raises(openai.NotFoundError) as missing:
            images.models.retrieve(unknown)
        assert missing.value.code == "unknown-model" and missing.value.type == "invalid_request_error"


def test_fashn_runs_and_reads_a_status(predictions: fashn.Fashn) -> None:
    started = predictions.predictions.run(
        model_name="tryon-v1.6",
        inputs={
            "model_image": data_url(PERSON),
            "garment_image": data_url(SHIRT),
            "category": "tops",
            "seed": 3,
        },
    )
    assert started.id and started.error is None
    status = predictions.predictions.status(started.id)
    assert status.status in ("in_queue", "processing", "completed")


def test_fashn_subscribes_to_a_result(live: Live, predictions: fashn.Fashn) -> None:
    seen: list[str] = []
    done = predictions.predictions.subscribe(
        model_name="tryon-v1.6",
        inputs={"model_image": data_url(PERSON), "garment_image": data_url(SHIRT), "category": "one-pieces"},
        poll_interval=100,
        on_queue_update=lambda status: seen.append(status.status),
    )
    assert done.status == "completed" and seen[-1] == "completed"
    assert done.output and httpx.get(done.output[0]).headers["content-type"] == "image/png"
    with live.client() as client:
        native = client.get(f"/v1/try-ons/{done.id}").json()
    assert native["garments"][0]["category"] == "dresses" and native["metadata"] == {}


def test_fashn_returns_base64(predictions: fashn.Fashn) -> None:
    done = predictions.predictions.subscribe(
        model_name="tryon-v1.6",
        inputs={
            "model_image": data_url(PERSON),
            "garment_image": data_url(SHIRT),
            "output_format": "jpeg",
            "return_base64": True,
            "mode": "quality",
            "garment_photo_type": "flat-lay",
            "moderation_level": "permissive",
            "num_samples": 1,
        },
        poll_interval=100,
    )
    assert done.output and done.output[0].startswith("data:image/jpeg;base64,")


def test_fashn_tells_its_receiver_what_its_own_client_reads(launch: Callable[..., Live]) -> None:
    """Both SDKs send `webhook_url` in the query; the receiver reads the message as a status response."""
    live = launch(webhooks_enabled=True, webhook_secret="whsec_" + "a" * 32, webhook_allow_private=True)
    with fashn.Fashn(api_key="unused", base_url=live.url, max_retries=0) as client:
        done = client.predictions.subscribe(
            model_name="tryon-v1.6",
            inputs={"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)},
            webhook_url="http://127.0.0.1:49151/hook",
            poll_interval=100,
        )
        with pytest.raises(fashn.BadRequestError) as forbidden:
            client.predictions.run(
                model_name="tryon-v1.6",
                inputs={"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)},
                webhook_url="ftp://127.0.0.1/hook",
            )
    assert "webhook_url" in str(forbidden.value)
    told = message(live.opened(done.id))
    assert told is not None and told.url == "http://127.0.0.1:49151/hook"
    read = PredictionStatusResponse.model_validate_json(told.body, strict=True)
    assert (read.id, read.status, read.error) == (done.id, "completed", None)
    assert set(json.loads(told.body)) == {"id", "status", "output", "error"}
    assert read.output and httpx.get(read.output[0]).headers["content-type"] == "image/png"


def test_fashn_errors_are_its_own(live: Live, predictions: fashn.Fashn) -> None:
    with pytest.raises(fashn.BadRequestError) as address:
        predictions.predictions.run(
            model_name="tryon-v1.6",
            inputs={"model_image": "https://example.com/a.jpg", "garment_image": data_url(SHIRT)},
        )
    assert "does not fetch" in str(address.value)
    with pytest.raises(fashn.NotFoundError):
        predictions.predictions.status("none")
    live.worker.failing = JobError(code="engine-failed", message="The engine stopped.", retryable=True)
    try:
        failed = predictions.predictions.subscribe(
            model_name="tryon-v1.6",
            inputs={"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)},
            poll_interval=100,
        )
    finally:
        live.worker.failing = None
    assert failed.status == "failed" and failed.error and failed.error.name == "PipelineError"
