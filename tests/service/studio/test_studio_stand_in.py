"""The page against scripted troubles: a dropped stream, a full queue, a missing key, a reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from stand_in import StandIn
from studio_page import StudioPage

pytestmark = pytest.mark.browser

QUEUE_FULL = {
    "type": "urn:changeroom:problem:queue-full",
    "title": "The queue is full",
    "detail": "256 try-ons wait already. Try again in 3 s.",
    "code": "queue-full",
    "retryable": True,
}


def filled(page: StudioPage, url: str, photos: Path) -> None:
    page.open(url)
    page.choose_person(photos / "person.jpg")
    page.add_garments(photos / "top.png")


def test_a_dropped_stream_is_taken_up_after_the_last_event(page: StudioPage, stand_in: StandIn, photos: Path) -> None:
    stand_in.drop_after = 3
    filled(page, stand_in.url, photos)
    page.go()
    assert page.wait_for("done", "problem") == "done"
    assert stand_in.last_event_ids == [None, "3"]


def test_preview_and_queue_position_are_shown(page: StudioPage, stand_in: StandIn, photos: Path) -> None:
    filled(page, stand_in.url, photos)
    stand_in.hold_at = 4
    page.record()
    page.go()
    page.until(lambda: page.text("now-detail") == "step 2 of 4")
    assert ("In the queue 2 ahead of you", None) in page.heard()
    assert page.drawn("preview")
    assert page.at("preview").get_attribute("alt") == "Preview of the picture so far"
    assert page.at("progress").get_attribute("value") == "0.5"
    stand_in.released.set()
    assert page.wait_for("done", "problem") == "done"


def test_a_full_queue_is_told_and_the_retry_is_the_same_request(
    page: StudioPage, stand_in: StandIn, photos: Path
) -> None:
    stand_in.refuse = (503, QUEUE_FULL)
    filled(page, stand_in.url, photos)
    page.go()
    assert page.wait_for("problem", "done") == "problem"
    assert page.text("problem-title") == QUEUE_FULL["title"]
    assert page.text("problem-detail") == QUEUE_FULL["detail"]
    assert "3 s" in page.text("problem-code") and "queue-full" in page.text("problem-code")
    page.at("again").click()
    assert page.wait_for("done") == "done"
    first, second = stand_in.keys_seen
    assert first == second

    page.at("reseed").click()
    page.until(lambda: len(stand_in.keys_seen) == 3)
    assert stand_in.keys_seen[2] != first
    page.wait_for("done")


def test_the_page_says_why_the_language_model_did_not_write(
    page: StudioPage, stand_in: StandIn, photos: Path
) -> None:
    stand_in.fallback = "timeout"
    filled(page, stand_in.url, photos)
    page.go()
    assert page.wait_for("done", "problem") == "done"
    assert page.text("instruction-by").endswith("the language model was not used (timeout).")


def test_changing_the_request_changes_its_key(page: StudioPage, stand_in: StandIn, photos: Path) -> None:
    stand_in.refuse = (503, QUEUE_FULL)
    filled(page, stand_in.url, photos)
    page.go()
    page.wait_for("problem")
    page.at("words").send_keys("open the coat")
    page.go()
    page.wait_for("done")
    first, second = stand_in.keys_seen
    assert first != second


def test_a_missing_key_is_asked_for_and_then_sent(page: StudioPage, stand_in: StandIn, photos: Path) -> None:
    stand_in.key = "open-sesame"
    filled(page, stand_in.url, photos)
    page.go()
    page.wait_for("problem")
    assert page.text("problem-title") == "A valid API key is needed"
    page.until(lambda: page.focused().get_attribute("id") == "key")
    page.press("open-sesame", Keys.TAB)
    page.go()
    assert page.wait_for("done", "problem") == "done"


def test_a_server_that_is_gone_is_told_in_words(page: StudioPage, stand_in: StandIn, photos: Path) -> None:
    filled(page, stand_in.url, photos)
    page.browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        page.go()
        page.wait_for("problem")
    finally:
        page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": False})
    assert page.text("problem-title") == "The server does not answer"
    page.at("again").click()
    assert page.wait_for("done", "problem") == "done"


def test_the_event_parser_reads_a_stream_cut_anywhere(page: StudioPage, stand_in: StandIn) -> None:
    page.open(stand_in.url)
    stream = ': hi\n\nretry: 1000\n\nid: 1\r\nevent: queued\r\ndata: {"a":\r\ndata: 1}\r\n\r\nid:2\ndata:x\n\ndata: cut'
    seen = page.browser.execute_async_script(
        """
        const [stream, done] = arguments;
        import("/studio/events.js").then(({ EventParser }) => {
          const all = new Set();
          for (let cut = 0; cut <= stream.length; cut += 1) {
            const parser = new EventParser();
            const events = [...parser.push(stream.slice(0, cut)), ...parser.push(stream.slice(cut))];
            all.add(JSON.stringify(events));
          }
          done([...all]);
        });
        """,
        stream,
    )
    assert [json.loads(entry) for entry in seen] == [
        [
            {"id": "1", "event": "queued", "data": '{"a":\n1}'},
            {"id": "2", "event": "message", "data": "x"},
        ]
    ]
