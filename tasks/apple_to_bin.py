"""PlaceAppleFromBowlIntoBin: the left arm brings an apple from a bowl to a stand, the right arm from there to a bin.

The world's x axis points from the robots over the table, y to their left, z up. The stand between the arms is the
origin: bowl and left arm are on the side of positive y, bin and right arm on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.apple_to_bin_scene import (
    APPLE_IN_BOWL_M,
    BOWL_FLOOR_RADIUS_M,
    DISH_FLOOR_M,
    RADIUS_M,
    RIM_M,
    STAND_RADIUS_M,
    TABLE_TOP_M,
    in_bin,
    in_dish,
    inside_bin,
    world_mjcf,
)
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

LEFT, RIGHT = "left", "right"
SIDE = {LEFT: 1.0, RIGHT: -1.0}  # sign of y on each arm's own side

SPEC = TaskSpec(
    id="apple_to_bin",
    version="v1",
    language="put the apple from the bowl on the stand with the left arm and drop it in the bin with the right arm",
    arms=(LEFT, RIGHT),
    control_hz=20.0,
    max_seconds=60.0,
    phases=("reached", "lifted", "over_shelf", "on_shelf", "handed_over", "over_bin", "in_bin", "task"),
    closed_below_m=0.065,  # open is 0.08, the apple is 0.05 thick
    workspace=(0.0, 0.0, TABLE_TOP_M + 0.15),
    objects=("bowl", "apple", "bin"),
    spawn=(
        # A tenth of a millimetre above what they stand on: they settle without a first deep contact.
        Spawn("bowl", (-0.06, 0.06), (0.200, 0.240), TABLE_TOP_M + 1e-4, (-np.pi, np.pi)),
        Spawn("apple", (-0.012, 0.012), (-0.012, 0.012), APPLE_IN_BOWL_M + 1e-4, (-np.pi, np.pi), on="bowl"),
        Spawn("bin", (-0.06, 0.06), (-0.230, -0.215), TABLE_TOP_M + 1e-4, (-0.25, 0.25)),
    ),
)

# What counts.
GRASP_M = 0.01  # the apple is between the fingers when their opening is this near to its thickness
REACH_M = 0.03  # the left hand counts as there when the grip site is this near to the apple's centre
LIFT_M = 0.06  # the apple counts as lifted when its bottom is this far above the table: the bowl's rim is at 0.042
WITHDRAWN_M = 0.05  # the right hand is out of the bin this far above the rim; fingertips reach 0.01 lower


class AppleToBin(RobosuiteTask):
    """Two Pandas side by side; what the one puts down the other one takes, so neither can do it alone."""

    spec = SPEC
    # The hands start where idle ones wait, pointing down.
    arms: ClassVar = {
        LEFT: ArmSetup((-0.58, 0.33, 0.0), (-0.164, 0.19, -0.001, -2.447, 0.001, 2.637, 0.620)),
        RIGHT: ArmSetup((-0.58, -0.33, 0.0), (0.164, 0.19, 0.001, -2.447, -0.001, 2.637, 0.951)),
    }
    settle_s = 0.5

    def world(self) -> str:
        return world_mjcf()

    def failure(self) -> str | None:
        poses = self.object_poses()
        apple, T_bin = poses["apple"][:3, 3], poses["bin"]
        if apple[2] < TABLE_TOP_M - 0.05:
            return "the apple has fallen off the table"
        if T_bin[2, 3] < TABLE_TOP_M - 0.05 or T_bin[2, 2] < 0.8:
            return "the bin has been knocked over"
        if abs(apple[0]) > 0.22 or abs(apple[1]) > 0.38:
            return "the apple is out of reach"
        if apple[1] < -STAND_RADIUS_M and not self._done["on_shelf"] and self.at_rest("apple"):
            return "the apple got to the right side without having been put on the stand"
        if in_bin(apple, T_bin) and not self._done["over_bin"] and self.at_rest("apple"):
            return "the apple is in the bin without having been held above it"
        return None

    def update_phases(self, done: dict[str, bool]) -> None:
        scene = self.scene()
        left, right = (AppleView(scene, arm) for arm in SPEC.arms)
        apple, T_bin = left.apple, left.T_bin
        held_left, held_right = (
            view.fingers == 2 and abs(view.hand.opening_m - 2 * RADIUS_M) < GRASP_M for view in (left, right)
        )
        free = not left.fingers and not right.fingers
        rests = in_bin(apple, T_bin) and free
        self.advance(
            done,
            reached=np.linalg.norm(left.p - apple) < REACH_M,
            lifted=held_left and left.bottom > TABLE_TOP_M + LIFT_M,
            # Held until it is low above the stand: an apple that slipped and fell there has not been put there.
            over_shelf=held_left and in_dish(apple),
            on_shelf=in_dish(apple) and free and self.at_rest("apple"),
            handed_over=held_right and not held_left,
            over_bin=held_right and inside_bin(apple, T_bin) and right.bottom > RIM_M - 0.02,
            in_bin=rests,
            task=rests and self.at_rest("apple") and right.p[2] > RIM_M + WITHDRAWN_M,
        )

    def expert(self) -> Expert:
        return ReactiveExpert(self.scene, AppleView, {LEFT: LEFT_PHASES, RIGHT: RIGHT_PHASES}, SPEC.control_hz)

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        scene = self.scene()
        arm = LEFT if not scene.done["on_shelf"] else RIGHT
        view = AppleView(scene, arm)
        near = float(np.linalg.norm(view.p - view.apple)) < 0.10
        over = in_dish(view.apple, 0.06) or view.apple_over(view.T_bowl[:2, 3], 0.03)
        floor = TABLE_TOP_M if arm == LEFT and not in_dish(view.apple, 0.06) else DISH_FLOOR_M
        if view.held and view.hand.is_closed and over and view.bottom > floor + 0.025 and rng.random() < 0.7:
            return self.force_open(arm, "apple_slipped")  # it falls back into the bowl or onto the stand
        if arm == LEFT and not near and not view.held and view.in_bowl and rng.random() < 0.5:
            # The bowl is heavy; the apple goes along in it.
            way = self.way_to_spawn("bowl", rng, 0.05)
            return (self.push_object("bowl", "bowl_nudged", way, 12.0, 0.0, gain_n_s_m=200.0),)
        if view.held or not near:
            # Away from the other arm, so that nothing gets jammed between them.
            way = np.array([rng.uniform(-1, 1), SIDE[arm] * rng.uniform(0.2, 1.0), rng.uniform(0.2, 1.0)])
            return (self.push_hand(arm, way, rng.uniform(0.04, 0.08)),)
        return ()


class AppleToBinV2(AppleToBin):
    """The same from starts so wide that hardly any motion that is played without looking takes the apple."""

    spec = SPEC.widened(
        "v2",
        bowl={"x_m": (-0.15, 0.13), "y_m": (0.185, 0.31)},
        bin={"x_m": (-0.15, 0.13), "y_m": (-0.31, -0.185)},
    )


# ---------------------------------------------------------------- the expert

GRASP_UP_M = 0.004  # of the grip site above the apple's centre; the pads reach from 4 mm below it to 12 mm above
HOME_M = {arm: np.array([-0.10, side * 0.25, TABLE_TOP_M + 0.20]) for arm, side in SIDE.items()}
"""Where an idle hand waits: above its own side, far enough back to leave cameras a view of the stand."""
HOVER_Z = TABLE_TOP_M + 0.19  # height at which empty hands move about
CARRY_Z = TABLE_TOP_M + 0.115  # height of the apple's bottom while it is carried: above everything on the table
DROP_Z = RIM_M - 0.008  # height of the apple's bottom when it is dropped into the bin; fingertips stay above the rim
CLEAR_Y = 0.17  # a hand further out than this on its own side leaves the stand to the other one


class AppleView(ArmView):
    """What the phases' conditions are about: one arm, the other's hand, and where things are."""

    def __init__(self, scene: SceneState, arm: str) -> None:
        super().__init__(scene, arm)
        other = scene.arms[RIGHT if arm == LEFT else LEFT]
        self.apple = scene.T_world_obj["apple"][:3, 3]
        self.T_bowl, self.T_bin = scene.T_world_obj["bowl"], scene.T_world_obj["bin"]
        self.fingers = scene.fingers_on("apple", arm)
        self.shelved = scene.done["on_shelf"]
        self.bottom = float(self.apple[2]) - RADIUS_M
        self.held = self.fingers == 2 and self.hand.squeezes(0.035, 0.065)
        # The apple is where the left arm should bring it.
        self.brought = scene.done["over_shelf"] and in_dish(self.apple)
        # In the bin, or falling into it.
        self.binned = inside_bin(self.apple, self.T_bin) and self.fingers == 0
        # The other hand is on its own side.
        self.way_free = bool(-SIDE[arm] * other.T_world_ee[1, 3] > CLEAR_Y)

    @property
    def in_bowl(self) -> bool:
        return self.apple_over(self.T_bowl[:2, 3], BOWL_FLOOR_RADIUS_M)

    @property
    def mine(self) -> bool:
        """It is this arm that should take the apple."""
        if not self.way_free or inside_bin(self.apple, self.T_bin):
            return False
        if self.arm == LEFT:
            return not self.brought and (self.apple[1] > 0.0 or not self.shelved)
        return self.shelved and (in_dish(self.apple) or bool(self.apple[1] < 0.0))

    @cached_property
    def reach(self) -> Reach:
        """To the apple; beside an obstacle, no finger goes between it and the apple."""
        yaw = 0.0
        if not (self.in_bowl or in_dish(self.apple, 0.03)):
            offsets = [self.apple[:2] - centre for centre in (self.T_bowl[:2, 3], np.zeros(2), self.T_bin[:2, 3])]
            nearest = min(offsets, key=lambda offset: float(np.hypot(*offset)))
            if np.hypot(*nearest) < 0.18:
                yaw = within(np.arctan2(nearest[1], nearest[0]), np.pi)
        grasp = pose(hand_rotation(np.pi / 2, yaw), self.apple + np.array([0.0, 0.0, GRASP_UP_M]))
        return Reach(self.hand, grasp, DOWN, 0.035, (0.008, 0.15), (0.02, 0.3), aside=(0.012, 0.15), before_m=np.inf)

    def apple_over(self, xy: Array, within_m: float) -> bool:
        return bool(np.hypot(*(self.apple[:2] - xy)) < within_m)


def _down(p: Array, opening_m: float, speed: float, yaw_of: Array | None = None) -> Waypoint:
    """The hand to p (3,), pointing down; turned as ``yaw_of`` (4, 4), or straight where that is None."""
    R = hand_rotation(np.pi / 2) if yaw_of is None else yaw_of[:3, :3]
    return Waypoint(pose(R, p), opening_m, speed)


def _bring(v: AppleView, xy: Array, bottom: float, speed: float) -> Waypoint:
    """The held apple's centre to xy, its bottom to a height."""
    return _down(v.p + np.array([*xy, bottom + RADIUS_M]) - v.apple, CLOSED_M, speed)


def _rise(v: AppleView) -> Waypoint:
    return _down(np.array([*v.p[:2], HOVER_Z]), OPEN_M, 0.15, v.hand.T_world_ee)


def _retire(v: AppleView) -> Waypoint:
    """Straight up, then to where the idle hand waits."""
    home = HOME_M[v.arm]
    if v.p[2] < HOVER_Z - 0.03 and np.hypot(*(v.p - home)[:2]) > 0.03:
        return _rise(v)
    return _down(home, OPEN_M, 0.2)


def _held_rows(target: Callable[[AppleView], Array]) -> tuple[Phase[AppleView], ...]:
    """With the apple between the fingers: up, and to above the target."""
    return (
        Phase(
            "carry",
            lambda v: v.held and v.bottom > CARRY_Z - 0.025,
            lambda v: _bring(v, target(v), CARRY_Z, 0.18),
        ),
        Phase("lift", lambda v: v.held, lambda v: _bring(v, v.apple[:2], CARRY_Z + 0.005, 0.12)),
    )


_TAKE: tuple[Phase[AppleView], ...] = (
    # The hand is empty: over the apple, straight down, and close.
    Phase("wait", lambda v: not v.mine, _retire),
    Phase("close", lambda v: v.reach.there, lambda v: Waypoint(v.reach.grasp, CLOSED_M, speed=0.03)),
    Phase(
        "approach",
        lambda v: v.reach.lined_up and v.hand.is_open,
        lambda v: Waypoint(v.reach.grasp, OPEN_M, speed=0.12),
    ),
    Phase("rise", lambda v: bool(v.p[2] < HOVER_Z - 0.04), _rise),
    Phase("reach", lambda v: True, lambda v: _down(np.array([*v.apple[:2], HOVER_Z]), OPEN_M, 0.2, v.reach.grasp)),
)

LEFT_PHASES: tuple[Phase[AppleView], ...] = (
    Phase("release", lambda v: v.brought and not v.hand.is_open, still(OPEN_M)),
    Phase("withdraw", lambda v: v.brought, _retire),
    Phase("close", lambda v: v.held and not v.hand.is_closed, still(CLOSED_M)),
    Phase(
        "yield",
        lambda v: v.held and not v.way_free and v.bottom > CARRY_Z - 0.025,
        lambda v: _bring(v, HOME_M[LEFT][:2], CARRY_Z, 0.15),
    ),
    Phase(
        "lower",
        lambda v: v.held and v.apple_over(np.zeros(2), 0.012),
        lambda v: _bring(v, np.zeros(2), DISH_FLOOR_M + 0.003, 0.07),
    ),
    *_held_rows(lambda v: np.zeros(2)),
    *_TAKE,
)

RIGHT_PHASES: tuple[Phase[AppleView], ...] = (
    Phase("release", lambda v: v.binned and not v.hand.is_open, still(OPEN_M)),
    Phase("withdraw", lambda v: v.binned, _retire),
    Phase(
        "drop",
        lambda v: v.fingers > 0 and v.apple_over(v.T_bin[:2, 3], 0.035) and v.bottom < DROP_Z + 0.012,
        still(OPEN_M),
    ),
    Phase("close", lambda v: v.held and not v.hand.is_closed, still(CLOSED_M)),
    Phase(
        "lower",
        lambda v: v.held and v.apple_over(v.T_bin[:2, 3], 0.025),
        lambda v: _bring(v, v.T_bin[:2, 3], DROP_Z, 0.10),
    ),
    *_held_rows(lambda v: np.array(v.T_bin[:2, 3])),
    *_TAKE,
)
