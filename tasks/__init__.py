"""Tasks: seeded robosuite simulations with experts, and the camera rigs that look at them.

Importing this package is cheap; robosuite is imported when a task is made.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

import gymnasium

from geo4d_bench.registry import Registry
from geo4d_bench.tasks.base import Command, Expert, Task, TaskSpec
from geo4d_bench.tasks.store_cereal_layout import SPEC as STORE_CEREAL

__all__ = ["TASKS", "Command", "Expert", "Task", "TaskEntry", "TaskSpec", "make", "names", "spec"]


@dataclass(frozen=True)
class TaskEntry:
    """What a task is, and where its class lives (imported only when the task is made)."""

    spec: TaskSpec
    module: str
    class_name: str


TASKS: Registry[TaskEntry] = Registry("task")
TASKS.register(STORE_CEREAL.id, TaskEntry(STORE_CEREAL, "geo4d_bench.tasks.store_cereal", "StoreCereal"))


def names() -> list[str]:
    """The ids of all tasks, sorted."""
    return list(TASKS)


def spec(id: str) -> TaskSpec:
    """The spec of ``store_cereal`` or ``store_cereal-v1``, without importing robosuite; UnknownNameError."""
    return _entry(id).spec


def make(id: str) -> Task:
    """A new simulation of the task (seconds: robosuite is imported and a model compiled); UnknownNameError."""
    entry = _entry(id)
    return cast(Task, getattr(importlib.import_module(entry.module), entry.class_name)())


def _entry(id: str) -> TaskEntry:
    versioned = {entry.spec.key: entry for entry in (TASKS.get(name) for name in TASKS)}
    return versioned[id] if id in versioned else TASKS.get(id)


def _register_gymnasium(entry: TaskEntry, name: str) -> None:
    """``geo4d/<Name>-v1``; robosuite is imported when ``gymnasium.make`` makes one."""
    gymnasium.register(
        id=f"geo4d/{name}-{entry.spec.version}",
        entry_point="geo4d_bench.tasks.gym_env:TaskEnv",
        kwargs={"task": entry.spec.id},
    )


_register_gymnasium(TASKS.get(STORE_CEREAL.id), "StoreCereal")
