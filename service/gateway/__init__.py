"""The gateway: HTTP in, jobs out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings


def serve(settings: Settings) -> None:
    """Run the gateway until SIGINT or SIGTERM."""
    from service.gateway.app import serve as run

    run(settings)
