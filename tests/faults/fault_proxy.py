"""A TCP proxy between service and store that delays, drops, goes silent, or stops at a chosen message.

One thread a direction of a connection. What happens to bytes is decided when they pass, so a change of mode
reaches connections that are already open.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Direction = Literal["to store", "to client"]
CHUNK = 1 << 16


class Trap:
    """Springs on the first chunk of a direction that holds `mark`; from then on its proxy is silent.

    `forward` says whether that chunk still passes. One that does not may arrive late, by `release`.
    """

    def __init__(self, direction: Direction, mark: bytes, *, forward: bool) -> None:
        self.direction = direction
        self.mark = mark
        self.forward = forward
        self.sprung = threading.Event()
        self._held: tuple[socket.socket, bytes] | None = None

    def spring(self, sink: socket.socket, data: bytes) -> None:
        if not self.forward:
            self._held = (sink, data)
        self.sprung.set()

    def release(self) -> None:
        """Let the chunk that was held arrive now, as a network may. Raises OSError when the sink has gone."""
        if self._held is not None:
            sink, data = self._held
            sink.sendall(data)


class Proxy:
    """Listens on `port` of loopback and connects to `target`."""

    def __init__(self) -> None:
        self.target = 0
        self.delay_s = 0.0
        self.silent = False
        self.trap: Trap | None = None
        self._lost: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def drop(self) -> None:
        """Reset every connection and refuse new ones, until `heal`."""
        self._refusing = True
        self._reset()

    def catch(self, direction: Direction, mark: bytes, *, forward: bool) -> Trap:
        """Set a trap; returns it."""
        self.trap = Trap(direction, mark, forward=forward)
        return self.trap

    def half_open(self) -> None:
        """Every present connection goes silent for ever, both ends believing in it; new ones work."""
        self._lost |= self._open

    def heal(self) -> None:
        """Pass everything again; connections that were silenced meanwhile are reset."""
        self._reset()
        self.delay_s, self.silent, self.trap, self._refusing = 0.0, False, None, False

    def close(self) -> None:
        self._refusing = True
        self._listener.close()
        self._reset()

    def _reset(self) -> None:
        for end in list(self._open):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                end.shutdown(socket.SHUT_RDWR)
            self._forget(end)

    def _forget(self, end: socket.socket) -> None:
        self._open.discard(end)
        self._lost.discard(end)
        with suppress(OSError):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                store = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                continue
            store.settimeout(None)
            self._open |= {client, store}
            pairs: tuple[tuple[socket.socket, socket.socket, Direction], ...] = (
                (client, store, "to store"),
                (store, client, "to client"),
            )
            for source, sink, direction in pairs:
                threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        try:
            while data := source.recv(CHUNK):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self._passes(source, sink, direction, data):
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            if source not in self._lost and not self.silent:
                self._forget(source)
                self._forget(sink)

    def _passes(self, source: socket.socket, sink: socket.socket, direction: Direction, data: bytes) -> bool:
        if self.silent or source in self._lost or sink in self._lost:
            return False
        trap = self.trap
        if trap is not None and trap.direction == direction and trap.mark in data and not trap.sprung.is_set():
            self.silent = True
            trap.spring(sink, data)
            return trap.forward
        return True
