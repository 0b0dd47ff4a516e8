"""`changeroom up`, `gateway` and `worker`: the processes of the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.model_options import BACKEND_HELP, DEVICE_HELP, DTYPE_HELP, MODEL_HELP

if TYPE_CHECKING:
    from service.settings import Settings

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any setting of the configuration table, e.g. lease_s=5."
    ),
]
RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="A Redis or Valkey elsewhere; default REDIS_URL.")
]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder for the store, pictures and logs.")]
ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL_HELP)]
BackendOption = Annotated[str | None, typer.Option("--backend", help=BACKEND_HELP)]
DeviceOption = Annotated[str | None, typer.Option("--device", help=DEVICE_HELP)]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help=DTYPE_HELP)]
PortOption = Annotated[
    int | None, typer.Option("--port", help="TCP port of the gateway; 0 picks a free one.")
]
HostOption = Annotated[
    str | None, typer.Option("--host", help="Address to listen on; beyond loopback with keys, or auth_required=off.")
]


def up(
    port: PortOption = None,
    host: HostOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, one per device.")] = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    redis_url: RedisOption = None,
    set_: SetOption = None,
) -> None:
    """Run everything on this machine: store, worker, gateway, page; dress the sample person; serve.

    Example: changeroom up --port 8080 --data ./var --model nano
    """
    from service.local.up import up as run_up
    from service.settings import load_settings

    given: dict[str, Any] = _pairs(set_) | {
        "port": port, "host": host, "data_dir": data, "model": model, "workers": workers,
        "backend": backend, "device": device, "dtype": dtype, "redis_url": redis_url,
    }  # fmt: skip
    settings = load_settings(**given)
    _open_only_if_said(settings)
    if settings.listens_beyond_loopback and not settings.keys_required:
        typer.echo(f"no key is asked for: whoever reaches {settings.host} may use this service", err=True)
    raise typer.Exit(run_up(settings))


def gateway(
    port: PortOption = None,
    host: HostOption = None,
    data: DataOption = None,
    redis_url: RedisOption = None,
    fd: Annotated[
        list[int] | None, typer.Option("--fd", help="Serve on this open listening socket instead of host and port.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Run one gateway process: the REST API and the studio page.

    Example: REDIS_URL=redis://store:6379/0 changeroom gateway --host 0.0.0.0 --set api_keys_file=keys.json
    """
    from service.settings import load_settings

    given: dict[str, Any] = _pairs(set_) | {
        "port": port, "host": host, "data_dir": data, "redis_url": redis_url,
    }  # fmt: skip
    settings = load_settings(**given)
    _open_only_if_said(settings)
    from service.gateway.app import serve
    from service.telemetry import configure_logging

    configure_logging(settings)
    serve(settings, fd or ())


def worker(
    model: ModelOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve /metrics here; 0 is off.")] = None,
    data: DataOption = None,
    redis_url: RedisOption = None,
    set_: SetOption = None,
) -> None:
    """Run one worker process on one device.

    Example: REDIS_URL=redis://store:6379/0 changeroom worker --model nano --metrics-port 9101
    """
    from service.settings import load_settings

    given: dict[str, Any] = _pairs(set_) | {
        "model": model, "backend": backend, "device": device, "dtype": dtype,
        "metrics_port": metrics_port, "data_dir": data, "redis_url": redis_url,
    }  # fmt: skip
    settings = load_settings(**given)
    from service.telemetry import configure_logging
    from service.worker.main import run_worker

    configure_logging(settings)
    raise typer.Exit(run_worker(settings))


def _open_only_if_said(settings: Settings) -> None:
    """Raises SettingsError for a service that others could reach and use without a key, where nobody said so."""
    from service.settings import SettingsError

    if settings.listens_beyond_loopback and settings.auth_required is None and not settings.keys_required:
        raise SettingsError(
            f"others than this machine can reach {settings.host}, and no key would be asked for: make one with "
            "`changeroom keys new NAME --file keys.json` and set CHANGEROOM_API_KEYS_FILE=keys.json, or say "
            "CHANGEROOM_AUTH_REQUIRED=off to let everybody in"
        )


def _pairs(given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE", param_hint="--set")
        pairs[name] = value
    return pairs
