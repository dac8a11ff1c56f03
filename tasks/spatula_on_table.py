"""PutSpatulaOnTableFromUtensilCrock: pull a spatula by its narrow handle out of a crock and lay it on a mat.

The world's x axis points from the robot over the table, y to the robot's left, z up.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, inverse, pose, rotation_angle
from geo4d_bench.tasks.base import ArmSetup, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.motion import DOWN, hand_rotation, within
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
from geo4d_bench.tasks.spatula_on_table_scene import (
    CROCK_FLOOR_M,
    CROCK_HEIGHT_M,
    CROCK_OUTER_M,
    HANDLE_RADIUS_M,
    LENGTH_M,
    MAT_CENTRE,
    MAT_HALF,
    MAT_TOP_M,
    ORIGIN_M,
    OUTLINE,
    TABLE_TOP_M,
    scene_mjcf,
)

ARM = "right"

SPEC = TaskSpec(
    id="spatula_on_table",
    version="v1",
    language="pull the spatula out of the utensil crock and lay it on the blue mat on the left side of the table",
    arms=(ARM,),
    control_hz=20.0,
    max_seconds=40.0,
    phases=("reached", "grasped", "pulled", "over_mat", "laid", "task"),
    closed_below_m=0.05,  # open is 0.08, the handle is 0.016 thick
    workspace=(-0.01, 0.02, 1.08),
    objects=("crock", "spatula"),
    spawn=(
        Spawn("crock", (0.03, 0.11), (-0.19, -0.09), TABLE_TOP_M + 1e-4, (-3.1, 3.1)),
        Spawn(
            "spatula",
            (-0.002, 0.002),
            (-0.002, 0.002),
            CROCK_FLOOR_M + ORIGIN_M,
            (-0.9, 0.9),
            lean_rad=(0.38, 0.43),
            lean_to_rad=(-1.75, 1.75),
            on="crock",
            tolerance_m=0.02,
        ),
    ),
)

# What counts.
REACH_M = 0.02  # the hand counts as there when the grip site is this near to the handle
GRASP_M = 0.006  # the handle is between the fingers when their opening is this near to its thickness
LYING_RAD = float(np.radians(15.0))  # the spatula lies when its axis is this near to the horizontal
LAID_M = 0.035  # laid down, not dropped, when neither end of the spatula's axis is higher than this above the mat
FALLEN_RAD = 0.7  # a crock that leans more than this does not come upright again
WITHDRAWN_M = 0.06  # the hand has left when the grip site is this far from the spatula


class SpatulaOnTable(RobosuiteTask):
    """One Panda, a crock that can slide and fall over, and a spatula that leans in it."""

    spec = SPEC
    arms: ClassVar = {ARM: ArmSetup((-0.66, 0.0, 0.0), (0.1, -0.25, 0.0, -2.55, 0.0, 3.0, 0.86))}
    settle_s = 0.8

    def world(self) -> str:
        return scene_mjcf()

    def unmet(self) -> str | None:
        view = SpatulaView(self.scene(), ARM)
        if view.T_crock[2, 2] < 0.999 or not view.in_crock:
            return "the spatula does not stand in an upright crock"
        reach = view.reach
        if reach.approach[2] > -np.sin(FLATTEST_RAD):
            return "the blade faces where the hand cannot come from"
        if np.linalg.norm(reach.pregrasp[:3, 3] - HAND_M * reach.approach - SHOULDER) > REACH_OF_ARM_M:
            return "the handle leans further away than the arm reaches"
        return None

    def failure(self) -> str | None:
        poses = self.object_poses()
        if poses["crock"][2, 2] < np.cos(FALLEN_RAD):
            return "the crock has fallen over"
        for name, T in poses.items():
            x, y, z = T[:3, 3]
            if z < TABLE_TOP_M - 0.05:
                return f"the {name} has fallen off the table"
            if not (-0.30 < x < 0.35 and abs(y) < 0.42):
                return f"the {name} is out of reach"
        return None

    def update_phases(self, done: dict[str, bool]) -> None:
        view = SpatulaView(self.scene(), ARM)
        upright = view.T_crock[2, 2] > np.cos(FALLEN_RAD)
        # Closed fingertips pushing from one side both touch the handle too, but nothing is between them.
        held = view.fingers == 2 and abs(view.hand.opening_m - 2 * HANDLE_RADIUS_M) < GRASP_M
        laid = view.on_mat and view.lies and view.low
        rests = laid and view.fingers == 0 and "mat" in view.touching
        self.advance(
            done,
            reached=view.gap < REACH_M,
            grasped=held and view.in_crock,
            # With the crock upright, held above its rim: then it came out upwards, in the hand.
            pulled=upright and held and view.outline[:, 2].min() > view.rim,
            over_mat=held and _above_mat(view.T[:3, 3] + view.axis * (LENGTH_M / 2 - ORIGIN_M)),
            # Held until it all but lies: a spatula that falls onto the mat has not been laid there.
            laid=held and laid,
            task=upright and rests and self.at_rest("spatula") and view.gap > WITHDRAWN_M,
        )

    def expert(self) -> Expert:
        return ReactiveExpert(self.scene, SpatulaView, {ARM: PHASES}, SPEC.control_hz)

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        view = SpatulaView(self.scene(), ARM)
        held, free = view.held and view.hand.is_closed, view.fingers == 0 and view.gap > 0.06
        low = view.ends[:, 2].max() < MAT_TOP_M + 0.10
        if held and (view.in_crock or (low and view.on_mat)) and rng.random() < 0.7:
            return self.force_open(ARM, "spatula_slipped")
        if free and view.in_crock and view.gap > 0.10 and rng.random() < 0.7:
            turn, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.02, 0.05)
            way = distance * np.array([np.cos(turn), np.sin(turn)])
            # At its foot: it slides and does not fall over.
            return (self.push_object("crock", "crock_nudged", way, 12.0, -0.05, gain_n_s_m=200.0),)
        if held or free:
            # Never down into the crock or the table, which would jam the hand.
            away = np.array([-rng.uniform(0.0, 1.0), rng.uniform(-1, 1), rng.uniform(0.2, 1)])
            return (self.push_hand(ARM, away, rng.uniform(0.04, 0.08)),)
        return ()


class SpatulaOnTableV2(SpatulaOnTable):
    """The same from starts so wide that hardly any motion that is played without looking takes the spatula."""

    spec = SPEC.widened("v2", crock={"x_m": (-0.07, 0.08), "y_m": (-0.25, -0.06)})


# ---------------------------------------------------------------- the expert

GRIP_M = 0.198  # where the handle is taken, from its foot: above the rim, below the blade
DEEP_M = 0.006  # how far the grip site goes past the handle: the pads end 4 mm beyond it, and tips alone let go
PITCH_RAD = float(np.radians(55.0))  # of the approach below the horizontal, where the handle leaves a choice
STEEPER_RAD = 0.6  # how far the hand may be tilted in the plane of the handle, away from square to it
TURNED_RAD = 0.9  # how far round the handle the hand goes to face the blade
FLATTEST_RAD = float(np.radians(45.0))  # no start needs a flatter approach: the Panda's joint 6 would meet its limit
SHOULDER, HAND_M, REACH_OF_ARM_M = np.array([-0.66, 0.0, 1.245]), 0.21, 0.84
"""The Panda's second joint in the world; from its wrist to the grip site; how far from the shoulder the wrist gets."""
FORWARD = np.array([np.cos(PITCH_RAD), 0.0, -np.sin(PITCH_RAD)])
CLEAR_M = 0.025  # above the rim: pulled far enough to be carried aside
HOVER_M = 0.10  # above the mat, where the level spatula begins to be lowered
SAFE_Z = TABLE_TOP_M + CROCK_HEIGHT_M + 0.09  # the empty hand moves across the table at least at this height


class SpatulaView(ArmView):
    """What the phases' conditions are about."""

    def __init__(self, scene: SceneState, arm: str) -> None:
        super().__init__(scene, arm)
        self.T, self.T_crock = scene.T_world_obj["spatula"], scene.T_world_obj["crock"]
        self.touching, self.fingers = scene.contacts["spatula"], scene.fingers_on("spatula", arm)
        self.laid = scene.done["laid"]
        self.axis: Array = self.T[:3, 2]  # (3,) unit vector from the foot to the blade
        self.outline: Array = self.T[:3, 3] + OUTLINE @ self.T[:3, :3].T  # (5, 3) foot and corners of the blade
        self.ends: Array = self.T[:3, 3] + np.outer((-ORIGIN_M, LENGTH_M - ORIGIN_M), self.axis)  # (2, 3) foot and tip
        self.lies = bool(abs(np.arcsin(np.clip(self.axis[2], -1.0, 1.0))) < LYING_RAD)
        self.low = bool(self.ends[:, 2].max() < MAT_TOP_M + LAID_M)
        self.on_mat = _above_mat(self.outline)

    @cached_property
    def gap(self) -> float:
        """From the grip site to the spatula's axis, metres."""
        offset = self.p - self.ends[0]
        along = np.clip(offset @ self.axis, 0.0, LENGTH_M)
        return float(np.linalg.norm(offset - along * self.axis))

    @property
    def rim(self) -> float:
        """Height of the crock's highest point."""
        up = self.T_crock[2, 2]
        return float(self.T_crock[2, 3] + CROCK_HEIGHT_M * up + CROCK_OUTER_M * np.sqrt(max(0.0, 1.0 - up * up)))

    @property
    def in_crock(self) -> bool:
        """Whether the foot of the handle is inside the crock, below its rim."""
        x, y, z, _ = inverse(self.T_crock) @ self.T @ (0.0, 0.0, -ORIGIN_M, 1.0)
        return bool(np.hypot(x, y) < CROCK_OUTER_M and -0.01 < z < CROCK_HEIGHT_M)

    @property
    def placed(self) -> bool:
        down = self.fingers < 2 or self.hand.T_world_ee[2, 3] < self.floor + 0.004
        return bool(self.laid and self.on_mat and self.lies and self.low and down)

    @property
    def floor(self) -> float:
        """How low the grip site can go without the fingertips' rubbing on the table, which would keep them closed."""
        R = self.hand.T_world_ee[:3, :3]
        return float(MAT_TOP_M + 0.004 + 0.011 * abs(R[2, 2]) + 0.010 * abs(R[2, 1]))

    @property
    def held(self) -> bool:
        return self.fingers == 2 and self.hand.squeezes(0.010, 0.026) and self.gap < 0.02

    @cached_property
    def reach(self) -> Reach:
        """To the handle: fingers' axis across it, approach towards the blade's broad side, tilted down in the plane
        of the handle where it stands."""
        u, n = self.axis, self.T[:3, 0]
        ahead = FORWARD - (FORWARD @ u) * u
        ahead /= np.linalg.norm(ahead)
        aside = np.cross(u, ahead)
        # The blade looks the same from both sides.
        turn = np.clip(within(float(np.arctan2(n @ aside, n @ ahead)), np.pi), -TURNED_RAD, TURNED_RAD)
        square = np.cos(turn) * ahead + np.sin(turn) * aside
        tilt = np.clip(PITCH_RAD - np.arcsin(-square[2]), 0.0, STEEPER_RAD)
        z = np.cos(tilt) * square - np.sin(tilt) * u * np.sign(u[2])
        x = np.cross(u, z)
        x *= np.sign(x[1]) / np.linalg.norm(x)
        p = self.ends[0] + GRIP_M * u + DEEP_M * z
        p[2] = max(p[2], TABLE_TOP_M + 0.012)
        grasp = pose(np.stack([x, np.cross(z, x), z], axis=1), p)
        return Reach(self.hand, grasp, z, empty_m=0.012, near=(0.008, 0.12), near_closing=(0.02, 0.25))

    @cached_property
    def level(self) -> Array:
        """(3, 3) the held spatula turned level along x, so that the hand is above it."""
        u, T_ee = self.axis, self.hand.T_world_ee
        into = T_ee[:3, 2] - (T_ee[:3, 2] @ u) * u
        into /= np.linalg.norm(into)
        along = np.sign(u @ T_ee[:3, 1]) * np.array([1.0, 0.0, 0.0])
        now = np.stack([u, into, np.cross(u, into)], axis=1)
        then = np.stack([along, DOWN, np.cross(along, DOWN)], axis=1)
        return then @ now.T @ self.T[:3, :3]

    @property
    def target(self) -> Array:
        """(3,) where the level spatula's origin goes on the mat."""
        centre = np.array([*MAT_CENTRE, MAT_TOP_M + HANDLE_RADIUS_M])
        return centre - self.level[:, 2] * (LENGTH_M / 2 - ORIGIN_M)

    @property
    def ready(self) -> bool:
        """Level and over its place: it can go straight down."""
        turned = rotation_angle(self.level, self.T[:3, :3])
        away = np.linalg.norm(self.T[:2, 3] - self.target[:2])
        return bool(turned < (0.25 if self.low else 0.12) and away < (0.03 if self.low else 0.015))

    @property
    def beside_crock(self) -> bool:
        """Held so low that going aside would knock the crock over."""
        return bool((self.above_crock[:, 2] < self.rim + CLEAR_M).any())

    @cached_property
    def above_crock(self) -> Array:
        """(N, 3) those of nine points along its axis that are above the crock, or nearly."""
        points: Array = self.ends[0] + np.linspace(0.0, LENGTH_M, 9)[:, None] * self.axis
        near = np.linalg.norm(points[:, :2] - self.T_crock[:2, 3], axis=1) < CROCK_OUTER_M + 0.04
        return np.compress(near, points, axis=0)


def _move(v: SpatulaView, R: Array, p: Array, speed: float) -> Waypoint:
    """The held spatula's origin to p (3,), turned to R (3, 3)."""
    return Waypoint(pose(R, p) @ inverse(v.T) @ v.hand.T_world_ee, CLOSED_M, speed)


def _pull(v: SpatulaView) -> Waypoint:
    """Up out of the crock, a little along the lean: then neither foot nor handle presses on its wall."""
    way = v.axis * (0.25, 0.25, 1.0) if v.in_crock else np.array([0.0, 0.0, 1.0])
    return _move(v, v.T[:3, :3], v.T[:3, 3] + 0.05 * way, 0.12)


def _carry(v: SpatulaView) -> Waypoint:
    """Over the mat; not down as long as some of it is above the crock, and not level before it is nearly there: the
    hand, further than straight down by then, would not reach."""
    goal = v.target + np.array([0.0, 0.0, HOVER_M])
    if len(v.above_crock):
        goal[2] = max(goal[2], v.T[2, 3])
    waypoint = _move(v, v.level, goal, 0.18)
    if np.linalg.norm(v.p[:2] - waypoint.T_world_ee[:2, 3]) > 0.10:
        waypoint.T_world_ee[:3, :3] = hand_rotation(np.pi / 2)
        waypoint.T_world_ee[2, 3] += 0.05
    return waypoint


def _lower(v: SpatulaView) -> Waypoint:
    waypoint = _move(v, v.level, v.target, 0.08)
    waypoint.T_world_ee[2, 3] = max(waypoint.T_world_ee[2, 3], v.floor)
    return waypoint


def _release(v: SpatulaView) -> Waypoint:
    T = v.hand.T_world_ee.copy()
    T[2, 3] = max(T[2, 3], v.floor)
    return Waypoint(T, OPEN_M, speed=0.03, angular_speed=0.0)


def _back_off(v: SpatulaView) -> Waypoint:
    return Waypoint(v.hand_at(v.p - 0.10 * v.hand.T_world_ee[:3, 2]), OPEN_M, speed=0.12)


def _reach(v: SpatulaView) -> Waypoint:
    """Across the table at a safe height, then down to the start of the approach."""
    T = v.reach.pregrasp
    if np.linalg.norm(v.p[:2] - T[:2, 3]) > 0.04:
        T[2, 3] = max(T[2, 3], SAFE_Z)
    return Waypoint(T, OPEN_M, speed=0.18)


PHASES: tuple[Phase[SpatulaView], ...] = (
    # The spatula lies where it should: open, then back out.
    Phase("release", lambda v: v.placed and not v.hand.is_open, _release),
    Phase("withdraw", lambda v: v.placed, _back_off),
    # The handle is between the fingers: out of the crock, over the mat, down.
    Phase("close", lambda v: v.held and not v.hand.is_closed, still(CLOSED_M)),
    Phase("pull", lambda v: v.held and (v.in_crock or v.beside_crock), _pull),
    Phase("lower", lambda v: v.held and v.ready, _lower),
    Phase("carry", lambda v: v.held, _carry),
    # The hand is empty: go in front of the handle, straight towards it, and close.
    Phase("close", lambda v: v.reach.there, lambda v: Waypoint(v.reach.grasp, CLOSED_M, speed=0.03)),
    Phase("approach", lambda v: v.reach.lined_up, lambda v: Waypoint(v.reach.grasp, OPEN_M, speed=0.10)),
    Phase("back_off", lambda v: v.gap < 0.045, _back_off),
    Phase("reach", lambda v: True, _reach),
)


def _above_mat(p_world: Array) -> bool:
    """Whether points (..., 3) are over the mat, at whatever height."""
    return bool(np.all(np.abs(p_world[..., :2] - MAT_CENTRE) < MAT_HALF))
