"""A task that is simulated in a moment: one arm moves its hand 6 cm to the side of a cube that lies about."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from two_arms import HOME

from geo4d_bench.geometry.se3 import pose
from geo4d_bench.tasks.base import ArmSetup, Command, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.robosuite_task import RobosuiteTask


class QuickTask(RobosuiteTask):
    """See the module's docstring."""

    spec = TaskSpec(
        id="quick",
        version="v1",
        language="move to the left",
        arms=("right",),
        control_hz=20.0,
        max_seconds=1.5,
        phases=("task",),
        closed_below_m=0.06,
        workspace=(0.0, 0.0, 1.1),
        objects=("cube",),
        spawn=(Spawn("cube", (0.1, 0.2), (0.1, 0.2), 0.9201),),
    )
    arms: ClassVar = {"right": ArmSetup((-0.61, 0.0, 0.0), HOME)}

    def world(self) -> str:
        return """<mujoco><worldbody>
          <body name="table" pos="0 0 0.87"><geom type="box" size="0.3 0.3 0.03" group="1" rgba="0.8 0.7 0.6 1"/></body>
          <body name="cube"><freejoint/>
            <geom type="box" size="0.02 0.02 0.02" group="0" density="400"/>
            <geom type="box" size="0.02 0.02 0.02" group="1" rgba="0.8 0.2 0.1 1" contype="0" conaffinity="0"/>
          </body></worldbody></mujoco>"""

    def reset(self, seed: int, split: str) -> None:
        super().reset(seed, split)
        T = self.ee_poses()["right"]
        self._goal = pose(T[:3, :3], T[:3, 3] + [0.0, 0.06, 0.0])

    def update_phases(self, done: dict[str, bool]) -> None:
        done["task"] |= bool(np.linalg.norm(self.ee_poses()["right"][:3, 3] - self._goal[:3, 3]) < 0.02)

    def failure(self) -> str | None:
        return None

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        return ()

    def expert(self) -> Expert:
        return _ToGoal(self._goal)


class _ToGoal(Expert):
    def __init__(self, goal: np.ndarray) -> None:
        self._goal = goal

    def command(self) -> Command:
        return Command({"right": self._goal}, {"right": 0.08})
