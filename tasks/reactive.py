"""Experts as data: an ordered table of phases for each arm; the first whose condition holds is carried out.

What to do next follows from one moment's state alone (a teleo-reactive program, Nilsson 1994), so that an expert goes
on after a disturbance from wherever it left things. The only memory is smoothness: the last commanded pose and speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.base import Command, Expert
from geo4d_bench.tasks.motion import SmoothPose

OPEN_M, CLOSED_M = 0.08, 0.0
"""Openings that experts ask for."""
LEASH_M = 0.045
"""The command stays this near to the hand; at full speed the hand is half of it behind."""
RESPONSE_S = 0.115
"""The arm follows its command this much later (critically damped, kp 300: 2 / sqrt(kp))."""

Name = str


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


@dataclass(frozen=True)
class Scene:
    """What an expert sees of one moment.

    Attributes:
        arms: state of each arm.
        T_world_obj: (4, 4) of each movable object.
        contacts: what each movable object touches: labels and names of geoms, see ``RobosuiteTask.contacts``.
        joints: positions of the scene's own hinges and slides by name, radians or metres.
        done: the phases reached so far.
    """

    arms: Mapping[Name, ArmState]
    T_world_obj: Mapping[Name, Array]
    contacts: Mapping[Name, frozenset[str]]
    joints: Mapping[Name, float]
    done: Mapping[Name, bool]

    def fingers_on(self, obj: Name, arm: Name) -> int:
        """How many of the arm's two fingers touch the object."""
        return len({f"finger_left/{arm}", f"finger_right/{arm}"} & self.contacts[obj])


@dataclass(frozen=True)
class Waypoint:
    """Where a phase wants one arm to be: T_world_ee (4, 4), the fingers' opening, and how fast to go (m/s, rad/s)."""

    T_world_ee: Array
    opening_m: float
    speed: float = 0.14
    angular_speed: float = 0.8


class _SeesHand(Protocol):
    @property
    def hand(self) -> ArmState: ...


def still(opening_m: float) -> Callable[[_SeesHand], Waypoint]:
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
        look: Callable[[], Scene],
        read: Callable[[Scene, Name], V],
        tables: Mapping[Name, Sequence[Phase[V]]],
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
                raise ValueError(
                    f"no phase of arm '{arm}' applies: the condition of its table's last row must always hold"
                )
            waypoint = phase.go(view)
            self.phases[arm] = phase.name
            motion.leash(scene.arms[arm].T_world_ee[:3, 3], LEASH_M)
            T_world_ee[arm] = motion.towards(waypoint.T_world_ee, waypoint.speed, waypoint.angular_speed)
            opening_m[arm] = waypoint.opening_m
        return Command(T_world_ee, opening_m)
