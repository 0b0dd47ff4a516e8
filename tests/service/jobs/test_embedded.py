"""The embedded server: up in no time, durable, adopted when it outlived its parent, stopped cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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
    assert len(os.fsencode(socket_path_for(folder))) <= embedded.SOCKET_PATH_LIMIT
    server = start_server(folder)
    with client_of(server) as client:
        assert client.ping()
    server.stop()
    assert (folder / "valkey" / "appendonlydir").is_dir()


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
