"""Command-line options that depend on what is installed: names in help texts, and a plug-in's own options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from geo4d_bench.errors import ConfigError

T = TypeVar("T")


def require_at_least(config: Any, least: int, *names: str) -> None:
    """ConfigError unless these numbers of a config dataclass are at least ``least``."""
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")


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
