"""Command-line options that depend on what is installed: names in help texts, and a plug-in's own options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar

import tyro

T = TypeVar("T")


def listing(what: str, names: Iterable[str]) -> str:
    """A help text that ends with the names that there are."""
    return f"{what}: {', '.join(names)}."


def with_help(config: type[T], own: Any = None, **helps: str) -> type[T]:
    """A config dataclass with other help texts for some fields, by name.

    Args:
        config: it.
        own: further options, an instance of a dataclass, which become the field ``options``; None where there are none.
    """
    fields: list[Any] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.name in helps:
            kind = Annotated[str, tyro.conf.arg(help=helps[field.name])]
            fields.append((field.name, kind, dataclasses.field(default=field.default)))
    if own is not None:
        fields.append(("options", Annotated[type(own), tyro.conf.arg(name="")], dataclasses.field(default=own)))
    return dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)


def option(args: Sequence[str], name: str) -> str | None:
    """The value of an option among command-line arguments, the last one given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name)
    value: str | None = parser.parse_known_args(list(args))[0].__dict__[name.removeprefix("--")]
    return value
