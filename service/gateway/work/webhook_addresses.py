"""Webhook addresses, looked at when a request comes in: a mistake is told at once instead of never delivered.

Delivery checks again and connects only to what it checked (`service/egress.py`); this is for the caller's sake and to
keep what can never be delivered out of the store. Lookups have threads of their own, so that slow name servers hold up
nothing else, and a lookup that takes too long is left to delivery.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from service.egress import ForbiddenTarget, check_url, is_public
from service.errors import UnprocessableRequest
from service.settings import Settings

log = logging.getLogger("changeroom.gateway")

LOOKUP_S = 1.0
LOOKUPS_AT_ONCE = 4


class WebhookAddresses:
    """What may be given as `webhook_url` here."""

    def __init__(self, settings: Settings) -> None:
        self._enabled = settings.webhooks_enabled
        self._allow_private = settings.webhook_allow_private
        self._lookups = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="webhook-lookup")

    def close(self) -> None:
        """Forget lookups that have not started."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    def check(self, url: str | None) -> None:
        """What can be seen without a lookup. Raises UnprocessableRequest where webhooks are off, ForbiddenTarget."""
        if not url:
            return
        if not self._enabled:
            raise UnprocessableRequest(
                "webhook_url: webhooks are off here; poll or read the events instead.",
                code="webhooks-disabled",
                pointer="webhook_url",
            )
        try:
            check_url(url, allow_private=self._allow_private)
        except ForbiddenTarget as error:
            raise _forbidden(error.detail) from None

    async def resolve(self, url: str | None) -> None:
        """Look the host up, for at most a second. Raises ForbiddenTarget unless all its addresses may be called.

        A name that does not exist and one that is private get the same answer: nobody learns our names from it.
        """
        if not url:
            return
        parts = urlsplit(url)
        lookup = asyncio.get_running_loop().run_in_executor(
            self._lookups, _addresses, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        )
        try:
            async with asyncio.timeout(LOOKUP_S):
                addresses = await lookup
        except TimeoutError:
            log.info("a webhook host was not looked up in time, delivery will")
            return
        if not addresses or not (self._allow_private or all(map(is_public, addresses))):
            raise _forbidden("the webhook host does not resolve to public addresses only")


def _addresses(host: str, port: int) -> list[str]:
    """Every address of `host`; none when there is no such host. Raises TimeoutError when name servers are silent."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise TimeoutError from None
        return []
    except UnicodeError:
        return []


def _forbidden(detail: str) -> ForbiddenTarget:
    return ForbiddenTarget(f"webhook_url: {detail}.", pointer="webhook_url")
