"""Turns at the decoders: fair by seconds between callers and addresses, quick ones let in, an end to the line."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import QueueFull
from service.pictures.turns import ROOM_S, SLOW_S, Asker, Turns

SLOW = SLOW_S + 0.5
ATTACKER, GUEST = Asker("shop", "1.1.1.1"), Asker("other", "2.2.2.2")


class Door:
    """Asks for turns and notes in which order they are given."""

    def __init__(self, places: int) -> None:
        self.turns = Turns(places)
        self.inside: list[tuple[str, float]] = []
        self.seen: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, name: str, asker: Asker, cost_s: float = 0.1) -> asyncio.Task[None]:
        async def wait() -> None:
            await self.turns.take(asker, cost_s)
            self.inside.append((name, cost_s))
            self.seen.append(name)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    async def one_leaves(self) -> None:
        self.turns.leave(self.inside.pop(0)[1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def all_leave(self) -> None:
        while self.inside:
            await self.one_leaves()


async def test_a_newcomer_goes_before_the_rest_of_a_crowd() -> None:
    door = Door(1)
    for number in range(10):
        await door.ask(f"crowd{number}", ATTACKER)
    await door.ask("guest", GUEST)
    await door.one_leaves()
    await door.one_leaves()
    assert "guest" in door.seen[:3]
    await door.all_leave()
    assert [name for name in door.seen if name != "guest"] == [f"crowd{number}" for number in range(10)]


async def test_addresses_of_one_caller_take_turns_and_callers_first() -> None:
    door = Door(1)
    for _ in range(6):
        await door.ask("a", Asker("shop", "1"))
    for _ in range(3):
        await door.ask("b", Asker("shop", "2"))
        await door.ask("c", Asker("other", "3"))
    await door.all_leave()
    assert sorted(door.seen[1:7]) == ["a", "b", "b", "c", "c", "c"] or sorted(door.seen[1:7]) == list("aabccc")
    assert door.seen[-3:] == ["a", "a", "a"]


async def test_turns_are_fair_by_seconds_not_by_pictures() -> None:
    door = Door(1)
    for _ in range(5):
        await door.ask("dear", ATTACKER, 0.8)
    for _ in range(20):
        await door.ask("cheap", GUEST, 0.2)
    for _ in range(15):
        await door.one_leaves()
    assert door.seen.count("dear") <= 4 and door.seen.count("cheap") >= 11


async def test_slow_pictures_leave_a_place_for_quick_ones() -> None:
    door = Door(2)
    for _ in range(4):
        await door.ask("slow", ATTACKER, SLOW)
    assert door.seen == ["slow"]
    await door.ask("quick", ATTACKER)
    assert door.seen == ["slow", "quick"]
    await door.one_leaves()
    assert door.seen == ["slow", "quick", "slow"]
    await door.all_leave()
    assert door.seen.count("slow") == 4


async def test_a_line_ends_and_one_caller_leaves_room_for_the_next() -> None:
    door, waiting = Door(2), 0
    with pytest.raises(QueueFull) as full:
        while True:
            task = await door.ask("crowd", ATTACKER, SLOW)
            if task.done():
                await task
            else:
                waiting += 1
    assert full.value.code == "decoder-busy" and full.value.retryable and full.value.retry_after
    assert 0.7 * ROOM_S * 2 <= waiting * SLOW <= 0.8 * ROOM_S * 2
    for asker in (GUEST, Asker("shop", "3.3.3.3"), Asker("third", "")):
        task = await door.ask("guest", asker, SLOW)
        if asker.tenant == "shop":
            with pytest.raises(QueueFull):
                await task
        else:
            assert not task.done()
    assert (await door.ask("quick", Asker("shop", "3.3.3.3"))).done()


async def test_who_leaves_the_line_takes_no_turn() -> None:
    door = Door(1)
    await door.ask("first", ATTACKER)
    gone, also_gone, stays = [await door.ask(name, ATTACKER) for name in ("gone", "also gone", "stays")]
    gone.cancel()
    await asyncio.wait({gone})
    also_gone.cancel()
    await door.one_leaves()
    assert door.seen == ["first", "stays"] and stays.done() and also_gone.cancelled()
    await door.one_leaves()
    assert (await door.ask("next", GUEST)).done()


async def test_who_leaves_just_as_its_turn_comes_gives_it_back() -> None:
    door = Door(1)
    await door.ask("first", ATTACKER)
    leaving = await door.ask("leaving", ATTACKER)
    door.turns.leave(0.1)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert leaving.cancelled() and (await door.ask("next", GUEST)).done()


async def test_a_closed_line_sends_everybody_away() -> None:
    door = Door(1)
    await door.ask("inside", ATTACKER)
    waiting = [await door.ask("waiting", asker) for asker in (ATTACKER, GUEST)]
    door.turns.close()
    for task in waiting:
        with pytest.raises(QueueFull):
            await task


async def test_askers_that_never_come_again_are_forgotten() -> None:
    door = Door(1)
    for number in range(5000):
        await door.ask("once", Asker("shop", str(number)), 0.01)
        await door.one_leaves()
    assert len(door.turns._root.children["quick"].children["shop"].children) <= 1024
