"""The pool: whatever a file does to its process, the next picture is decoded, in time and within memory."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import pytest_asyncio
from sample_pictures import encoded, picture, png

from service.errors import InvalidImage, QueueFull, ServiceError, UnsupportedMediaType
from service.pictures.pool import ImagePool
from service.pictures.turns import Asker

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
pillow_heif.register_heif_opener(thumbnails=False)


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[ImagePool]:
    async with ImagePool(workers=1, timeout_s=60) as pool:
        yield pool


def small_files() -> dict[str, bytes]:
    image = picture(48, 40)
    return {kind: encoded(image, kind, quality=30) for kind in FORMATS} | {
        "progressive": encoded(image, "JPEG", quality=30, progressive=True),
        "lossless webp": encoded(image.quantize(4).convert("RGB"), "WEBP", lossless=True),
    }


@pytest.mark.parametrize("kind", list(small_files()))
async def test_a_file_cut_at_any_byte_is_answered_by_the_same_process(kind: str, pool: ImagePool) -> None:
    whole = small_files()[kind]
    before = await _process(pool)
    refused = 0
    for length in range(len(whole)):
        try:
            await pool.decode(whole[:length])
        except (InvalidImage, UnsupportedMediaType) as error:
            assert error.code in {
                "empty-image",
                "damaged-image",
                "unsupported-image-format",
                "zero-size-image",
            }
            refused += 1
    assert refused > len(whole) * 0.9
    assert await _process(pool) == before
    assert (await pool.decode(whole)).width == 48


@pytest.mark.parametrize("kind", FORMATS)
async def test_flipped_bytes_never_end_a_process(kind: str, pool: ImagePool) -> None:
    whole = small_files()[kind]
    draw = np.random.default_rng(5)
    before = await _process(pool)
    for _ in range(150):
        data = bytearray(whole)
        for at in draw.integers(4, len(data), 4):
            data[at] = draw.integers(256)
        try:
            await pool.decode(bytes(data))
        except ServiceError as error:
            assert error.status in (413, 415, 422)
    assert await _process(pool) == before


async def _until(so: Callable[[], bool]) -> None:
    for _ in range(3000):
        if so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def _process(pool: ImagePool) -> list[int]:
    await pool.decode(encoded(picture(), "JPEG"))
    return pool.processes()


BOMB = png(6000, 6000, raw=b"\0" * ((6000 * 3 + 1) * 6000))


async def test_a_bomb_within_the_pixel_limit_is_scaled_down(pool: ImagePool) -> None:
    assert len(BOMB) < 200_000
    photo = await pool.decode(BOMB)
    assert (photo.width, photo.height) == (2048, 2048)
    assert _peak_kib(*pool.processes()) < 700_000


def _peak_kib(process: int) -> int:
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0])


async def test_a_picture_beyond_the_memory_limit_is_refused_and_the_pool_lives_on() -> None:
    async with ImagePool(workers=1, cpu_s=30, timeout_s=60, memory_bytes=256 << 20) as pool:
        with pytest.raises(InvalidImage) as refused:
            await pool.decode(BOMB)
        assert refused.value.code == "image-too-costly"
        assert (await pool.decode(encoded(picture(), "PNG"))).width == 96


async def test_a_picture_that_costs_too_much_time_is_refused_and_its_process_replaced() -> None:
    async with ImagePool(workers=1, cpu_s=0.05, timeout_s=60) as pool:
        before = pool.processes()
        with pytest.raises(InvalidImage) as refused:
            await pool.decode(BOMB, pointer="person")
        assert refused.value.code == "image-too-costly" and refused.value.pointer == "person"
        assert (await pool.decode(encoded(picture(), "PNG"))).width == 96
        assert pool.processes() != before


async def test_a_file_that_ended_a_process_is_refused_unopened_when_it_comes_again() -> None:
    async with ImagePool(workers=1, cpu_s=0.05, timeout_s=60) as pool:
        with pytest.raises(InvalidImage):
            await pool.decode(BOMB)
        sound = encoded(picture(), "PNG")
        assert (await pool.decode(sound)).width == 96
        (process,) = pool.processes()
        os.kill(process, signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(InvalidImage) as refused:
                await pool.decode(BOMB)
            assert refused.value.code == "image-too-costly"
        os.kill(process, signal.SIGCONT)
        assert (await pool.decode(sound)).width == 96 and pool.processes() == [process]


async def test_a_file_that_would_cost_too_much_is_refused_unopened_however_busy_the_machine() -> None:
    async with ImagePool(workers=1, most_s=0.5, timeout_s=60) as pool:
        (process,) = pool.processes()
        os.kill(process, signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(InvalidImage) as refused:
                await pool.decode(BOMB, pointer="person")
            assert refused.value.code == "image-too-costly" and refused.value.pointer == "person"
        os.kill(process, signal.SIGCONT)
        assert (await pool.decode(encoded(picture(), "PNG"))).width == 96


async def test_a_process_that_the_machine_ended_is_no_fault_of_the_file() -> None:
    async with ImagePool(workers=1, timeout_s=60) as pool:
        (process,) = pool.processes()
        os.kill(process, signal.SIGSTOP)
        decoding = asyncio.create_task(pool.decode(encoded(picture(), "PNG")))
        await _until(lambda: len(pool._decoding) == 1)
        await asyncio.sleep(0.1)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(QueueFull) as busy:
            await decoding
        assert busy.value.code == "decoder-busy" and busy.value.retryable
        assert (await pool.decode(encoded(picture(), "PNG"))).width == 96


async def test_the_pictures_of_one_request_have_one_budget(pool: ImagePool) -> None:
    await pool.check_together([BOMB] * 7 + [b"not a picture"])
    deep = png(6300, 6300, 16, 6)
    with pytest.raises(InvalidImage, match="together") as refused:
        await pool.check_together([deep] * 7)
    assert refused.value.code == "image-too-costly"


async def test_slow_pictures_of_one_caller_do_not_hold_up_another() -> None:
    attacker, guest = Asker("shop", "1.1.1.1"), Asker("other", "2.2.2.2")
    deep = png(5000, 5000, 16, 6, raw=b"\4" + b"\1" * (5000 * 8) + (b"\4" + b"\0" * (5000 * 8)) * 4999)
    async with ImagePool(workers=2, cpu_s=60, timeout_s=60) as pool:
        slow = [asyncio.create_task(pool.decode(deep, asker=attacker)) for _ in range(8)]
        await asyncio.sleep(0.05)
        await pool.decode(encoded(picture(), "PNG"), asker=guest)
        assert sum(task.done() for task in slow) <= 2
        await pool.decode(deep, asker=guest)
        assert sum(task.done() for task in slow) <= 4
        assert {(await task).width for task in slow} == {2048}


async def test_who_leaves_while_waiting_costs_nothing() -> None:
    async with ImagePool(workers=1, timeout_s=60) as pool:
        (process,) = pool.processes()
        os.kill(process, signal.SIGSTOP)
        tasks = [asyncio.create_task(pool.decode(encoded(picture(64 + i, 80), "PNG"))) for i in range(5)]
        await _until(lambda: pool._turns._root.waiting == 4)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert len(pool._decoding) == 1 and not pool._turns._root.waiting
        os.kill(process, signal.SIGCONT)
        assert (await pool.decode(encoded(picture(), "PNG"))).width == 96


async def test_a_machine_too_busy_asks_for_another_try_and_ends_in_time() -> None:
    async with ImagePool(workers=1, timeout_s=0.1) as pool:
        (before,) = pool.processes()
        os.kill(before, signal.SIGSTOP)
        with pytest.raises(QueueFull) as busy:
            await asyncio.wait_for(pool.decode(encoded(picture(), "PNG")), 60)
        assert busy.value.code == "decoder-busy" and busy.value.retryable and busy.value.retry_after
        assert before not in pool.processes()


async def test_a_dead_process_is_replaced() -> None:

    async with ImagePool(workers=1, timeout_s=60) as pool:
        (pid,) = pool.processes()
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert (await pool.decode(encoded(picture(), "PNG"))).width == 96
        assert pool.processes() != [pid]


async def test_many_at_once_and_a_caller_that_leaves(pool: ImagePool) -> None:
    data = [encoded(picture(64 + i, 80), "PNG") for i in range(12)]
    leaving = asyncio.create_task(pool.decode(data[0]))
    await asyncio.sleep(0)
    leaving.cancel()
    photos = await asyncio.gather(*(pool.decode(one) for one in data))
    assert [photo.width for photo in photos] == [64 + i for i in range(12)]
    assert len(pool.processes()) == 1


async def test_a_pool_that_is_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        await ImagePool().decode(encoded(picture(), "PNG"))


async def test_ctrl_c_in_the_gateways_terminal_leaves_decoding_to_the_gateway(pool: ImagePool) -> None:
    (process,) = pool.processes()
    assert os.getpgid(process) != os.getpgrp()


async def test_decoders_end_when_the_gateway_is_gone() -> None:
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert gateway.stdout is not None
    process = int(await gateway.stdout.readline())
    os.kill(process, 0)
    gateway.kill()
    await gateway.wait()
    for _ in range(600):
        if _ended(process):
            break
        await asyncio.sleep(0.1)
    assert _ended(process)


def _ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


ROOT = Path(__file__).parents[3]
GATEWAY = """
import asyncio
from service.pictures.pool import ImagePool

async def main():
    async with ImagePool(workers=1) as pool:
        print(pool.processes()[0], flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
