"""A small task with two Pandas, for tests of what comes after the simulation; it is not among the shipped tasks.

The left hand takes a cube from the table and lifts it, while the right hand closes at a place of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.base import ArmSetup, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.motion import hand_rotation
from geo4d_bench.tasks.reactive import CLOSED_M, OPEN_M, ArmState, Phase, ReactiveExpert, SceneState, Waypoint, still
from geo4d_bench.tasks.robosuite_task import RobosuiteTask

LEFT, RIGHT = "left", "right"
TABLE_TOP_M, CUBE_HALF_M = 0.9, 0.02
LIFT_M = 0.08
HOVER = np.array([0.0, 0.0, 0.08])
PLACE_M = (-0.05, -0.22, 1.0)
DOWN = hand_rotation(np.pi / 2)
HOME = (0.0, 0.196, 0.0, -2.45, 0.0, 2.65, 0.785)


@dataclass(frozen=True)
class View:
    """What the tables' conditions work on, for one arm."""

    hand: ArmState
    cube: Array
    held: bool

    @property
    def above(self) -> Array:
        return pose(DOWN, self.cube + HOVER)

    @property
    def lifted(self) -> Array:
        return pose(DOWN, [*self.cube[:2], TABLE_TOP_M + CUBE_HALF_M + LIFT_M + 0.04])

    @property
    def aside_m(self) -> float:
        return float(np.linalg.norm((self.hand.T_world_ee[:3, 3] - self.cube)[:2]))

    @property
    def at_cube(self) -> bool:
        return bool(np.linalg.norm(self.hand.T_world_ee[:3, 3] - self.cube) < 0.012)

    @property
    def at_place(self) -> bool:
        return bool(np.linalg.norm(self.hand.T_world_ee[:3, 3] - PLACE_M) < 0.02)


TABLES = {
    LEFT: (
        Phase[View]("close", lambda v: (v.held or v.at_cube) and not v.hand.is_closed, still(CLOSED_M)),
        Phase[View]("lift", lambda v: v.held, lambda v: Waypoint(v.lifted, CLOSED_M, 0.2)),
        Phase[View]("open", lambda v: not v.hand.is_open, still(OPEN_M)),
        Phase[View]("descend", lambda v: v.aside_m < 0.01, lambda v: Waypoint(pose(DOWN, v.cube), OPEN_M)),
        Phase[View]("reach", lambda v: True, lambda v: Waypoint(v.above, OPEN_M, 0.2)),
    ),
    RIGHT: (
        Phase[View]("close", lambda v: v.at_place, still(CLOSED_M)),
        Phase[View]("reach", lambda v: True, lambda v: Waypoint(pose(DOWN, PLACE_M), OPEN_M, 0.2)),
    ),
}


class TwoArms(RobosuiteTask):
    """See the module's docstring."""

    spec = TaskSpec(
        id="two_arms",
        version="v1",
        language="lift the cube with the left hand and close the right one",
        arms=(LEFT, RIGHT),
        control_hz=20.0,
        max_seconds=5.0,
        phases=("grasped", "lifted", "task"),
        closed_below_m=0.06,
        workspace=(0.0, 0.0, 1.0),
        objects=("cube",),
        spawn=(Spawn("cube", (-0.06, 0.0), (0.18, 0.24), TABLE_TOP_M + CUBE_HALF_M + 1e-4),),
    )
    arms: ClassVar = {
        LEFT: ArmSetup((-0.61, 0.22, 0.0), HOME),
        RIGHT: ArmSetup((-0.61, -0.22, 0.0), HOME),
    }

    def world(self) -> str:
        contact = 'solref="0.005 1" solimp="0.95 0.99 0.001"'
        return f"""<mujoco><worldbody>
          <body name="table" pos="0 0 {TABLE_TOP_M - 0.03}">
            <geom type="box" size="0.3 0.45 0.03" group="1" rgba="0.75 0.72 0.65 1"/>
          </body>
          <body name="cube"><freejoint/>
            <geom type="box" size="{CUBE_HALF_M} {CUBE_HALF_M} {CUBE_HALF_M}" group="0" density="400" {contact}/>
            <geom type="box" size="{CUBE_HALF_M} {CUBE_HALF_M} {CUBE_HALF_M}" group="1" rgba="0.8 0.2 0.1 1"
                  contype="0" conaffinity="0"/>
          </body></worldbody></mujoco>"""

    def update_phases(self, done: dict[str, bool]) -> None:
        scene = self.scene()
        lifted = scene.T_world_obj["cube"][2, 3] > TABLE_TOP_M + CUBE_HALF_M + LIFT_M
        right = _view(scene, RIGHT)
        done["grasped"] |= _view(scene, LEFT).held
        done["lifted"] |= done["grasped"] and lifted
        done["task"] |= done["lifted"] and right.at_place and right.hand.opening_m < 0.01

    def failure(self) -> str | None:
        return "the cube fell off the table" if self.object_poses()["cube"][2, 3] < TABLE_TOP_M - 0.1 else None

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        return (self.push_hand(RIGHT, rng.normal(size=3), 0.05),)

    def expert(self) -> ReactiveExpert[View]:
        return ReactiveExpert(self.scene, _view, TABLES, self.spec.control_hz)


def _view(scene: SceneState, arm: str) -> View:
    return View(scene.arms[arm], scene.T_world_obj["cube"][:3, 3], scene.fingers_on("cube", arm) == 2)
