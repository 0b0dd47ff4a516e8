"""`changeroom keys`: make API keys, of which only digests are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from service.errors import CommandFailed

keys = typer.Typer(no_args_is_help=True)


@keys.callback()
def _group() -> None:
    """API keys, kept as digests, each with its own limits.

    Where keys are required, only those made with --high-priority may send priority=high.
    """


@keys.command()
def new(
    tenant: Annotated[str, typer.Argument(help="Who the key is for: small letters, digits, - and _.")],
    file: Annotated[Path, typer.Option(help="The key file, made when absent.")] = Path("keys.json"),
    rate_per_minute: Annotated[int | None, typer.Option(min=0, help="Requests a minute; 0 is unlimited.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=0, help="Jobs in flight; 0 is unlimited.")] = None,
    daily_quota: Annotated[int | None, typer.Option(min=0, help="Jobs a UTC day; 0 is unlimited.")] = None,
    catalogue_garments: Annotated[int | None, typer.Option(min=0, help="Garments it may keep; 0 is unlimited.")] = None,
    catalogue_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of their pictures; 0 is unlimited.")] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(min=0, help="Bytes of the store for records of its jobs; 0 is unlimited.")
    ] = None,
    high_priority: Annotated[
        bool, typer.Option("--high-priority", help="The key may send priority=high, ahead of all others.")
    ] = False,
) -> None:
    """Make a key, add its digest to the file and print the key, once.

    Example: changeroom keys new shop --file keys.json --rate-per-minute 1200
    Serve with CHANGEROOM_API_KEYS_FILE=keys.json
    """
    from pydantic import ValidationError

    from service.gateway.work.api_keys import KeyEntry, KeyFile, new_key

    try:
        known = KeyFile.model_validate_json(file.read_bytes()) if file.exists() else KeyFile()
        key, entry = new_key(tenant)
        rights = {
            "rate_per_minute": rate_per_minute,
            "concurrency": concurrency,
            "daily_quota": daily_quota,
            "catalogue_garments": catalogue_garments,
            "catalogue_bytes": catalogue_bytes,
            "stored_bytes": stored_bytes,
            "high_priority": high_priority,
        }
        entry = KeyEntry.model_validate(entry.model_dump() | rights)
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandFailed(f"{first['msg']} (at {'.'.join(map(str, first['loc'])) or file})") from error
    temporary = file.with_name(f".{file.name}.tmp")
    body = KeyFile(keys=(*known.keys, entry)).model_dump_json(indent=2, exclude_none=True) + "\n"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(body)
    temporary.replace(file)
    typer.echo(key)
