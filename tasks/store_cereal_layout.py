"""Where things are in ``store_cereal``: sizes, places and spawn ranges, all in metres and radians of the world.

The world's x axis points from the robot into the shelf, y to the robot's left, z up. The shelf's front edge is x = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d_bench.tasks.base import TaskSpec

SPEC = TaskSpec(
    id="store_cereal",
    version="v1",
    language="pick up the cereal box from the top of the shelf and put it on the shelf underneath",
    arms=("right",),
    control_hz=20.0,
    max_seconds=40.0,
    phases=("reached", "grasped", "lifted", "inserted", "released", "task"),
    closed_below_m=0.06,  # open is 0.08, the box is 0.03 thick
    workspace=(-0.03, 0.0, 1.43),
    objects=("cereal",),
)


@dataclass(frozen=True)
class Shelf:
    """Two boards on four thin posts; no back, no sides, so that cameras all around see the hand."""

    depth_m: float = 0.26
    """Along x, from the front edge at x = 0."""
    width_m: float = 0.56
    """Along y, centred on y = 0."""
    thickness_m: float = 0.02
    lower_top_m: float = 1.10
    """Height of the lower board's upper side."""
    upper_top_m: float = 1.44
    """Height of the upper board's upper side; the box starts on it."""
    post_radius_m: float = 0.008

    @property
    def upper_bottom_m(self) -> float:
        """Height of the upper board's lower side."""
        return self.upper_top_m - self.thickness_m


@dataclass(frozen=True)
class Box:
    """robosuite's cereal box: half sizes along its own depth (x), thickness (y) and height (z)."""

    half_m: tuple[float, float, float] = (0.05, 0.015, 0.075)


@dataclass(frozen=True)
class Spawn:
    """Ranges that an episode's start is drawn from, uniformly."""

    box_x_m: tuple[float, float] = (0.06, 0.10)
    box_y_m: tuple[float, float] = (-0.08, 0.08)
    box_yaw_rad: tuple[float, float] = (-0.35, 0.35)
    joint_noise_rad: float = 0.04
    """Half width of the noise on each arm joint about ``HOME_QPOS``."""


SHELF = Shelf()
BOX = Box()
SPAWN = Spawn()

BASE_XPOS = (-0.61, 0.0, 0.0)
"""The robot's mount on the floor; the arm's own base is about 0.91 m above it."""

HAND_PITCH_RAD = float(np.radians(53.0))
"""How far the approach points below the horizontal: less, and joint 6 meets its limit while inserting."""

HOME_QPOS = (0.0, -0.42, 0.0, -1.78, 0.0, 2.02, 0.785)
"""Arm joints at the start (rad): the hand above and in front of the shelf, pitched as for the grasp."""
