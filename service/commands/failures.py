"""One line on stderr and exit code 1 for every failure a user can act on; a traceback only with `--debug`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup


def describe(error: BaseException) -> str:
    """`error` as one line for a terminal."""
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package {error.name!r} is not installed; run: make setup"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text


class OneLineFailures(TyperGroup):
    """The command group of `changeroom`."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given
        given = [word for word in given if word != "--debug"]
        try:
            return super().main(args=given, **extra)
        except (typer.Exit, SystemExit):
            raise
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except Exception as error:
            if debug:
                raise
            typer.echo(f"error: {describe(error)}", err=True)
            raise SystemExit(1) from None
