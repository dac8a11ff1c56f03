"""HangMug: take a slim mug from the table and hang it by its handle on the peg of a rack.

The world's x axis points from the robot over the table, y to the robot's left, z up. The mug's own z axis is its
axis, from the bottom to the rim; its handle points along its x axis. Only the handle tells how the mug is turned, and
the peg has to go through it: the fingers' axis is across the handle's plane, so that the hand turns with the mug.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, inverse, pose
from geo4d_bench.tasks.base import ArmSetup, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.hang_mug_scene import (
    AXIS_RACK,
    HANDLE_OUT_M,
    HANDLE_Z,
    LOOP_MUG,
    PEG_M,
    PEG_RACK,
    TABLE_TOP_M,
    WALL_M,
    axis_gap,
    peg_in_loop,
    world_xml,
)
from geo4d_bench.tasks.motion import DOWN, hand_rotation, turn_z
from geo4d_bench.tasks.reactive import (
    CLOSED_M,
    OPEN_M,
    ArmView,
    Phase,
    Reach,
    ReactiveExpert,
    SceneState,
    Waypoint,
    still,
)
from geo4d_bench.tasks.robosuite_task import RobosuiteTask

ARM = "right"

SPEC = TaskSpec(
    id="hang_mug",
    version="v1",
    language="hang the mug by its handle on the peg of the rack",
    arms=(ARM,),
    control_hz=20.0,
    max_seconds=40.0,
    phases=("reached", "grasped", "lifted", "threaded", "hung", "task"),
    closed_below_m=0.065,  # open is 0.08, the mug is 0.048 thick
    workspace=(0.02, 0.04, 1.03),
    objects=("mug", "rack"),
    spawn=(
        Spawn("mug", (-0.07, 0.09), (-0.20, -0.04), TABLE_TOP_M + 1e-4, (-np.pi, np.pi)),
        Spawn("rack", (-0.03, 0.07), (0.18, 0.24), TABLE_TOP_M + 1e-4, (-0.5, 0.5)),
    ),
)

# What counts.
LIFT_M = 0.03  # the mug counts as lifted when its bottom is this far above the table
REACH_M = 0.03  # the hand counts as there when the grip site is this near to the mug's axis
GRASP_M = 0.01  # the mug is between the fingers when their opening is this near to its thickness
WITHDRAWN_M = 0.10  # the hand is withdrawn when the grip site is this far from the mug's axis


class HangMug(RobosuiteTask):
    """One Panda at a table with a mug and a rack; half of the cameras do not see the handle."""

    spec = SPEC
    # The hand starts high above the table and points straight down.
    arms: ClassVar = {ARM: ArmSetup((-0.61, 0.0, 0.0), (0.0, 0.17, 0.0, -2.20, 0.0, 2.37, 0.785))}

    def world(self) -> str:
        return world_xml()

    def failure(self) -> str | None:
        scene = self.scene()
        T_mug, T_rack = scene.T_world_obj["mug"], scene.T_world_obj["rack"]
        x, y, z = T_mug[:3, 3]
        if T_rack[2, 2] < 0.9:
            return "the rack has fallen over"
        if z < TABLE_TOP_M - 0.05:
            return "the mug has fallen off the table"
        if T_mug[2, 2] < 0.5 and "table" in scene.contacts["mug"] and not scene.fingers_on("mug", ARM):
            return "the mug lies on its side"
        if abs(x - 0.02) > 0.26 or abs(y) > 0.34:
            return "the mug is out of reach"
        return None

    def update_phases(self, done: dict[str, bool]) -> None:
        scene = self.scene()
        view = MugView(scene, ARM)
        touching = scene.contacts["mug"]
        # Closed fingertips pushing from one side both touch the mug too, but nothing is between them.
        held = view.fingers == 2 and abs(view.hand.opening_m - 2 * WALL_M) < GRASP_M
        threaded = view.threaded[0]
        hangs = threaded and "rack" in touching and view.fingers == 0 and not {"table", f"robot/{ARM}"} & touching
        gap = axis_gap(view.p, view.T_mug)
        self.advance(
            done,
            reached=gap < REACH_M,
            grasped=held,
            lifted=held and view.T_mug[2, 3] > TABLE_TOP_M + LIFT_M,
            threaded=held and threaded,
            hung=hangs,
            task=hangs and self.at_rest("mug") and gap > WITHDRAWN_M,
        )

    def expert(self) -> Expert:
        return ReactiveExpert(self.scene, MugView, {ARM: PHASES}, SPEC.control_hz)

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        v = MugView(self.scene(), ARM)
        held = v.fingers == 2 and v.hand.is_closed
        clear = v.fingers == 0 and axis_gap(v.p, v.T_mug) > 0.05
        free = clear and v.standing
        # From higher up the mug would not land on its bottom.
        if held and 0.002 < v.bottom < 0.06 and v.before_tip > 0.07 and rng.random() < 0.6:
            return self.force_open(ARM, "mug_slipped")
        if free and rng.random() < 0.5:
            # Pushed low, so that it slides over the table and does not fall over.
            return (self.push_object("mug", "mug_nudged", self.way_to_spawn("mug", rng, 0.05), 2.0, -0.03),)
        if (free or (held and v.bottom > 0.03 and v.before_tip > 0.06)) and rng.random() < 0.5:
            angle = rng.uniform(-np.pi, np.pi)
            way = rng.uniform(0.03, 0.08) * np.array([np.cos(angle), np.sin(angle)]) / 2
            return (self.push_object("rack", "rack_nudged", way, 40.0, 0.0, gain_n_s_m=600.0),)
        if held and v.before_tip < 0.06:
            # Drawn back along the peg; any other way it would tear the mug out of the hand.
            return (self.push_hand(ARM, v.axis, rng.uniform(0.05, 0.10)),)
        if clear or (held and v.bottom > 0.002):
            away = np.array([rng.uniform(-1.0, 0.5), rng.uniform(-1.0, 0.3), rng.uniform(0.2, 1.0)])
            return (self.push_hand(ARM, away, rng.uniform(0.05, 0.10)),)
        return ()


# ---------------------------------------------------------------- the expert

GRASP_Z = 0.072  # height of the grip site on the mug
CARRY_M = 0.05  # the mug is lifted this far before it goes anywhere else
BEFORE_TIP_M = 0.08  # the handle is lined up with the peg this far before its tip
HANG_AT_M = 0.052  # where on the peg, from the post, the handle is put
SEATED_M = 0.015  # the peg is this far above the middle of the handle's opening: the handle is about to rest on it
RACK_TOP_M, WITHDRAW_M = 0.24, 0.30  # above the table: the empty hand over the rack; where it waits in the end
SQUARE_RAD = 0.15  # the handle is across the peg when it is turned away by less
MOST_YAW_RAD = 1.9  # the hand turns this far from facing forward; half a turn further is as good for a round mug


class MugView(ArmView):
    """What the phases' conditions are about; heights are above the table."""

    def __init__(self, scene: SceneState, arm: str) -> None:
        super().__init__(scene, arm)
        self.T_mug, self.T_rack = scene.T_world_obj["mug"], scene.T_world_obj["rack"]
        self.fingers = scene.fingers_on("mug", arm)
        self.held = self.fingers == 2 and self.hand.squeezes(0.03, 0.06)
        self.bottom = float(self.T_mug[2, 3] - TABLE_TOP_M)
        self.standing = bool(self.T_mug[2, 2] > 0.95) and abs(self.bottom) < 0.01
        self.loop: Array = self.T_mug[:3, :3] @ LOOP_MUG + self.T_mug[:3, 3]  # (3,) middle of the handle's opening
        self.axis: Array = self.T_rack[:3, :3] @ AXIS_RACK  # (3,) the peg's direction, away from the post
        self.threaded = peg_in_loop(self.T_mug, self.T_rack)
        self.mug_yaw = float(np.arctan2(self.T_mug[1, 0], self.T_mug[0, 0]))
        self.rack_yaw = float(np.arctan2(self.T_rack[1, 0], self.T_rack[0, 0]))

    def on_peg(self, along_m: float, drop_m: float = 0.0) -> Array:
        """(3,) a point ``along_m`` from the post on the peg's axis, and so far below it."""
        return _shifted(self.T_rack[:3, 3] + self.T_rack[:3, :3] @ PEG_RACK + along_m * self.axis, z=-drop_m)

    @property
    def before_tip(self) -> float:
        """How far before the peg's tip the mug's nearest part is along the peg, negative beyond it."""
        along = (_shifted(self.T_mug[:3, 3], z=HANDLE_Z) - self.on_peg(PEG_M)) @ self.axis
        return float(along - WALL_M - HANDLE_OUT_M * abs(self.T_mug[:3, 0] @ self.axis))

    @cached_property
    def reach(self) -> Reach:
        """To the nearer of the two ways round that the arm can turn to."""
        near = [yaw for k in (-1, 0, 1) if abs(yaw := self.mug_yaw + k * np.pi) < MOST_YAW_RAD]
        yaw = min(near, key=lambda yaw: abs(yaw - self.yaw))
        grasp = pose(hand_rotation(np.pi / 2, yaw), self.T_mug[:3, 3] + GRASP_Z * self.T_mug[:3, 2])
        return Reach(self.hand, grasp, DOWN, 0.035, (0.012, 0.12), (0.025, 0.35), aside=(0.014, 0.15), before_m=0.13)

    @property
    def by_peg(self) -> bool:
        """Not above the mug, and so near to the peg that the fingers could meet it or what hangs on it."""
        p = self.p - self.on_peg(0.0)
        aside = p - float(np.clip(p @ self.axis, 0.0, PEG_M)) * self.axis
        return bool(np.linalg.norm(aside[:2]) < 0.10) and self.reach.offset[1] > 0.03

    @property
    def aligned(self) -> bool:
        """Upright, turned so that the peg's axis is across the handle's plane, and the handle in line with the peg."""
        p = self.loop - self.on_peg(0.0)
        aside = float(np.linalg.norm(p - (p @ self.axis) * self.axis))
        square = abs(float(self.T_mug[:3, 0] @ self.axis)) < SQUARE_RAD and float(self.T_mug[2, 2]) > 0.96
        return aside < 0.010 and square


def _carry(v: MugView, loop: Array, turned: bool, speed: float) -> Waypoint:
    """The held mug upright with the middle of its handle's opening at ``loop`` (3,), square to the peg if asked."""
    half_turns = round((v.mug_yaw - v.yaw) / np.pi)
    R = turn_z(v.rack_yaw + half_turns * np.pi if turned else v.mug_yaw)
    T_mug = pose(R, loop - R @ LOOP_MUG)
    return Waypoint(T_mug @ inverse(v.T_mug) @ v.hand.T_world_ee, CLOSED_M, speed)


def _shifted(p: Array, z: float) -> Array:
    """(3,) a point moved upwards."""
    shifted: Array = p + np.array([0.0, 0.0, z])
    return shifted


def _up(v: MugView, z: float) -> Waypoint:
    """Straight up to height z, in the world."""
    return Waypoint(pose(hand_rotation(np.pi / 2, v.yaw), (v.p[0], v.p[1], z)), OPEN_M, speed=0.12)


def _reach(v: MugView) -> Waypoint:
    """Above the mug; higher as long as the peg may be in the way."""
    T = v.reach.pregrasp
    T[2, 3] = max(T[2, 3], TABLE_TOP_M + RACK_TOP_M + 0.01) if v.by_peg else T[2, 3]
    return Waypoint(T, OPEN_M, speed=0.12)


PHASES: tuple[Phase[MugView], ...] = (
    # The peg is in the handle: let go when the handle rests on it, or when the hand has lost it already.
    Phase(
        "release",
        lambda v: v.threaded[0] and (v.fingers < 2 or v.threaded[2] > SEATED_M) and not v.hand.is_open,
        still(OPEN_M),
    ),
    Phase("withdraw", lambda v: v.threaded[0] and not v.held, lambda v: _up(v, TABLE_TOP_M + WITHDRAW_M)),
    # The mug is between the fingers: up, in line with the peg, over it, and down.
    Phase("close", lambda v: v.held and not v.hand.is_closed, still(CLOSED_M)),
    Phase(
        "lower",
        lambda v: v.held and v.threaded[0] and abs(v.threaded[1] - HANG_AT_M) < 0.008,
        lambda v: _carry(v, v.on_peg(HANG_AT_M, 0.026), True, 0.04),
    ),
    Phase(
        "thread",
        lambda v: v.held and (v.threaded[0] or v.aligned),
        lambda v: _carry(v, v.on_peg(HANG_AT_M), True, 0.07),
    ),
    Phase(
        "back_off",
        lambda v: v.held and v.before_tip < 0.005 and v.bottom > CARRY_M,
        lambda v: _carry(v, v.loop + 0.06 * v.axis, False, 0.10),
    ),
    Phase(
        "lift",
        lambda v: v.held and v.bottom < CARRY_M - 0.01,
        lambda v: _carry(v, _shifted(v.loop, z=CARRY_M - v.bottom), False, 0.10),
    ),
    Phase("carry", lambda v: v.held, lambda v: _carry(v, v.on_peg(PEG_M + BEFORE_TIP_M), True, 0.11)),
    # The hand is empty: go above the mug, straight down, and close.
    Phase("close", lambda v: v.reach.there and v.standing, lambda v: Waypoint(v.reach.grasp, CLOSED_M, speed=0.03)),
    Phase("descend", lambda v: v.reach.lined_up and v.standing, lambda v: Waypoint(v.reach.grasp, OPEN_M, speed=0.08)),
    Phase(
        "rise",
        lambda v: (
            v.reach.offset[0] > 0.02 - v.reach.pregrasp_m or (v.by_peg and bool(v.p[2] < TABLE_TOP_M + RACK_TOP_M))
        ),
        lambda v: _up(v, v.p[2] + 0.08),
    ),
    Phase("reach", lambda v: v.standing, _reach),
    Phase("wait", lambda v: True, still(OPEN_M)),
)
