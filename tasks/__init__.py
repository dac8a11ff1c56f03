"""Tasks: seeded robosuite simulations with experts, and the camera rigs that look at them.

Importing this package is cheap; robosuite is imported when a task is made.
"""

from __future__ import annotations

import importlib.metadata

import gymnasium

from geo4d_bench.errors import ConfigError
from geo4d_bench.registry import Registry
from geo4d_bench.tasks.apple_to_bin import AppleToBin, AppleToBinV2
from geo4d_bench.tasks.base import Command, Expert, TaskSpec
from geo4d_bench.tasks.can_in_drawer import CanInDrawer, CanInDrawerV2
from geo4d_bench.tasks.hang_mug import HangMug
from geo4d_bench.tasks.robosuite_task import RobosuiteTask as Task
from geo4d_bench.tasks.spatula_on_table import SpatulaOnTable, SpatulaOnTableV2
from geo4d_bench.tasks.stack_blocks import StackBlocks
from geo4d_bench.tasks.store_cereal import StoreCereal, StoreCerealV2

__all__ = ["TASKS", "Command", "Expert", "Task", "TaskSpec", "make", "names", "require_robosuite", "spec", "task_class"]

ROBOSUITE = "1.5.2"

TASKS: Registry[type[Task]] = Registry("task", group="geo4d_bench.tasks")


def register(task: type[Task]) -> None:
    """Make a task known under its name, and to Gymnasium as ``geo4d/<ClassName>-<version>``; duplicates are refused.

    A later version, ``StoreCerealV2``, is ``store_cereal-v2`` and ``geo4d/StoreCerealV2-v2``: under one name Gymnasium
    would call the first out of date, which it is not.
    """
    TASKS.register(task.spec.name, task)
    gymnasium.register(
        id=f"geo4d/{task.__name__}-{task.spec.version}",
        entry_point="geo4d_bench.rollout.gym_env:TaskEnv",
        max_episode_steps=round(task.spec.max_seconds * task.spec.control_hz),
        kwargs={"task": task.spec.name},
    )


def names() -> list[str]:
    """The names of all tasks, versions after the first among them, sorted."""
    return list(TASKS)


def spec(id: str) -> TaskSpec:
    """The spec of ``store_cereal`` or ``store_cereal-v1``, without importing robosuite; UnknownNameError."""
    return task_class(id).spec


def make(id: str) -> Task:
    """A new simulation of the task (seconds: robosuite is imported and a model compiled).

    Raises:
        UnknownNameError: no such task.  ConfigError: robosuite is not installed.
    """
    task = task_class(id)
    require_robosuite()
    return task()


def require_robosuite() -> None:
    """ConfigError where robosuite, which pip does not install with this package, is missing or another version."""
    try:
        found = importlib.metadata.version("robosuite")
    except importlib.metadata.PackageNotFoundError:
        found = "missing"
    if found != ROBOSUITE:
        raise ConfigError(
            f"robosuite {ROBOSUITE} simulates the tasks, and here it is {found}; type: "
            f"pip install --no-deps robosuite=={ROBOSUITE}"
        )


def task_class(id: str) -> type[Task]:
    """The class of ``store_cereal`` or ``store_cereal-v1``; UnknownNameError."""
    if id not in TASKS:
        for name in TASKS:
            if id.startswith(f"{name}-") and TASKS.get(name).spec.key == id:
                return TASKS.get(name)
    return TASKS.get(id)


for _each in (
    AppleToBin, AppleToBinV2, CanInDrawer, CanInDrawerV2, StoreCereal, StoreCerealV2, HangMug, SpatulaOnTable,
    SpatulaOnTableV2, StackBlocks,
):  # fmt: skip
    register(_each)
