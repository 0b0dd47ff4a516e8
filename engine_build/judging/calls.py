"""Questions with pictures to a vision model at any OpenAI-compatible address, answered by a form.

Whatever goes wrong there is no answer and nothing is guessed: the reply says why. Requests are budgeted, tries
bounded, a busy endpoint is waited for by every thread, and a failing one is left alone. Pictures leave this machine,
reduced to `long_side`, for the address the caller named and no other.

Reasons: timeout, unreachable, http-<status>, budget spent, endpoint failing (the endpoint's, worth another run);
malformed, cut off, refusal, content-filter (the model's own, `FINAL`).
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from PIL import Image

from engine_build.errors import RequestError
from engine_build.judging.answers import repaired

T = TypeVar("T")
MAX_ANSWER_BYTES = 64 << 10
GIVE_UP_AFTER = 5
"""Questions in a row that ended in a failing endpoint."""
FINAL = frozenset({"malformed", "cut off", "refusal", "content-filter", "picture unreadable"})
"""Reasons that asking another day would not mend: they are an answer of a kind."""
DECODING: Mapping[str, Any] = {"temperature": 0, "max_tokens": 800}

_FILTERED = re.compile(rb"content[ _-]?(?:filter|policy|management)|moderation|data_inspection", re.IGNORECASE)
_REFUSED = re.compile(
    r"\b(?:can(?:no|')?t|can\u2019t|cannot|unable to|won't|not able to) (?:\w+ )?"
    r"(?:assist|help|comply|provide|rate|score|evaluate|judge|analy[sz]e|identify)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class NotJudged:
    """Nothing to go by, and why."""

    reason: str


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. `budget` bounds all requests, retries included.

    `retries` is how often a busy or failing endpoint is tried again for one question, `asked_again` how often an
    answer that does not fit. `decoding` is the part of the body that says how the model speaks.
    """

    url: str
    model: str
    key: str = ""
    budget: int = 1000
    timeout_s: float = 30.0
    retries: int = 2
    parallel: int = 4
    asked_again: int = 0
    max_wait_s: float = 8.0
    long_side: int = 512
    quality: int = 88
    decoding: Mapping[str, Any] = field(default_factory=lambda: DECODING)

    def settings(self) -> dict[str, Any]:
        """What of this an answer depends on."""
        return {
            "model": self.model,
            "decoding": dict(self.decoding),
            "long_side": self.long_side,
            "quality": self.quality,
            "asked_again": self.asked_again,
        }


@dataclass(frozen=True)
class Question:
    """A task in words, the pictures it is about, and the schema of the form to fill in, called `name`."""

    task: str
    pictures: tuple[Image.Image, ...]
    name: str
    schema: Mapping[str, object]

    def request(self, endpoint: Endpoint) -> dict[str, object]:
        """The body of a chat completion."""
        content: list[dict[str, object]] = [{"type": "text", "text": self.task}]
        for picture in self.pictures:
            content.append({"type": "image_url", "image_url": {"url": _data_uri(picture, endpoint)}})
        form = {"name": self.name, "strict": True, "schema": self.schema}
        return {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": content}],
            **endpoint.decoding,
            "response_format": {"type": "json_schema", "json_schema": form},
        }


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What came of a question: the answer as read, or why there is none; what it cost; who says to have answered.

    `said` is the beginning of an answer that could not be read, `mended` whether one was repaired before it could.
    """

    value: T | NotJudged
    requests: int = 0
    tokens: tuple[int, int] = (0, 0)
    served: str = ""
    said: str = ""
    mended: bool = False


class _Failed(Exception):
    """One request that brought no answer; `again` says whether another might, `wait_s` when."""

    def __init__(self, reason: str, again: bool, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait_s = reason, again, wait_s


@dataclass
class _Tally:
    """What a question has cost so far."""

    requests: int = 0
    tokens: tuple[int, int] = (0, 0)
    served: str = ""
    said: str = ""


class Caller:
    """Asks an endpoint, from several threads if need be; use as a context manager.

    Raises RequestError for an address that is not http or https.
    """

    def __init__(self, endpoint: Endpoint, asked: int = 0, sleep: Callable[[float], object] = time.sleep) -> None:
        address = endpoint.url.rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise RequestError(f"{endpoint.url!r} is not the address of an endpoint, such as http://localhost:8000/v1")
        if endpoint.retries < 0 or endpoint.asked_again < 0:
            raise RequestError("a question needs at least one attempt: retries cannot be negative")
        self.endpoint, self.asked = endpoint, asked
        self._address = address if address.endswith("/chat/completions") else f"{address}/chat/completions"
        self._sleep, self._lock, self._failures, self._busy_until = sleep, threading.Lock(), 0, 0.0
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
            timeout=endpoint.timeout_s,
            trust_env=False,
            limits=httpx.Limits(max_connections=max(1, endpoint.parallel)),
        )

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    @property
    def failing(self) -> bool:
        """Whether the endpoint is left alone now."""
        return self._failures >= GIVE_UP_AFTER

    def ask(self, question: Question, read: Callable[[str], T]) -> Reply[T]:
        """What `read` makes of the model's answer; one it raises ValueError or LookupError for is malformed.

        Such an answer is repaired once (`answers.repaired`, which changes no value), then asked for again as often as
        the endpoint says, then given up.
        """
        if self.failing:
            return Reply(NotJudged("endpoint failing"))
        body, tally = question.request(self.endpoint), _Tally()
        self._wait_with_the_others()
        busy, unread = 0, 0
        while True:
            if not self._spend():
                return self._without(tally, "budget spent")
            tally.requests += 1
            try:
                value, mended = _understood(self._ask(body), read, tally)
            except _Failed as failed:
                if not failed.again and failed.reason in FINAL and failed.reason not in _SETTLED:
                    unread += 1
                    if unread <= self.endpoint.asked_again:
                        continue
                elif failed.again and busy < self.endpoint.retries:
                    self._back_off(0.5 * 2**busy if failed.wait_s is None else failed.wait_s)
                    busy += 1
                    continue
                with self._lock:
                    self._failures = 0 if failed.reason in FINAL else self._failures + 1
                return self._without(tally, failed.reason)
            with self._lock:
                self._failures = 0
            return Reply(value, tally.requests, tally.tokens, tally.served, mended=mended)

    @staticmethod
    def _without(tally: _Tally, reason: str) -> Reply[T]:
        return Reply(NotJudged(reason), tally.requests, tally.tokens, tally.served, tally.said)

    def _wait_with_the_others(self) -> None:
        wait = self._busy_until - time.monotonic()
        if wait > 0:
            self._sleep(wait)

    def _back_off(self, wait: float) -> None:
        wait = min(self.endpoint.max_wait_s, wait)
        with self._lock:
            self._busy_until = max(self._busy_until, time.monotonic() + wait)
        self._sleep(wait)

    def _spend(self) -> bool:
        with self._lock:
            if self.asked >= self.endpoint.budget:
                return False
            self.asked += 1
            return True

    def _ask(self, question: dict[str, object]) -> bytes:
        deadline = time.monotonic() + self.endpoint.timeout_s
        try:
            with self._client.stream("POST", self._address, json=question) as response:
                answer = bytearray()
                for chunk in response.iter_bytes():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise _Failed("malformed", again=False)
                    if time.monotonic() > deadline:
                        raise _Failed("timeout", again=True)
                status = response.status_code
                if 400 <= status < 500 and status != httpx.codes.TOO_MANY_REQUESTS and _FILTERED.search(answer):
                    raise _Failed("content-filter", again=False)
                if status != httpx.codes.OK:
                    raise _Failed(f"http-{status}", status == 429 or status >= 500, _seconds(response))
                return bytes(answer)
        except httpx.TimeoutException as error:
            raise _Failed("timeout", again=True) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Failed("unreachable", again=True) from error


_SETTLED = frozenset({"refusal", "content-filter"})
"""The model has made up its mind; asking again would be asking until it gives in."""


def _understood(answer: bytes, read: Callable[[str], T], tally: _Tally) -> tuple[T, bool]:
    """The answer as read, and whether it had to be repaired. Raises _Failed."""
    try:
        said = json.loads(answer)
        usage = said.get("usage") or {}
        spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        tally.tokens = (tally.tokens[0] + spent[0], tally.tokens[1] + spent[1])
        tally.served = str(said.get("model") or "")
        choice = said["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        content = message.get("content")
        if ended == "content_filter":
            raise _Failed("content-filter", again=False)
        if message.get("refusal"):
            tally.said = str(message["refusal"])[:300]
            raise _Failed("refusal", again=False)
        tally.said = content[:300]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Failed("malformed", again=False) from error
    for text in (content, repaired(content)):
        try:
            return read(text), text is not content
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    if "{" not in content and _REFUSED.search(content):
        raise _Failed("refusal", again=False)
    raise _Failed("cut off" if ended == "length" else "malformed", again=False)


def _seconds(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _flat(image: Image.Image) -> Image.Image:
    """As RGB; what is transparent, as product shots often are, is white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def _data_uri(image: Image.Image, endpoint: Endpoint) -> str:
    small = _flat(image)
    small.thumbnail((endpoint.long_side, endpoint.long_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=endpoint.quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
