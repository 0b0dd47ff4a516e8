"""Who is next at the decoders: fair between callers, and between the addresses of one caller, with an end to the line.

Turns are start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996) by estimated seconds, on three levels:
quick and slow pictures, callers, their addresses. Whoever has had less goes first, and nobody saves up turns by staying
away. Slow pictures never have every decoder, so that a quick one is not kept waiting by them. A line has room for so
many seconds of work; who waits in it may hold SHARE times what is free (dynamic thresholds: Choudhury, Hahne, IEEE/ACM
Trans. Networking 6(2), 1998), so that one caller alone fills four fifths of it and the next one still finds room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from service.errors import QueueFull

SLOW_S = 1.0
ROOM_S = 10.0
SHARE = 4
MOST_WAITING = 512
MOST_IDLE = 1024


@dataclass(frozen=True)
class Asker:
    """For whom a picture is opened: the caller, and the address that the request came from."""

    tenant: str = ""
    address: str = ""


NOBODY = Asker()


@dataclass(eq=False)
class _Turn:
    cost_s: float
    given: asyncio.Future[None]
    taken: bool = False


class _Node:
    """A line of turns, or a level of lines. `had` is its virtual time, `clock` that of its children."""

    def __init__(self, had: float = 0.0) -> None:
        self.had = had
        self.clock = 0.0
        self.waiting = 0
        self.waiting_s = 0.0
        self.children: dict[str, _Node] = {}
        self.line: deque[_Turn] = deque()

    def child(self, name: str) -> _Node:
        found = self.children.get(name)
        if found is None:
            if len(self.children) >= MOST_IDLE:
                self.children = {key: node for key, node in self.children.items() if node.waiting}
            found = self.children[name] = _Node(self.clock)
        elif not found.waiting:
            found.had = max(found.had, self.clock)
        return found


class Turns:
    """Turns at `places` decoders. `take` one, and `leave` it with the same cost."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._slow_places = max(1, places - 1)
        self._taken = 0
        self._slow_taken = 0
        self._root = _Node()

    async def take(self, asker: Asker, cost_s: float) -> None:
        """Wait for a place. Raises QueueFull (decoder-busy) when the line has no room for this picture of this asker.

        Who is cancelled while waiting leaves the line.
        """
        path = self._path(asker, cost_s)
        self._check_room(path, cost_s)
        turn = _Turn(cost_s, asyncio.get_running_loop().create_future())
        path[-1].line.append(turn)
        _count(path, 1, cost_s)
        self._call_next()
        try:
            await turn.given
        except asyncio.CancelledError:
            if turn in path[-1].line:
                path[-1].line.remove(turn)
                _count(path, -1, -cost_s)
            elif turn.taken:
                self.leave(cost_s)
            raise

    def leave(self, cost_s: float) -> None:
        """Give a place back."""
        self._taken -= 1
        self._slow_taken -= cost_s > SLOW_S
        self._call_next()

    def close(self) -> None:
        """Send everybody away who still waits."""
        for turn in _turns(self._root):
            if not turn.given.done():
                turn.given.set_exception(self._busy(self._root.waiting_s))
        self._root = _Node()

    def _path(self, asker: Asker, cost_s: float) -> list[_Node]:
        pace = self._root.child("slow" if cost_s > SLOW_S else "quick")
        tenant = pace.child(asker.tenant)
        return [self._root, pace, tenant, tenant.child(asker.address)]

    def _check_room(self, path: list[_Node], cost_s: float) -> None:
        _, pace, *own = path
        if self._taken < self._places and not self._root.waiting:
            return
        free = ROOM_S * self._places - pace.waiting_s - cost_s
        if pace.waiting >= MOST_WAITING or any(node.waiting_s + cost_s > SHARE * free for node in own):
            raise self._busy(pace.waiting_s)

    def _busy(self, waiting_s: float) -> QueueFull:
        return QueueFull(
            "Opening the pictures takes too long just now. Send the same request again shortly.",
            code="decoder-busy",
            retry_after=min(60.0, max(1.0, waiting_s / self._places)),
        )

    def _call_next(self) -> None:
        while self._taken < self._places:
            closed = "slow" if self._slow_taken >= self._slow_places else ""
            path = _next(self._root, closed)
            if path is None:
                return
            turn = path[-1].line.popleft()
            if turn.given.done():  # its asker has left and will say so next
                _count(path, -1, -turn.cost_s)
                continue
            for parent, node in pairwise(path):
                parent.clock = max(parent.clock, node.had)
                node.had += turn.cost_s
            _count(path, -1, -turn.cost_s)
            self._taken += 1
            self._slow_taken += turn.cost_s > SLOW_S
            turn.taken = True
            turn.given.set_result(None)


def _next(root: _Node, closed: str) -> list[_Node] | None:
    """The way to the line whose first turn is next, but not through the child `closed` of the root."""
    path, children = [root], [node for name, node in root.children.items() if name != closed]
    while children:
        waiting = [node for node in children if node.waiting]
        if not waiting:
            return None
        path.append(min(waiting, key=lambda node: node.had))
        children = list(path[-1].children.values())
    return path if path[-1].line else None


def _count(path: list[_Node], turns: int, seconds: float) -> None:
    for node in path:
        node.waiting += turns
        node.waiting_s = node.waiting_s + seconds if node.waiting else 0.0


def _turns(node: _Node) -> Iterator[_Turn]:
    yield from node.line
    for child in node.children.values():
        yield from _turns(child)
