"""`/v1/run` and `/v1/status` compared with the fashn package's own types, field by field."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

import httpx
import pytest
from fashn.types import PredictionRunResponse, PredictionStatusResponse
from fashn.types.prediction_run_params import TryOnRequest, TryOnRequestInputs
from fashn.types.prediction_status_response import Error
from gateway_live import Live, data_url, picture

from service.gateway.routes.fashn import FashnInputs, FashnRequest
from service.gateway.shapes import error_samples
from service.jobs import fashn_words

INPUTS = {
    "model_image": data_url(picture(colour="bisque")),
    "garment_image": data_url(picture(64, 64, "navy")),
}


def run(http: httpx.Client, **inputs: Any) -> httpx.Response:
    return http.post("/v1/run", json={"model_name": "tryon-v1.6", "inputs": INPUTS | inputs})


def test_every_input_of_the_package_is_known() -> None:
    assert set(TryOnRequest.__annotations__) == set(FashnRequest.model_fields)
    assert set(TryOnRequestInputs.__annotations__) == set(FashnInputs.model_fields)


def test_every_word_of_the_package_is_taken(http: httpx.Client) -> None:
    worded = {name: kind for name, kind in get_type_hints(TryOnRequestInputs).items() if get_origin(kind) is Literal}
    assert set(worded) == {"category", "garment_photo_type", "mode", "moderation_level", "output_format"}
    for name, kind in worded.items():
        assert set(get_args(FashnInputs.model_fields[name].annotation)) == set(get_args(kind)), name
        for word in get_args(kind):
            assert run(http, **{name: word}).status_code == 200, (name, word)


def test_the_answers_are_read_by_the_packages_types(http: httpx.Client) -> None:
    started = run(http)
    assert set(started.json()) == {"id", "error"}
    PredictionRunResponse.model_validate(started.json(), strict=True)
    http.get(f"/v1/try-ons/{started.json()['id']}", headers={"Prefer": "wait=20"})
    status = http.get(f"/v1/status/{started.json()['id']}")
    assert set(status.json()) == set(PredictionStatusResponse.model_fields)
    assert PredictionStatusResponse.model_validate(status.json(), strict=True).status == "completed"
    assert status.headers["x-fashn-credits-used"] == "0"


def test_statuses_and_names_are_the_packages() -> None:
    assert set(fashn_words.STATUSES.values()) <= set(
        get_args(PredictionStatusResponse.model_fields["status"].annotation)
    )
    assert set(fashn_words.FAILURES) <= set(get_args(Error.model_fields["name"].annotation))


def test_every_error_about_a_picture_is_an_image_load_error() -> None:
    """A new code about pictures must be told to FASHN's clients by the name they know."""
    about = {*error_samples.PICTURE, "invalid-base64", "image-url-refused", "invalid-image"}
    assert about - {"decoder-busy", "storage-full"} == fashn_words.PICTURE_CODES, "those two are about us"


NOTHING = data_url(b"nothing")
REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"garment_image": NOTHING}, 400, "ImageLoadError", "garment_image"),
    ({"model_image": NOTHING}, 400, "ImageLoadError", "model_image"),
    ({"model_image": "https://example.com/me.jpg"}, 400, "ImageLoadError", "model_image"),
    ({"model_image": "data:image/png;base64,@@"}, 400, "ImageLoadError", "model_image"),
    ({"category": "socks"}, 400, "BadRequest", "inputs.category"),
    ({"num_samples": 2}, 400, "BadRequest", "inputs.num_samples"),
    ({"seed": -1}, 400, "BadRequest", "inputs.seed"),
    ({"colour": "red"}, 400, "BadRequest", "inputs.colour"),
    ({"model_image": None}, 400, "BadRequest", "inputs.model_image"),
]


@pytest.mark.parametrize(("inputs", "status", "name", "field"), REFUSED, ids=[str(r[0])[:36] for r in REFUSED])
def test_what_is_wrong_has_fashns_name_and_names_its_field(
    http: httpx.Client, inputs: dict[str, Any], status: int, name: str, field: str
) -> None:
    answer = run(http, **inputs)
    told = answer.json()
    assert (answer.status_code, told["error"], told["pointer"]) == (status, name, field), answer.text
    assert told["message"] == told["detail"] and told["message"].startswith((field, "There is no field"))


def test_a_prediction_that_is_no_longer_kept_is_not_found(http: httpx.Client) -> None:
    started = run(http).json()["id"]
    http.get(f"/v1/try-ons/{started}", headers={"Prefer": "wait=20"})
    http.delete(f"/v1/try-ons/{started}")
    for unknown in (started, "none"):
        answer = http.get(f"/v1/status/{unknown}")
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


def test_limits_of_a_key_have_fashns_names(launch: Any) -> None:
    live: Live = launch(concurrency_per_key=1)
    live.hold()
    try:
        with live.client() as client:
            assert run(client).status_code == 200
            answer = run(client)
    finally:
        live.resume()
    assert (answer.status_code, answer.json()["error"]) == (429, "ConcurrencyLimitExceeded")
    assert answer.headers["retry-after"]
    quota: Live = launch(daily_quota=1)
    with quota.client() as client:
        assert run(client).status_code == 200
        answer = run(client)
    assert (answer.status_code, answer.json()["error"]) == (429, "OutOfCredits")
