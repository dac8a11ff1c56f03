"""What a task declares (arms, starts, phases) and what its expert commands."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.registry import task_name

BASE_HEIGHT_M = 0.912
"""Of robosuite's mount."""


@dataclass(frozen=True)
class ArmSetup:
    """How a Panda stands in the world.

    Attributes:
        base_xpos_m: (3,) its mount on the floor; the arm's own base is ``BASE_HEIGHT_M`` above it.
        home_qpos: (7,) joint angles at the start, radians.
        base_yaw_rad: which way it faces; 0 is along the world's x axis.
        noise_rad: half width of the uniform noise on each joint at the start.
    """

    base_xpos_m: tuple[float, float, float]
    home_qpos: tuple[float, ...]
    base_yaw_rad: float = 0.0
    noise_rad: float = 0.04

    @property
    def T_world_base(self) -> Array:
        """(4, 4) of the arm's own base, link 0, in which robots' calibrations are given."""
        turn = Rotation.from_euler("z", self.base_yaw_rad).as_matrix()
        return pose(turn, np.add(self.base_xpos_m, (0.0, 0.0, BASE_HEIGHT_M)))


@dataclass(frozen=True)
class Spawn:
    """Where an object starts: each range is drawn from uniformly.

    Attributes:
        object: name of the object.
        x_m, y_m: ranges of its body's origin, in the world, or from the origin of object ``on``.
        z_m: height of its origin above the world's (or ``on``'s) origin.
        yaw_rad: range of its turn about the vertical.
        lean_rad: range of the angle between its z axis and the vertical; None stands upright.
        lean_to_rad: range of the direction, about the vertical, that it leans to.
        on: an object that comes earlier in ``TaskSpec.spawn``, or None for the world.
        tolerance_m: how far from its range coming to rest may take it.
    """

    object: str
    x_m: tuple[float, float]
    y_m: tuple[float, float]
    z_m: float
    yaw_rad: tuple[float, float] = (0.0, 0.0)
    lean_rad: tuple[float, float] | None = None
    lean_to_rad: tuple[float, float] = (-math.pi, math.pi)
    on: str | None = None
    tolerance_m: float = 0.002


@dataclass(frozen=True)
class TaskSpec:
    """What does not change between episodes.

    Attributes:
        id, version: ``store_cereal``, ``v1``; the Gymnasium id is made of both.
        language: the instruction.
        arms: names of the arms, such as ``right``; the order is that of actions and of labels in images.
        control_hz: control steps a second.
        max_seconds: an episode longer than this is a timeout.
        phases: sub-goals in their order, the last is ``task``.
        closed_below_m: a gripper opening below this counts as closed or holding.
        workspace: (3,) point of the world that camera rigs look at, metres.
        objects: names of the movable objects.
        spawn: where objects start; those left out start where the scene has them.
        joints: (name, low, high) of the scene's own joints, such as a drawer's: each starts anywhere in its range,
            metres or radians; those left out start at 0.
    """

    id: str
    version: str
    language: str
    arms: tuple[str, ...]
    control_hz: float
    max_seconds: float
    phases: tuple[str, ...]
    closed_below_m: float
    workspace: tuple[float, float, float]
    objects: tuple[str, ...]
    spawn: tuple[Spawn, ...]
    joints: tuple[tuple[str, float, float], ...] = ()

    @property
    def key(self) -> str:
        """``store_cereal-v1``, the name that seeds are derived from."""
        return f"{self.id}-{self.version}"

    @property
    def name(self) -> str:
        """What it is called by: ``store_cereal``, ``store_cereal-v2``."""
        return task_name(self.id, self.version)

    def widened(self, version: str, **spawns: dict[str, Any]) -> TaskSpec:
        """Another version of the task, in which objects start elsewhere: changed fields of their ``Spawn`` by name."""
        spawn = tuple(replace(each, **spawns.get(each.object, {})) for each in self.spawn)
        return replace(self, version=version, spawn=spawn)


@dataclass(frozen=True)
class Command:
    """Targets of one control step: T_world_ee (4, 4) and finger opening in metres for each arm."""

    T_world_ee: dict[str, Array]
    opening_m: dict[str, float]


class Expert(ABC):
    """A scripted expert that acts on the state it sees, so that it recovers from disturbances."""

    @abstractmethod
    def command(self) -> Command:
        """The command for the next control step, from the task's present state; advances the expert's own memory
        (only what smoothness needs: the last commanded pose and speed)."""
