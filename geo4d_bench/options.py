"""Command-line options that depend on what is installed: names in help texts, and a plug-in's own options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from pydantic import Field, TypeAdapter, ValidationError

from geo4d_bench.errors import ConfigError

T = TypeVar("T")


Count = Annotated[int, Field(ge=1, le=10**6)]
"""Of episodes, windows and the like."""
Steps = Annotated[int, Field(ge=1, le=10**9)]
Processes = Annotated[int, Field(ge=1, le=1024)]
"""Or threads."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_EXPECTED = {
    "greater_than": "more than {gt:g}", "greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
}  # fmt: skip


def check_ranges(config: Any) -> None:
    """ConfigError for the first number of a config dataclass that is outside the range that its type names."""
    kinds = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if type(value) not in (int, float):
            continue
        try:
            TypeAdapter(kinds[field.name]).validate_python(value)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            expected = _EXPECTED[fault["type"]].format(**fault.get("ctx", {}))
            raise ConfigError(f"--{field.name.replace('_', '-')} is {value}, expected {expected}") from None


def listing(what: str, names: Iterable[str]) -> str:
    """A help text that ends with the names that there are."""
    return f"{what}: {', '.join(names)}."


def with_help(config: type[T], own: Any = None, **helps: str) -> type[T]:
    """A config dataclass with other help texts for some of its fields, by name.

    ``own``, an instance of a dataclass, holds further options, which become the field ``options``.
    """
    kinds = get_type_hints(config)
    fields: list[Any] = [
        (name, Annotated[kinds[name], tyro.conf.arg(help=text)], getattr(config, name)) for name, text in helps.items()
    ]
    if own is not None:
        fields.append(("options", Annotated[type(own), tyro.conf.arg(name="")], own))
    return dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)


def option(args: Sequence[str], name: str) -> str | None:
    """The value of an option among command-line arguments, the last one given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name)
    value: str | None = parser.parse_known_args(list(args))[0].__dict__[name.removeprefix("--")]
    return value
