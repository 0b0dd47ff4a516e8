"""Options of a command in groups: its parameters are dataclasses, whose fields are the options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter, Signature
from typing import Any, get_type_hints


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """`command(a: A, b: B)` of dataclasses as a function of all their fields in that order, for Typer to register.

    A field is an option as a parameter would be: its name, its `Annotated[..., typer.Option()]` type, its default.
    The help is the docstring of `command`. Raises TypeError where the program is wrong, not its caller: for a
    parameter that is no dataclass, or a name that two of them have.
    """
    groups = get_type_hints(command)
    groups.pop("return", None)
    options: dict[str, Parameter] = {}
    for name, group in groups.items():
        if not is_dataclass(group):
            raise TypeError(f"{command.__name__}: {name} is not a dataclass")
        types = get_type_hints(group, include_extras=True)
        for option in fields(group):
            if option.name in options:
                raise TypeError(f"{command.__name__}: two options are called {option.name}")
            options[option.name] = _parameter(option, types[option.name])

    def run(**given: Any) -> None:
        command(*(group(**{option.name: given[option.name] for option in fields(group)}) for group in groups.values()))

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__annotations__ = {name: parameter.annotation for name, parameter in options.items()}
    run.__dict__["__signature__"] = Signature(list(options.values()))
    return run


def _parameter(option: Field[Any], annotation: Any) -> Parameter:
    default = Parameter.empty if option.default is MISSING else option.default
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
