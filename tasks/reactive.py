"""Experts as data: an ordered table of phases for each arm; the first whose condition holds is carried out.

What to do next follows from one moment's state alone (a teleo-reactive program, Nilsson 1994), so that an expert goes
on after a disturbance from wherever it left things. The only memory is smoothness: the last commanded pose and speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from geo4d_bench.geometry.se3 import Array, pose, rotation_angle
from geo4d_bench.tasks.base import Command, Expert
from geo4d_bench.tasks.motion import SmoothPose

OPEN_M, CLOSED_M = 0.08, 0.0  # openings that experts ask for
LEASH_M = 0.045  # the command stays this near to the hand; at full speed the hand is half of it behind
RESPONSE_S = 0.115  # the arm follows its command this much later (critically damped, kp 300: 2 / sqrt(kp))


@dataclass(frozen=True)
class ArmState:
    """What an expert sees of one arm.

    Attributes:
        T_world_ee: (4, 4).  velocity_m_s: (3,) of the grip site, in the world.
        opening_m: between the fingers.
        gripper_ramp: -1 when the fingers are told to be open, 1 closed; it takes 0.8 s from one to the other.
    """

    T_world_ee: Array
    velocity_m_s: Array
    opening_m: float
    gripper_ramp: float

    @property
    def is_open(self) -> bool:
        """Told to be open, and open."""
        return self.gripper_ramp < -0.999 and self.opening_m > 0.07

    @property
    def is_closed(self) -> bool:
        """Told to be closed for long enough, whatever is between the fingers."""
        return self.gripper_ramp > 0.999

    @property
    def is_closing(self) -> bool:
        """Told to close, or closed."""
        return self.gripper_ramp > -0.9

    def squeezes(self, low_m: float, high_m: float) -> bool:
        """Whether the fingers close and have come to an opening in this range."""
        return self.is_closing and low_m < self.opening_m < high_m


@dataclass(frozen=True)
class SceneState:
    """What an expert sees of one moment.

    Attributes:
        arms: state of each arm.
        T_world_obj: (4, 4) of each movable object.
        contacts: what each movable object touches: labels and names of geoms, see ``RobosuiteTask.contacts``.
        joints: positions of the scene's own hinges and slides by name, radians or metres.
        done: the phases reached so far.
    """

    arms: Mapping[str, ArmState]
    T_world_obj: Mapping[str, Array]
    contacts: Mapping[str, frozenset[str]]
    joints: Mapping[str, float]
    done: Mapping[str, bool]

    def fingers_on(self, obj: str, arm: str) -> int:
        """How many of the arm's two fingers touch the object."""
        return len({f"finger_left/{arm}", f"finger_right/{arm}"} & self.contacts[obj])


@dataclass(frozen=True)
class Waypoint:
    """Where a phase wants one arm to be: T_world_ee (4, 4), the fingers' opening, and how fast to go (m/s, rad/s)."""

    T_world_ee: Array
    opening_m: float
    speed: float = 0.14
    angular_speed: float = 0.8


class ArmView:
    """What the conditions of one arm's phases are about; a task's own view adds its objects.

    Attributes:
        arm, hand: the arm's name and state.
        p: (3,) of the grip site.
    """

    def __init__(self, scene: SceneState, arm: str) -> None:
        self.arm, self.hand = arm, scene.arms[arm]
        self.p: Array = self.hand.T_world_ee[:3, 3]

    @cached_property
    def yaw(self) -> float:
        """Of the hand, as in ``hand_rotation``, radians."""
        return float(np.arctan2(-self.hand.T_world_ee[0, 0], self.hand.T_world_ee[1, 0]))

    def hand_at(self, p: ArrayLike) -> Array:
        """(4, 4) the hand at p (3,), turned as it is."""
        return pose(self.hand.T_world_ee[:3, :3], p)


@dataclass(frozen=True)
class Reach:
    """The open hand on its straight way to a grasp. Pairs are metres and radians.

    Attributes:
        hand: the arm's state.
        grasp: (4, 4) of the grip site about what is to be taken.
        approach: (3,) unit vector along which the open hand comes.
        empty_m: with an opening below this, nothing is between the fingers.
        near, near_closing: how near to the grasp the fingers begin to close, and how near they go on closing.
        aside: how near to the line of approach the hand is lined up.
        before_m, past_m: how far before the grasp, and past it, a hand counts as lined up.
        pregrasp_m: how far before the grasp the straight approach begins.
    """

    hand: ArmState
    grasp: Array
    approach: Array
    empty_m: float
    near: tuple[float, float]
    near_closing: tuple[float, float]
    aside: tuple[float, float] = (0.015, 0.14)
    before_m: float = 0.12
    past_m: float = 0.02
    pregrasp_m: float = 0.09

    @cached_property
    def offset(self) -> tuple[float, float, float]:
        """From the grasp to the hand: along the approach, aside of it (m), and how far turned (rad)."""
        offset = self.hand.T_world_ee[:3, 3] - self.grasp[:3, 3]
        along = float(offset @ self.approach)
        aside = float(np.linalg.norm(offset - along * self.approach))
        return along, aside, float(rotation_angle(self.hand.T_world_ee[:3, :3], self.grasp[:3, :3]))

    @property
    def there(self) -> bool:
        """Where the fingers should close, or go on closing."""
        along, aside, turned = self.offset
        near, turn = self.near_closing if self.hand.is_closing else self.near
        return bool(np.hypot(along, aside) < near) and turned < turn and self.hand.opening_m > self.empty_m

    @property
    def lined_up(self) -> bool:
        """Open, and on the line of approach."""
        along, aside, turned = self.offset
        near, turn = self.aside
        on_line = aside < near and turned < turn and -self.before_m < along < self.past_m
        return on_line and self.hand.opening_m > 0.07

    @property
    def pregrasp(self) -> Array:
        """(4, 4) where the straight approach begins."""
        return pose(self.grasp[:3, :3], self.grasp[:3, 3] - self.pregrasp_m * self.approach)


def still(opening_m: float) -> Callable[[ArmView], Waypoint]:
    """A phase's ``go`` that keeps the hand where it is and opens or closes the fingers."""
    return lambda view: Waypoint(view.hand.T_world_ee, opening_m, speed=0.0, angular_speed=0.0)


V = TypeVar("V")


@dataclass(frozen=True)
class Phase(Generic[V]):
    """One row of an expert's table.

    Attributes:
        name: for people, and for tests.
        when: whether this phase is the one to carry out, given that none before it in the table is.
        go: what to do.
    """

    name: str
    when: Callable[[V], bool]
    go: Callable[[V], Waypoint]


class ReactiveExpert(Expert, Generic[V]):
    """Smooth motion of each arm towards the waypoint of the first phase of its table that applies.

    Args:
        look: gives the present scene.
        read: what the tables' conditions work on, computed once a step for each arm (scene, arm).
        tables: the phases of each arm, by priority; the last one's condition should always hold.
        control_hz: rate of :meth:`command`.
    """

    def __init__(
        self,
        look: Callable[[], SceneState],
        read: Callable[[SceneState, str], V],
        tables: Mapping[str, Sequence[Phase[V]]],
        control_hz: float,
    ) -> None:
        self._look, self._read, self._tables = look, read, tables
        self._motion = {}
        for arm, state in look().arms.items():
            ahead = state.T_world_ee.copy()
            ahead[:3, 3] += state.velocity_m_s * RESPONSE_S
            self._motion[arm] = SmoothPose(ahead, state.velocity_m_s, 1.0 / control_hz)
        self.phases = dict.fromkeys(self._motion, "start")
        """Name of the phase that each arm is in."""

    def command(self) -> Command:
        scene = self._look()
        T_world_ee, opening_m = {}, {}
        for arm, motion in self._motion.items():
            view = self._read(scene, arm)
            phase = next((phase for phase in self._tables[arm] if phase.when(view)), None)
            if phase is None:
                raise ValueError(f"no phase of arm '{arm}' applies: the condition of its last row must always hold")
            waypoint = phase.go(view)
            self.phases[arm] = phase.name
            motion.leash(scene.arms[arm].T_world_ee[:3, 3], LEASH_M)
            T_world_ee[arm] = motion.towards(waypoint.T_world_ee, waypoint.speed, waypoint.angular_speed)
            opening_m[arm] = waypoint.opening_m
        return Command(T_world_ee, opening_m)
