"""A running `changeroom up`, what it says, and the processes it keeps."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import redis

from service.jobs.embedded import socket_path_for


class Up:
    """A running `changeroom up`; its output is read to the line that says it serves."""

    def __init__(self, data: Path, *words: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "service.cli",
            "up",
            "--port",
            str(port),
            "--data",
            str(data),
            *words,
        ]
        env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        self.told: list[str] = []

    def wait_for(self, word: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(line)
            if word in line:
                return line
        raise AssertionError(f"{word!r} was never said: {''.join(self.told)}")

    def children(self) -> dict[str, int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        words = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in listed}
        return {name: pid for pid, said in words.items() for name in ("gateway", "worker") if name.encode() in said}

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        code = self.process.wait(90)
        self.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def store_pid(data: Path) -> int:
    """The process id of the embedded store of a data folder."""
    with redis.Redis(unix_socket_path=str(socket_path_for(data))) as client:
        return int(client.info("server")["process_id"])
