"""Whether something else listens on a port already, said before anything is started."""

from __future__ import annotations

import socket

from service.errors import CommandFailed


def free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises CommandFailed when nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandFailed(
                f"cannot listen on {host}:{port} ({(error.strerror or str(error)).lower()}); choose another "
                "port with --port or CHANGEROOM_PORT"
            ) from None
        return int(probe.getsockname()[1])
