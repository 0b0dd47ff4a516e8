"""Ports: whether something else listens on one already, and sockets that listen, for whoever is to serve them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from service.errors import CommandFailed

BACKLOG = 1024
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What a name's address of a kind that this machine does not have is refused with."""


def free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises CommandFailed when nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _taken(host, port, error) from None
        return int(probe.getsockname()[1])


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen on every address of `host`, on one port (a free one for 0); closed at the end.

    Raises CommandFailed when nothing can listen there.
    """
    with ExitStack() as stack:
        opened: list[socket.socket] = []
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(found):
                where = (address[0], opened[0].getsockname()[1] if opened else port)
                try:
                    opened.append(stack.enter_context(socket.create_server(where, family=family, backlog=BACKLOG)))
                except OSError as error:
                    if error.errno not in NOT_HERE or (address == found[-1][4] and not opened):
                        raise
        except OSError as error:
            raise _taken(host, port, error) from None
        yield opened


def _taken(host: str, port: int, error: OSError) -> CommandFailed:
    return CommandFailed(
        f"cannot listen on {host}:{port} ({(error.strerror or str(error)).lower()}); choose another "
        "port with --port or CHANGEROOM_PORT"
    )
