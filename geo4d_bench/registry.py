"""Named things (tasks, rigs, policies, generators): duplicates are refused, misspelt names get a suggestion, and other
packages add their own by entry points."""

from __future__ import annotations

import difflib
import functools
import pkgutil
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from geo4d_bench.errors import PluginError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from name to entry that refuses to overwrite and helps with typing errors.

    Args:
        kind: what the entries are, in the singular, as it should read in an error ("task").
        group: of the entry points by which other packages add entries under the entry point's name; None: no such.
        builtin: our own entries as ``module:attribute``, imported when they are first asked for.
    """

    def __init__(self, kind: str, group: str | None = None, builtin: dict[str, str] | None = None) -> None:
        self.kind, self.group = kind, group
        self._entries: dict[str, T] = {}
        self._lazy = dict(builtin or {})

    def register(self, name: str, entry: T) -> T:
        """Add ``entry`` under ``name`` and return it; ValueError where the name is taken."""
        if name in self:
            raise ValueError(f"{self.kind} '{name}' is registered already")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UnknownNameError: there is none; names the nearest ones.
            PluginError: it is another package's and cannot be imported.
        """
        if name not in self:
            raise unknown_name(self.kind, name, list(self))
        if name not in self._entries:
            lazy = self._lazy.get(name)
            entry = pkgutil.resolve_name(lazy) if lazy is not None else _load(self.kind, self._outside[name])
            self._entries[name] = cast(T, entry)
        return self._entries[name]

    def items(self) -> Iterator[tuple[str, T]]:
        """All entries, imported, by name."""
        return ((name, self.get(name)) for name in self)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._lazy, *self._outside}))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._lazy or name in self._outside

    @functools.cached_property
    def _outside(self) -> dict[str, EntryPoint]:
        """Entry points of other packages. PluginError where two have one name, or one has ours."""
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group) if self.group is not None else ():
            other = found.get(point.name)
            if other is not None and other.value == point.value:
                continue  # one package that is found twice on the path
            if point.name in self._lazy or other is not None:
                raise PluginError(
                    f"the {self.kind} '{point.name}' of {_package(point)} has the name of another one"
                    f"{f' ({_package(other)})' if other else ''}; uninstall one of the packages"
                )
            found[point.name] = point
        return found


def task_name(id: str, version: str) -> str:
    """What options, folders and lists call a version of a task: ``store_cereal`` (v1), ``store_cereal-v2``."""
    return id if version == "v1" else f"{id}-{version}"


def unknown_name(kind: str, name: str, known: Sequence[str]) -> UnknownNameError:
    """The error for a name that is not among the known ones: suggests the nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(known)}"
    return UnknownNameError(f"there is no {kind} '{name}'; {hint}")


def _load(kind: str, point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise PluginError(
            f"the {kind} '{point.name}' of {_package(point)} cannot be imported from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
