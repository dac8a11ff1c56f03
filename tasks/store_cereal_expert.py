"""The scripted expert of ``store_cereal``: what to do next follows from one moment's state, so that it recovers.

:func:`decide` has no memory. :class:`StoreCerealExpert` adds only smoothness: the last commanded pose and speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geo4d_bench.geometry.se3 import Array, inverse, pose, pose_error
from geo4d_bench.tasks.base import Command, Expert
from geo4d_bench.tasks.motion import SmoothPose
from geo4d_bench.tasks.store_cereal import CORNERS_BOX, Scene
from geo4d_bench.tasks.store_cereal_layout import BOX, HAND_PITCH_RAD, SHELF, SPEC

_ARM = SPEC.arms[0]
OPEN_M, CLOSED_M = 0.08, 0.0

GRASP_BOX = np.array([-0.035, 0.0, 0.053])
"""Where the grip site goes on the box: near and high, so that the hand stays partly outside the shelf."""
PREGRASP_M = 0.09
"""How far before the grasp the straight approach begins."""
FRONT_X = -0.095
"""Where the box's centre is carried down in front of the shelf."""
CLEAR_X = -0.015
"""The box is clear of the front edge when no corner is beyond this."""
INSIDE_X = 0.080
"""Where the box's centre is set down."""
SIDE_Y = 0.06
"""The box is put in at its own y, but not further out than this."""
LIFTED_M, LIFT_M = 0.033, 0.050
"""Above the upper board: high enough to back off; what is aimed at."""
HOVER_M = 0.022
"""Above the lower board while going in."""
RETREAT_X = -0.14
"""Where the empty hand moves up and down in front of the shelf."""
RESPONSE_S = 0.115
"""The arm follows its command this much later (critically damped, kp 300: 2 / sqrt(kp))."""

LEASH_M = 0.045
"""The command stays this near to the hand; at full speed the hand is half of it behind."""


@dataclass(frozen=True)
class Waypoint:
    """What the expert wants now: a hand pose (4, 4), the fingers' opening, and how fast to go."""

    phase: str
    T_world_ee: Array
    opening_m: float
    speed: float = 0.14
    angular_speed: float = 0.8


class StoreCerealExpert(Expert):
    """Smooth motion towards the waypoint that :func:`decide` names at every step."""

    def __init__(self, look: Callable[[], Scene]) -> None:
        self._look = look
        scene = look()
        ahead = scene.T_world_ee.copy()
        ahead[:3, 3] += scene.velocity_ee * RESPONSE_S
        self._motion = SmoothPose(ahead, scene.velocity_ee, 1.0 / SPEC.control_hz)
        self.phase = "start"

    def command(self) -> Command:
        scene = self._look()
        waypoint = decide(scene)
        self.phase = waypoint.phase
        self._motion.leash(scene.T_world_ee[:3, 3], LEASH_M)
        T = self._motion.towards(waypoint.T_world_ee, waypoint.speed, waypoint.angular_speed)
        return Command({_ARM: T}, {_ARM: waypoint.opening_m})


def decide(scene: Scene) -> Waypoint:
    """What to do at this moment, from this moment alone."""
    box = _BoxState.of(scene.T_world_box)
    if box.placed:
        return _leave(scene)
    if scene.fingers_on_box == 2 and 0.02 < scene.opening_m < 0.05 and scene.gripper_ramp > -0.9:
        return _carry(scene, box)
    return _fetch(scene, box)


@dataclass(frozen=True)
class _BoxState:
    T: Array
    yaw: float
    bottom: float
    top: float
    far: float
    upright: bool
    placed: bool

    @classmethod
    def of(cls, T: Array) -> _BoxState:
        corners = T[:3, 3] + CORNERS_BOX @ T[:3, :3].T
        low, high = corners.min(0), corners.max(0)
        upright = bool(T[2, 2] > 0.9)
        inside = low[0] > 0.012 and high[0] < SHELF.depth_m - 0.01 and max(-low[1], high[1]) < SHELF.width_m / 2 - 0.02
        return cls(
            T,
            _half_turn(float(np.arctan2(T[1, 0], T[0, 0]))),
            float(low[2]),
            float(high[2]),
            float(high[0]),
            upright,
            bool(upright and inside and abs(low[2] - SHELF.lower_top_m) < 0.006),
        )


def _leave(scene: Scene) -> Waypoint:
    """The box stands where it should: open, then back straight out."""
    if scene.gripper_ramp > -0.999 or scene.opening_m < 0.07:
        return Waypoint("release", scene.T_world_ee, OPEN_M, speed=0.0, angular_speed=0.0)
    T = scene.T_world_ee.copy()
    T[:3, :3] = hand_rotation(0.0)
    T[0, 3] = RETREAT_X
    return Waypoint("withdraw", T, OPEN_M, speed=0.12)


def _carry(scene: Scene, box: _BoxState) -> Waypoint:
    """The box is between the fingers: up, back over the edge, down, in, and set down."""
    x, y, yaw = float(box.T[0, 3]), float(box.T[1, 3]), box.yaw
    y_in = float(np.clip(y, -SIDE_Y, SIDE_Y))
    half = BOX.half_m[2]
    if scene.gripper_ramp < 0.999:
        return Waypoint("close", scene.T_world_ee, CLOSED_M, speed=0.0, angular_speed=0.0)

    def place(phase: str, x: float, y: float, bottom: float, yaw: float, speed: float) -> Waypoint:
        T_box = pose(_yaw_matrix(yaw) @ _half_turn_matrix(box), (x, y, bottom + half))
        return Waypoint(phase, T_box @ inverse(box.T) @ scene.T_world_ee, CLOSED_M, speed)

    tilt = float(np.arccos(np.clip(box.T[2, 2], -1.0, 1.0)))
    if tilt > 0.14 and box.bottom < SHELF.upper_top_m - 0.01 and x > FRONT_X + 0.02:
        # The hand was turned against the upper board: pressing on would jam it.
        return place("back_out", FRONT_X, y, max(box.bottom, SHELF.lower_top_m + 0.01), yaw, 0.10)
    if box.far < CLEAR_X:
        bottom = SHELF.lower_top_m + HOVER_M
        ready = abs(box.bottom - bottom) < 0.012 and abs(yaw) < 0.1 and tilt < 0.1 and abs(y) < SIDE_Y + 0.01
        if ready:
            return place("insert", INSIDE_X, y_in, bottom, 0.0, 0.10)
        return place("descend", FRONT_X, y_in, bottom, 0.0, 0.14)
    if box.bottom > SHELF.upper_top_m - 0.01:
        if box.bottom < SHELF.upper_top_m + LIFTED_M:
            return place("lift", x, y, SHELF.upper_top_m + LIFT_M, yaw, 0.12)
        return place("back", FRONT_X, y_in, SHELF.upper_top_m + LIFT_M, 0.0, 0.14)
    if box.top > SHELF.upper_bottom_m - 0.005 or box.bottom < SHELF.lower_top_m - 0.005:
        return place("back", FRONT_X, y_in, box.bottom, 0.0, 0.10)
    if x < INSIDE_X - 0.01:
        return place("insert", INSIDE_X, y_in, SHELF.lower_top_m + HOVER_M, 0.0, 0.10)
    return place("lower", INSIDE_X, y, SHELF.lower_top_m - 0.004, 0.0, 0.06)


def _fetch(scene: Scene, box: _BoxState) -> Waypoint:
    """The hand is empty: go in front of the box, straight towards it, and close."""
    T, p = scene.T_world_ee, scene.T_world_ee[:3, 3]
    on_upper = abs(box.bottom - SHELF.upper_top_m) < 0.03
    on_lower = abs(box.bottom - SHELF.lower_top_m) < 0.03
    if not box.upright or not (on_upper or on_lower):
        return Waypoint("wait", T, OPEN_M, speed=0.0, angular_speed=0.0)
    grasp = pose(hand_rotation(box.yaw), box.T[:3, 3] + _yaw_matrix(box.yaw) @ GRASP_BOX)
    approach = grasp[:3, 2] if on_upper else _yaw_matrix(box.yaw)[:, 0]
    offset = p - grasp[:3, 3]
    along = float(offset @ approach)
    aside = float(np.linalg.norm(offset - along * approach))
    turn = float(pose_error(T, grasp)[1])
    closing = scene.gripper_ramp > -0.9 and scene.opening_m > 0.02
    near = 0.02 if closing else 0.01
    if np.linalg.norm(offset) < near and turn < (0.2 if closing else 0.1) and scene.opening_m > 0.02:
        return Waypoint("close", grasp, CLOSED_M, speed=0.03)
    if aside < 0.015 and -PREGRASP_M - 0.03 < along < 0.02 and turn < 0.14 and scene.opening_m > 0.07:
        return Waypoint("approach", grasp, OPEN_M, speed=0.10)
    pregrasp = pose(grasp[:3, :3], grasp[:3, 3] - PREGRASP_M * approach)
    return _travel(scene, box, pregrasp, approach, along)


def _travel(scene: Scene, box: _BoxState, pregrasp: Array, approach: Array, along: float) -> Waypoint:
    """Get the empty hand to the pregrasp without touching the shelf or the box."""
    T, p = scene.T_world_ee, scene.T_world_ee[:3, 3]
    p_box = box.T[:3, :3].T @ (p - box.T[:3, 3])
    gap = float(np.linalg.norm(np.maximum(np.abs(p_box) - BOX.half_m, 0.0)))
    if gap < 0.03 and along > -PREGRASP_M + 0.02:
        return Waypoint("back_off", pose(T[:3, :3], p - 0.08 * approach), OPEN_M, speed=0.10)
    level = pregrasp[2, 3]
    if abs(p[2] - level) > 0.06 and p[2] < SHELF.upper_top_m + 0.08:
        x = RETREAT_X if p[0] > RETREAT_X + 0.03 else p[0]
        z = p[2] if p[0] > RETREAT_X + 0.06 else level
        return Waypoint("go_round", pose(pregrasp[:3, :3], (x, p[1], z)), OPEN_M)
    return Waypoint("reach", pregrasp, OPEN_M)


def hand_rotation(yaw: float) -> Array:
    """(3, 3) of the grip site: approach pitched down, fingers' axis (x) horizontal, turned by ``yaw``."""
    c, s = np.cos(HAND_PITCH_RAD), np.sin(HAND_PITCH_RAD)
    z, x = np.array([c, 0.0, -s]), np.array([0.0, 1.0, 0.0])
    pitched: Array = np.stack([x, np.cross(z, x), z], axis=1)
    return _yaw_matrix(yaw) @ pitched


def _yaw_matrix(yaw: float) -> Array:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _half_turn(yaw: float) -> float:
    """The box looks the same after half a turn: its yaw in [-pi/2, pi/2)."""
    return float((yaw + np.pi / 2) % np.pi - np.pi / 2)


def _half_turn_matrix(box: _BoxState) -> Array:
    """Identity, or half a turn about z where the box stands the other way round."""
    return _yaw_matrix(0.0) if box.T[:2, 0] @ (np.cos(box.yaw), np.sin(box.yaw)) > 0 else _yaw_matrix(np.pi)
