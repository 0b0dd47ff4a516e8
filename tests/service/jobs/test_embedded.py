"""The embedded server: up in no time, durable, adopted when it outlived its parent, stopped cleanly."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from service.jobs import embedded
from service.jobs.embedded import EmbeddedServerError, socket_path_for, start_server


def client_of(server: embedded.EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_it_keeps_what_it_was_given_over_a_clean_stop(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    with client_of(server) as client:
        client.set("kept", "yes")
    server.stop()
    assert not server.alive()
    server = start_server(tmp_path)
    with client_of(server) as client:
        assert client.get("kept") == "yes"
    server.stop()


def test_it_keeps_what_it_answered_over_a_kill(tmp_path: Path) -> None:
    """The second write comes while the first would be flushed: `appendfsync everysec` loses it."""
    for attempt in range(3):
        server = start_server(tmp_path / str(attempt))
        with client_of(server) as client:
            client.set("first", "1")
            client.set("second", "2")
        server.kill()
        server = start_server(tmp_path / str(attempt))
        with client_of(server) as client:
            assert (client.get("first"), client.get("second")) == ("1", "2")
        server.kill()


def test_its_log_is_flushed_to_disk_and_left_alone_when_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    fsync = os.fsync
    server = start_server(tmp_path)
    (log,) = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")

    def flush(file: int) -> None:
        if os.path.samestat(os.fstat(file), log.stat()):
            flushed.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr(os, "fsync", flush)
    with client_of(server) as client:
        client.set("key", "x" * 10_000)
    patience = time.monotonic() + 20
    while (not flushed or flushed[-1] < 10_000) and time.monotonic() < patience:
        time.sleep(0.05)
    assert flushed[-1] == log.stat().st_size > 10_000
    count = len(flushed)
    time.sleep(1.2)
    assert len(flushed) == count
    server.stop()


def test_it_speaks_on_a_private_unix_socket_only(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    with client_of(server) as client:
        config = client.config_get("port", "appendonly", "maxmemory-policy")
    assert (config["port"], config["appendonly"], config["maxmemory-policy"]) == ("0", "yes", "noeviction")
    assert server.socket_path.stat().st_mode & 0o077 == 0
    server.stop()


def test_a_second_start_adopts_the_running_server(tmp_path: Path) -> None:
    first = start_server(tmp_path)
    second = start_server(tmp_path)
    assert (second.pid, second.url) == (first.pid, first.url)
    first.stop()


def test_a_server_that_outlived_its_killed_parent_is_adopted_and_stopped(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from service.jobs.embedded import start_server\n"
        "print(start_server(pathlib.Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    server = start_server(tmp_path)
    assert server.pid == pid
    server.stop()
    with pytest.raises(redis.ConnectionError), client_of(server) as client:
        client.ping()


def test_starting_at_the_same_time_makes_one_server(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: start_server(tmp_path), range(4)))
    assert len({server.pid for server in servers}) == 1
    for server in sorted(servers, key=lambda server: server._process is None):
        server.stop()


def test_a_frozen_server_is_not_joined_by_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server(tmp_path)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 1.5)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedServerError, match="does not answer"):
            start_server(tmp_path)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    with client_of(server) as client:
        assert client.ping()
    server.stop()


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    assert os.getsid(server.pid) != os.getsid(0)
    server.stop()


def test_a_long_data_folder_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    server = start_server(folder)
    assert len(os.fsencode(server.socket_path)) <= embedded.SOCKET_PATH_LIMIT
    assert socket_path_for(folder) == server.socket_path
    with client_of(server) as client:
        assert client.ping()
    other = start_server(folder)
    assert (other.pid, other.socket_path) == (server.pid, server.socket_path)
    server.stop()
    assert (folder / "valkey" / "appendonlydir").is_dir()
    again = start_server(folder)
    assert again.socket_path == server.socket_path, "processes that were told the address stay right"
    again.stop()


def test_a_short_socket_lies_where_nobody_could_have_been_before_us(tmp_path: Path) -> None:
    """Not even in the folder of the name that an earlier version took, made by another user first."""
    folder = tmp_path / ("d" * 120)
    name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    foreseen = Path(tempfile.gettempdir()) / f"changeroom-{os.getuid()}-{name}"
    foreseen.mkdir(mode=0o777)
    foreseen.chmod(0o777)
    try:
        server = start_server(folder)
        server.stop()
        assert server.socket_path.parent != foreseen
        assert stat.S_IMODE(server.socket_path.parent.lstat().st_mode) == 0o700
    finally:
        foreseen.rmdir()


def link_to(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "swap",
    [
        lambda path: path.mkdir(mode=0o700) or path.chmod(0o770),
        link_to,
        lambda path: path.mkdir(mode=0o700) or os.chown(path, 12345, 12345),
        lambda path: None,
    ],
    ids=["open to a group", "a link", "of another user", "gone"],
)
def test_a_remembered_socket_folder_that_is_not_ours_alone_is_left_alone(
    tmp_path: Path, swap: Callable[[Path], None]
) -> None:
    folder = tmp_path / ("d" * 120)
    start_server(folder).stop()
    chosen = tmp_path / "chosen"
    (folder / "valkey" / "socket_folder").write_text(str(chosen))
    try:
        swap(chosen)
    except PermissionError:
        pytest.skip("only root may give a folder away")
    server = start_server(folder)
    assert server.socket_path.parent != chosen
    server.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_a_data_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    os.chown(tmp_path / "valkey", 12345, 12345)
    with pytest.raises(EmbeddedServerError, match="another user"):
        start_server(tmp_path)


def test_its_folder_is_for_us_alone(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir(mode=0o777)
    (tmp_path / "valkey").chmod(0o777)
    start_server(tmp_path).stop()
    assert stat.S_IMODE((tmp_path / "valkey").lstat().st_mode) == 0o700


def test_its_memory_is_bounded_also_when_it_is_adopted(tmp_path: Path) -> None:
    first = start_server(tmp_path, 64 << 20)
    with client_of(first) as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(64 << 20)
        start_server(tmp_path, 32 << 20)
        assert client.config_get("maxmemory")["maxmemory"] == str(32 << 20)
    first.stop()


def test_a_cut_off_log_is_loaded_to_the_cut(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    with client_of(server) as client:
        client.set("first", "1")
        client.set("second", "2" * 100)
    server.kill()
    (log,) = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:-50])
    server = start_server(tmp_path)
    with client_of(server) as client:
        assert (client.get("first"), client.get("second")) == ("1", None)
    server.stop()


def test_a_server_that_will_not_start_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "valkey" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EmbeddedServerError, match=r"did not start.*valkey\.log") as caught:
        start_server(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_machine_without_the_program_hears_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EmbeddedServerError, match="REDIS_URL"):
        start_server(tmp_path)


def test_it_idles_on_next_to_nothing(tmp_path: Path) -> None:
    """For 4 s on less than 20 000 small commands cost it on the same processor."""
    server = start_server(tmp_path)

    def ticks() -> int:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(4)
    idle = ticks() - before
    with client_of(server) as client:
        for _ in range(20_000):
            client.ping()
    busy = ticks() - before - idle
    os.kill(server.pid, signal.SIGTERM)
    server.stop()
    assert idle < busy
