"""API keys: who may do what, what is at rest, and the limits of each key told apart."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from gateway_live import Live, picture

from service.gateway.app import create_app
from service.gateway.work.api_keys import KeyFile, digest, new_key
from service.settings import Settings, SettingsError

FILES = [
    ("person", ("p.jpg", picture(), "image/jpeg")),
    ("garment", ("g.jpg", picture(64, 64), "image/jpeg")),
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    """Fresh keys by tenant."""
    return {tenant: new_key(tenant)[0] for tenant in ("shop", "other", "slow", "single", "daily", "urgent")}


@pytest.fixture(scope="module")
def key_file(keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    limits: dict[str, dict[str, int]] = {
        "slow": {"rate_per_minute": 2},
        "single": {"concurrency": 1},
        "daily": {"daily_quota": 2},
        "urgent": {"high_priority": True},
    }
    entries = [{"tenant": t, "sha256": digest(k), **limits.get(t, {})} for t, k in keys.items()]
    path.write_text(json.dumps({"keys": entries}))
    return path


@pytest.fixture(scope="module")
def guarded(launch: Callable[..., Live], key_file: Path) -> Live:
    return launch(api_keys_file=key_file, auth_required=True)


def test_nothing_of_a_key_is_at_rest_but_its_digest(keys: dict[str, str], key_file: Path) -> None:
    text = key_file.read_text()
    for key in keys.values():
        assert key not in text and key.removeprefix("cr_") not in text
    key, entry = new_key("shop")
    assert entry.sha256 == digest(key) and len(key) == 46
    assert KeyFile.model_validate({"keys": [entry.model_dump()]}).keys == (entry,)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing-key"),
        (bearer("nonsense"), "malformed-key"),
        (bearer("cr_" + "é" * 43), "malformed-key"),
        (bearer("cr_" + "A" * 43), "unknown-key"),
        ({"X-API-Key": "cr_" + "A" * 43}, "unknown-key"),
        ({"Authorization": "Basic YTpi"}, "missing-key"),
    ],
)
def test_without_a_good_key_every_endpoint_is_401(guarded: Live, headers: dict[str, str], code: str) -> None:
    sent = {name: text.encode() for name, text in headers.items()}
    with guarded.client() as client:
        for method, path in (
            ("POST", "/v1/try-ons"),
            ("GET", "/v1/try-ons/x"),
            ("GET", "/v1/try-ons/x/events"),
            ("GET", "/v1/try-ons/x/image"),
            ("POST", "/v1/try-ons/x/cancel"),
            ("DELETE", "/v1/try-ons/x"),
            ("PUT", "/v1/garments/x"),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/plain"),
            ("POST", "/v1/images/edits"),
            ("POST", "/v1/run"),
            ("GET", "/v1/status/x"),
        ):
            answer = client.request(method, path, headers=sent)  # type: ignore[arg-type]
            assert answer.status_code == 401, (method, path)
            assert answer.json()["code"] == code
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in ("/livez", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200


def test_a_key_sees_only_its_own_jobs_and_garments(guarded: Live, keys: dict[str, str]) -> None:
    with guarded.client(headers=bearer(keys["shop"])) as shop, guarded.client() as anyone:
        made = shop.post("/v1/try-ons", files=FILES, headers={"Prefer": "wait=10"}).json()
        assert made["status"] == "succeeded"
        shop.put("/v1/garments/A", content=picture(), headers={"Content-Type": "image/jpeg"})
        with guarded.client(headers={"X-API-Key": keys["other"]}) as other:
            assert other.get(made["links"]["self"]).status_code == 404
            assert other.get(made["links"]["events"]).status_code == 404
            assert other.post(made["links"]["cancel"]).status_code == 404
            assert other.delete(made["links"]["self"]).status_code == 404
            assert other.get("/v1/garments/A").status_code == 404
            assert other.get(f"/v1/status/{made['id']}").status_code == 404
            erased = shop.post("/v1/try-ons", files=FILES, headers={"Prefer": "wait=10"}).json()
            assert shop.delete(erased["links"]["self"]).status_code == 204
            assert shop.get(erased["links"]["self"]).status_code == 410
            asked = [("GET", "self"), ("GET", "events"), ("GET", "image"), ("POST", "cancel"), ("DELETE", "self")]
            for method, link in asked:
                answer = other.request(method, erased["links"][link])
                assert (answer.status_code, answer.json()["code"]) == (404, "unknown-try-on")
            assert other.get(f"/v1/status/{erased['id']}").status_code == 404
        assert anyone.get(made["links"]["image"]).status_code == 401
        assert anyone.get(made["result"]["url"]).status_code == 200
        assert shop.get(made["links"]["self"]).status_code == 200


def refused(client: httpx.Client, times: int) -> httpx.Response:
    """The last of `times` posts; those before must have been accepted."""
    for _ in range(times - 1):
        answer = client.post("/v1/try-ons", files=FILES, headers={"Prefer": "wait=10"})
        assert answer.status_code == 200, answer.text
    return client.post("/v1/try-ons", files=FILES)


def test_rate_and_quota_are_told_apart(guarded: Live, keys: dict[str, str]) -> None:
    for tenant, code, wait in (("slow", "rate-limited", 60), ("daily", "quota-exceeded", 86_400)):
        with guarded.client(headers=bearer(keys[tenant])) as client:
            answer = refused(client, 3)
            assert answer.status_code == 429
            assert answer.json()["type"] == f"urn:changeroom:problem:{code}"
            assert answer.json()["retryable"] is True
            assert 1 <= int(answer.headers["retry-after"]) <= wait
            assert f'changeroom_admission_rejected_total{{reason="{code}"}} 1.0' in client.get("/metrics").text


def test_high_priority_is_for_keys_that_have_it(guarded: Live, keys: dict[str, str]) -> None:
    answers = {}
    for tenant in ("shop", "urgent"):
        with guarded.client(headers=bearer(keys[tenant])) as client:
            for priority in ("low", "normal", "high"):
                answers[tenant, priority] = client.post("/v1/try-ons", files=FILES, data={"priority": priority})
    refused = answers.pop(("shop", "high"))
    assert {answer.status_code for answer in answers.values()} == {202}
    assert (refused.status_code, refused.json()["code"]) == (422, "priority-not-allowed")
    assert refused.json()["pointer"] == "priority"


def test_where_keys_are_not_required_anyone_may_be_in_a_hurry(launch: Callable[..., Live], key_file: Path) -> None:
    with launch(api_keys_file=key_file, auth_required=False).client() as client:
        assert client.post("/v1/try-ons", files=FILES, data={"priority": "high"}).status_code == 202


def test_concurrency_counts_jobs_in_flight(guarded: Live, keys: dict[str, str]) -> None:
    guarded.hold()
    try:
        with guarded.client(headers=bearer(keys["single"])) as client:
            first = client.post("/v1/try-ons", files=FILES)
            assert first.status_code == 202
            second = client.post("/v1/try-ons", files=FILES)
            assert (second.status_code, second.json()["code"]) == (429, "concurrency-limited")
            client.post(first.json()["links"]["cancel"])
            third = client.post("/v1/try-ons", files=FILES)
            assert third.status_code == 202
            client.delete(third.json()["links"]["self"])
    finally:
        guarded.resume()


def test_a_refused_upload_holds_nothing(guarded: Live, keys: dict[str, str]) -> None:
    broken = [FILES[0], ("garment", ("g.jpg", b"nothing", "image/jpeg"))]
    with guarded.client(headers=bearer(keys["single"])) as client:
        for _ in range(3):
            assert client.post("/v1/try-ons", files=broken).status_code == 415
    assert guarded.call(guarded.queue.upkeep.backlog()).in_flight == 0


def test_a_full_queue_is_503_with_retry_after(launch: Callable[..., Live]) -> None:
    tight = launch(max_in_flight=1)
    tight.hold()
    try:
        with tight.client() as client:
            first = client.post("/v1/try-ons", files=FILES)
            assert first.status_code == 202, first.text
            answer = client.post("/v1/try-ons", files=FILES)
            assert (answer.status_code, answer.json()["code"]) == (503, "queue-full")
            assert int(answer.headers["retry-after"]) >= 1
            client.delete(first.json()["links"]["self"])
    finally:
        tight.resume()


def test_where_there_is_a_key_file_keys_are_asked_for(launch: Callable[..., Live], key_file: Path) -> None:
    with launch(api_keys_file=key_file).client() as client:
        answer = client.post("/v1/try-ons", files=FILES)
        assert answer.status_code == 401 and answer.json()["code"] == "missing-key"


def test_two_keys_that_differ_are_none(launch: Callable[..., Live], keys: dict[str, str], key_file: Path) -> None:
    with launch(api_keys_file=key_file).client() as client:
        one, other = list(keys.values())[:2]
        both = bearer(one) | {"X-API-Key": other}
        answer = client.get("/v1/models", headers=both)
        assert answer.status_code == 400 and answer.json()["code"] == "invalid-header"
        assert client.get("/v1/models", headers=bearer(one) | {"X-API-Key": one}).status_code == 200


def test_a_key_is_revoked_by_changing_the_file(launch: Callable[..., Live], tmp_path: Path) -> None:
    key, entry = new_key("shop")
    path = tmp_path / "keys.json"
    path.write_text(KeyFile(keys=(entry,)).model_dump_json())
    service = launch(api_keys_file=path, auth_required=False)
    with service.client() as client:
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200
        assert client.get("/v1/models").status_code == 200
        path.write_text('{"keys": [')
        time.sleep(2.1)
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200
        path.write_text('{"keys": []}')
        os.utime(path, (1, 1))
        time.sleep(2.1)
        assert client.get("/v1/models", headers=bearer(key)).status_code == 401


@pytest.mark.parametrize("loss", ["deleted", "emptied", "moved away with its folder"])
def test_keys_end_with_their_file_and_come_back_with_it(launch: Callable[..., Live], tmp_path: Path, loss: str) -> None:
    key, entry = new_key("shop")
    folder = tmp_path / "keys"
    folder.mkdir()
    path = folder / "keys.json"
    text = KeyFile(keys=(entry,)).model_dump_json()
    path.write_text(text)
    service = launch(api_keys_file=path, auth_required=True)

    def until(status: int) -> None:
        patience = time.monotonic() + 60
        with service.client() as client:
            while (answer := client.get("/v1/models", headers=bearer(key))).status_code != status:
                assert time.monotonic() < patience, answer.text
                time.sleep(0.1)

    until(200)
    match loss:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_text("")
        case _:
            folder.rename(tmp_path / "elsewhere")
    until(401)
    folder.mkdir(exist_ok=True)
    path.write_text(text)
    until(200)


def test_nobody_with_a_key_is_called_anonymous(tmp_path: Path) -> None:
    """Such a key would see, and erase, the jobs of everybody without one."""
    with pytest.raises(ValueError, match="everybody without a key"):
        new_key("anonymous")
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"tenant": "anonymous", "sha256": digest("x")}]}))
    with pytest.raises(SettingsError, match=r"keys\.0\.tenant.*everybody without a key"):
        create_app(Settings(api_keys_file=path, data_dir=tmp_path))


@pytest.mark.parametrize(
    ("auth", "store", "secret", "warns"),
    [
        (True, "redis://store.internal:6379/0", None, True),
        (True, "redis://store.internal:6379/0", "given", False),
        (True, "redis://127.0.0.1:6379/0", None, False),
        (True, "unix:///run/store.sock", None, False),
        (False, "redis://store.internal:6379/0", None, False),
    ],
)
def test_gateways_that_would_sign_differently_are_warned_about(
    key_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, auth: bool, store: str, secret: str, warns: bool
) -> None:
    create_app(
        Settings(redis_url=store, auth_required=auth, api_keys_file=key_file, url_secret=secret, data_dir=tmp_path)
    )
    assert ("CHANGEROOM_URL_SECRET" in caplog.text) == warns


def test_a_bad_key_file_ends_the_start_with_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"keys": [{"tenant": "shop", "sha256": "short"}]}')
    for path, word in ((missing, "No such file"), (wrong, "keys.0.sha256")):
        with pytest.raises(SettingsError, match=word) as caught:
            create_app(Settings(api_keys_file=path, data_dir=tmp_path))
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="API_KEYS_FILE"):
        create_app(Settings(auth_required=True, data_dir=tmp_path))
