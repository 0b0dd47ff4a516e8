"""A query parameter that an operation does not know is refused: on every operation of the document."""

from __future__ import annotations

import httpx
import pytest
from gateway_live import Live, data_url, parts
from refused_answers import PERSON, SHIRT, check

FASHN = {
    "model_name": "tryon-v1.6",
    "inputs": {"model_image": data_url(PERSON), "garment_image": data_url(SHIRT)},
}
EXAMPLES = {"{id}": "none", "{sku}": "SHIRT-42"}


def operations(live: Live) -> list[tuple[str, str]]:
    """(method, address) of every operation, the document itself included."""
    found = [("GET", "/openapi.json")]
    for path, methods in httpx.get(live.url + "/openapi.json").json()["paths"].items():
        for name, value in EXAMPLES.items():
            path = path.replace(name, value)
        found += [(method.upper(), path) for method in methods]
    return found


def test_every_operation_refuses_what_it_does_not_know(live: Live, http: httpx.Client) -> None:
    asked = operations(live)
    assert len(asked) > 16
    for method, path in asked:
        answer = http.request(method, path, params={"widht": "1"})
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown-parameter"), (method, path)
        assert answer.json()["pointer"] == "widht" and "'widht'" in answer.json()["detail"]
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_sentence_names_the_parameters_there_are(http: httpx.Client) -> None:
    answer = http.put("/v1/garments/A", params={"categroy": "coats"}, content=SHIRT)
    check(answer, 400, "unknown-parameter", "it takes category, layer")
    check(http.get("/livez?verbose=1"), 400, "unknown-parameter", "it takes none")


def test_a_parameter_that_is_sent_twice_is_refused(http: httpx.Client) -> None:
    answer = http.put("/v1/garments/A?layer=open&layer=closed", content=SHIRT, headers={"Content-Type": "image/jpeg"})
    check(answer, 400, "invalid-request", "more than once")


def test_a_native_webhook_belongs_into_the_body(http: httpx.Client) -> None:
    answer = http.post("/v1/try-ons?webhook_url=https://example.com/x", files=parts())
    check(answer, 400, "unknown-parameter", "'webhook_url'")


@pytest.mark.parametrize("where", ["query", "body"])
def test_fashns_receiver_is_heard_in_query_and_body(http: httpx.Client, where: str) -> None:
    query = {"webhook_url": "https://example.com/x"} if where == "query" else {}
    body = FASHN | ({} if query else {"webhook_url": "https://example.com/x"})
    answer = http.post("/v1/run", params=query, json=body)
    check(answer, 400, "webhooks-disabled", "webhooks are off")
    assert answer.json()["error"] == "BadRequest" and answer.json()["pointer"] == "webhook_url"


def test_two_receivers_are_one_too_many(http: httpx.Client) -> None:
    body = FASHN | {"webhook_url": "https://example.com/one"}
    check(http.post("/v1/run?webhook_url=https://example.com/two", json=body), 400, "conflicting-fields", "name one")


def test_the_page_opens_with_whatever_is_appended_to_its_address(http: httpx.Client) -> None:
    assert http.get("/?utm_source=mail").status_code == 200
