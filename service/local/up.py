"""Everything on this machine: store, workers, gateway, and one try-on through the public API to show it.

The parts are the production commands as child processes; this one only starts them in order, restarts what
ends, the store on its log, and stops them in order: the gateway first (it takes no more requests), then the workers
(they finish or hand back), then the store. It holds the gateway's listening sockets itself: who connects while the
gateway is being restarted waits for it instead of being refused.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
import redis
from rich.console import Console

from service.errors import CommandFailed
from service.local.first_try_on import Dressing
from service.local.household import Household
from service.local.store_keeper import StoreKeeper
from service.local.supervisor import Child
from service.ports import listening
from service.settings import Settings, load_settings, without_password

READY_PATIENCE_S = 900.0
TEND_EVERY_S = 0.1
STORE_PATIENCE_S = 3.0
EXTRA_GRACE_S = 5.0
EVERYWHERE = ("0.0.0.0", "::", "")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


def up(settings: Settings, console: Console | None = None) -> int:
    """Run everything until Ctrl-C or SIGTERM; returns 0 after an orderly end.

    Raises CommandFailed, ChildFailed, EmbeddedServerError or OSError with one line that says what to do.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    with _interrupts(), _sole_owner(settings.data_dir), listening(settings.host, settings.port) as sockets:
        store: StoreKeeper | None = None
        if "redis_url" in settings.model_fields_set:
            _check_store(settings.redis_url)
            url = settings.redis_url
        else:
            store = StoreKeeper(settings.data_dir, settings.store_memory_bytes)
            url = store.url
        household = Household(store, _children(settings, url, sockets))
        try:
            return _serve(settings, sockets[0].getsockname()[1], household, console)
        except Interrupted:
            console.print("stopping: finishing what runs (Ctrl-C again to stop at once)")
            return 0
        finally:
            for opened in sockets:
                opened.close()
            _stop(household, settings.drain_grace_s + EXTRA_GRACE_S, console)
            household.stop_store()


def _serve(settings: Settings, port: int, household: Household, console: Console) -> int:
    address = f"http://{_reachable(settings.host)}:{port}"
    started = time.monotonic()
    household.start()
    if not console.is_terminal:
        console.print(f"starting: loading {settings.model}")
    with console.status(f"starting: loading {settings.model}"):
        _wait_until_ready(address, household, settings.data_dir / "logs", console)
    console.print(f"ready after {time.monotonic() - started:.1f} s")
    if settings.keys_required:
        console.print("keys are required, so the sample person is not dressed; use a key of yours")
    else:
        dressing = Dressing(address, settings.data_dir / "first-try-on.jpg", settings.deadline_max_s)
        with console.status("dressing the sample person"):
            while not dressing.over():
                _tend(household, console)
        _tell(dressing, console)
    console.print(f"page          {address}/")
    if settings.host in EVERYWHERE and (own := own_address()) is not None:
        console.print(f"from a phone  http://{own}:{port}/")
    console.print(f"logs          {(settings.data_dir / 'logs').absolute()}")
    console.print("serving until Ctrl-C")
    while True:
        _tend(household, console)


def _tend(household: Household, console: Console, *, starting: bool = False) -> None:
    time.sleep(TEND_EVERY_S)
    for line in household.tend(starting=starting):
        console.print(line)


def _tell(dressing: Dressing, console: Console) -> None:
    if dressing.failure is not None:
        console.print(f"{dressing.failure}; everything goes on, dress your own person on the page")
        return
    first = dressing.made
    if first is None:
        console.print("no sample pictures are bundled; dress your own person on the page")
        return
    stages = "  ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in first.timings.items())
    console.print(f"first try-on  {first.path}  ({first.seconds:.2f} s through the API)")
    console.print(f"by stage      {stages}")


def _children(settings: Settings, redis_url: str, sockets: Sequence[socket.socket]) -> list[Child]:
    logs = settings.data_dir.absolute() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    common = ["--data", str(settings.data_dir.absolute())]
    if redis_url != load_settings().redis_url:
        common += ["--redis-url", redis_url]
    files = [opened.fileno() for opened in sockets]
    gateway = ["gateway", *common, "--host", settings.host, "--port", str(sockets[0].getsockname()[1])]
    gateway += [word for file in files for word in ("--fd", str(file))]
    gateway += _set(settings, ("model",))
    children = [Child("gateway", gateway, logs / "gateway.log", files=files)]
    for index, device in enumerate(_devices(settings)):
        worker = ["worker", *common, "--model", settings.model, "--backend", settings.backend]
        worker += ["--device", device, "--dtype", settings.dtype, *_set(settings, ("workers",))]
        if settings.metrics_port:
            worker += ["--metrics-port", str(settings.metrics_port + index)]
        children.append(Child(f"worker {index}", worker, logs / f"worker-{index}.log"))
    return children


_OWN_FLAGS = frozenset(
    {
        "redis_url",
        "data_dir",
        "host",
        "port",
        "model",
        "backend",
        "device",
        "dtype",
        "metrics_port",
        "workers",
    }
)
_SECRET = frozenset({"webhook_secret", "url_secret", "rewriter_key"})


def _set(settings: Settings, also: tuple[str, ...]) -> list[str]:
    """`--set` flags for what was chosen; secrets travel by the inherited environment only."""
    chosen = (settings.model_fields_set - _OWN_FLAGS - _SECRET) | set(also)
    given: list[str] = []
    for name in sorted(chosen):
        value = getattr(settings, name)
        if value is not None:
            given += ["--set", f"{name}={value}"]
    return given


def _devices(settings: Settings) -> list[str]:
    """One device a worker: several workers are spread over the GPUs of this machine."""
    if settings.workers == 1 or settings.device not in ("auto", "cuda"):
        return [settings.device] * settings.workers
    gpus = _gpu_count()
    if gpus == 0:
        return [settings.device] * settings.workers
    return [f"cuda:{index % gpus}" for index in range(settings.workers)]


def _gpu_count() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _wait_until_ready(address: str, household: Household, logs: Path, console: Console) -> None:
    give_up_at = time.monotonic() + READY_PATIENCE_S
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < give_up_at:
            _tend(household, console, starting=True)
            try:
                if client.get(f"{address}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
    raise CommandFailed(f"not ready after {READY_PATIENCE_S:.0f} s; see {logs}")


def own_address() -> str | None:
    """This machine's IPv4 address on the network it would use; None without one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: connecting a datagram socket only picks a route
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _reachable(host: str) -> str:
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    return anywhere.get(host, f"[{host}]" if ":" in host else host)


def _check_store(url: str) -> None:
    try:
        client = redis.Redis.from_url(
            url, socket_connect_timeout=STORE_PATIENCE_S, socket_timeout=STORE_PATIENCE_S, retry=None
        )
        client.ping()
        client.close()
    except (redis.RedisError, OSError, ValueError) as error:
        raise CommandFailed(
            f"the store at {without_password(url)} does not answer ({error}); start it, correct REDIS_URL, "
            "or unset REDIS_URL to use the embedded one"
        ) from None


@contextmanager
def _sole_owner(data_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock. Raises CommandFailed when another `up` uses it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(
                f"another changeroom already runs on {data_dir.absolute()}; stop it or choose --data"
            ) from None
        yield


@contextmanager
def _interrupts() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted, once; later ones interrupt the orderly end itself."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.default_int_handler)
        raise Interrupted

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _stop(household: Household, grace_s: float, console: Console) -> None:
    try:
        household.stop(grace_s)
    except KeyboardInterrupt:
        console.print("stopping at once")
        household.kill()
