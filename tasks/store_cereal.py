"""StoreCerealBoxUnderShelf: take a cereal box from the top of a shelf and put it on the board underneath.

The world's x axis points from the robot into the shelf, y to the robot's left, z up. The shelf's front edge is x = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, inverse, pose
from geo4d_bench.tasks.base import ArmSetup, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.mjcf import textured
from geo4d_bench.tasks.motion import hand_rotation, turn_z, within
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

# The shelf: two boards on four thin posts; no back, no sides, so that cameras all around see the hand. Metres.
DEPTH_M, WIDTH_M, THICKNESS_M = 0.26, 0.56, 0.02
LOWER_TOP_M, UPPER_TOP_M = 1.10, 1.44
UPPER_BOTTOM_M = UPPER_TOP_M - THICKNESS_M
POST_RADIUS_M = 0.008
BOX_HALF_M = np.array([0.05, 0.015, 0.075])  # robosuite's cereal box: half its depth (x), thickness (y), height (z)
CORNERS_BOX = np.array(list(product((-1, 1), repeat=3))) * BOX_HALF_M

SPEC = TaskSpec(
    id="store_cereal",
    version="v1",
    language="pick up the cereal box from the top of the shelf and put it on the shelf underneath",
    arms=(ARM,),
    control_hz=20.0,
    max_seconds=40.0,
    phases=("reached", "grasped", "lifted", "inserted", "released", "task"),
    closed_below_m=0.06,  # open is 0.08, the box is 0.03 thick
    workspace=(-0.03, 0.0, 1.43),
    objects=("cereal",),
    spawn=(
        # A tenth of a millimetre above the board: it settles without a first deep contact.
        Spawn("cereal", (0.06, 0.10), (-0.08, 0.08), UPPER_TOP_M + float(BOX_HALF_M[2]) + 1e-4, (-0.35, 0.35)),
    ),
)

HAND_PITCH_RAD = float(np.radians(53.0))  # below the horizontal: less, and joint 6 meets its limit while inserting

# What counts.
LIFT_M = 0.03  # the box counts as lifted when its lowest corner is this far above the upper board
REACH_M = 0.02  # the hand counts as there when the grip site is this near to the box
GRASP_M = 0.01  # the box is between the fingers when their opening is this near to its thickness
WITHDRAWN_M = 0.04  # the hand is out of the shelf when the grip site is this far from the space between the boards


class StoreCereal(RobosuiteTask):
    """One Panda before a shelf; the hand and the box are occluded while inserting."""

    spec = SPEC
    # The hand starts above and in front of the shelf, pitched as for the grasp.
    arms: ClassVar = {ARM: ArmSetup((-0.61, 0.0, 0.0), (0.0, -0.42, 0.0, -1.78, 0.0, 2.02, 0.785))}

    def world(self) -> str:
        half = (DEPTH_M / 2, WIDTH_M / 2, THICKNESS_M / 2)
        boards = "".join(
            f'<geom name="{name}" type="box" size="{half[0]} {half[1]} {half[2]}" pos="0 0 {top - half[2]}" '
            'material="shelf" group="1" friction="1 0.005 0.0001"/>'
            for name, top in (("shelf_lower", LOWER_TOP_M), ("shelf_upper", UPPER_TOP_M))
        )
        posts = "".join(
            f'<geom name="shelf_post{number}" type="cylinder" size="{POST_RADIUS_M} {UPPER_BOTTOM_M / 2}" '
            f'pos="{sx * (half[0] - POST_RADIUS_M)} {sy * (half[1] - POST_RADIUS_M)} {UPPER_BOTTOM_M / 2}" '
            'rgba="0.35 0.36 0.38 1" group="1" friction="1 0.005 0.0001"/>'
            for number, (sx, sy) in enumerate(product((-1, 1), repeat=2))
        )
        return f"""
        <mujoco>
          <asset>{textured("shelf", "light-wood.png", 3)}</asset>
          <worldbody><body name="shelf" pos="{DEPTH_M / 2} 0 0">{boards}{posts}</body></worldbody>
        </mujoco>"""

    def robosuite_objects(self) -> Sequence[Any]:
        """robosuite's cereal box with a box for its collision geometry.

        The mesh is a box with rounded edges; against boards and finger pads a mesh gives few and jumping contact
        points, a primitive a stable patch. Its solref of 1 ms is below twice the time step, which MuJoCo would clip.
        """
        from robosuite.models.objects import CerealObject

        cereal = CerealObject(name="cereal")
        for geom in cereal.worldbody.iter("geom"):
            if geom.get("group") == "0":
                for key in ("mesh", "material"):
                    geom.attrib.pop(key, None)
                geom.set("type", "box")
                geom.set("size", " ".join(map(str, BOX_HALF_M)))
                geom.set("solref", "0.005 1")
                geom.set("solimp", "0.95 0.99 0.001")
        return [cereal]

    def failure(self) -> str | None:
        x, y, z = self.object_poses()["cereal"][:3, 3]
        if z < LOWER_TOP_M - 0.05:
            return "the box has fallen off the shelf"
        if x > DEPTH_M + 0.1 or abs(y) > WIDTH_M / 2 + 0.1:
            return "the box is out of reach"
        return None

    def update_phases(self, done: dict[str, bool]) -> None:
        scene = self.scene()
        view = CerealView(scene, ARM)
        corners = view.box.corners
        # Closed fingertips pushing from one side both touch the box too, but nothing is between them.
        held = view.fingers == 2 and abs(view.hand.opening_m - 2 * BOX_HALF_M[1]) < GRASP_M
        inside = (
            np.all(corners[:, 0] > 0.0)
            and np.all(corners[:, 0] < DEPTH_M)
            and np.all(np.abs(corners[:, 1]) < WIDTH_M / 2)
            and corners[:, 2].min() > LOWER_TOP_M - 0.01
            and corners[:, 2].max() < UPPER_BOTTOM_M + 0.01
        )
        rests = inside and "shelf_lower" in scene.contacts["cereal"] and view.fingers == 0
        self.advance(
            done,
            reached=view.gap < REACH_M,
            grasped=held,
            lifted=held and corners[:, 2].min() > UPPER_TOP_M + LIFT_M,
            # Held on the way in: a box that was dropped half-way and pushed the rest has not been inserted.
            inserted=held and inside,
            released=rests,
            task=rests and self.at_rest("cereal") and _outside_shelf(view.p) > WITHDRAWN_M,
        )

    def expert(self) -> Expert:
        return ReactiveExpert(self.scene, CerealView, {ARM: PHASES}, SPEC.control_hz)

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        view = CerealView(self.scene(), ARM)
        T_box, bottom = view.box.T, view.box.bottom
        held = view.fingers == 2 and view.hand.is_closed
        above_board = T_box[0, 3] > -0.5 * BOX_HALF_M[0] and bottom > UPPER_TOP_M - 0.005
        free = view.fingers == 0 and view.gap > 0.06
        if held and above_board and bottom < UPPER_TOP_M + 0.06 and rng.random() < 0.7:
            return self.force_open(ARM, "box_slipped")
        if free and above_board and rng.random() < 0.5:
            # Pushed low, so that it slides over the board and does not fall over.
            way = self.way_to_spawn("cereal", rng, 0.05)
            return (self.push_object("cereal", "box_nudged", way, 3.0, -0.9 * BOX_HALF_M[2]),)
        if held or free:
            # A box in front of this cannot touch the shelf. Otherwise the hand is pushed so that nothing gets jammed.
            under_board = T_box[0, 3] > -0.09 and bottom < UPPER_BOTTOM_M
            sideways, up = (0.3, 0.0) if under_board else (1.0, 0.7)
            away = np.array([-rng.uniform(0.3, 1.0), sideways * rng.uniform(-1, 1), up * rng.uniform(0, 1)])
            return (self.push_hand(ARM, away, rng.uniform(0.05, 0.10)),)
        return ()


class StoreCerealV2(StoreCereal):
    """The same from starts so wide that hardly any motion that is played without looking stores the box.

    The arm stands nearer, to reach all of them.
    """

    spec = SPEC.widened("v2", cereal={"x_m": (0.03, 0.18), "y_m": (-0.22, 0.22), "yaw_rad": (-1.2, 1.2)})
    arms: ClassVar = {ARM: replace(StoreCereal.arms[ARM], base_xpos_m=(-0.54, 0.0, 0.0))}

    def unmet(self) -> str | None:
        box = self.object_poses()["cereal"]
        x, y = box[:2, 3] - self.arms[ARM].base_xpos_m[:2]
        if np.hypot(x, y) > REACH_OF_ARM_M:
            return "the box stands further away than the arm reaches"
        if abs(Box(box).yaw - np.arctan2(y, x)) > TURNED_RAD:
            return "the box is turned further than the hand"
        return None


# ---------------------------------------------------------------- the expert

GRASP_BOX = np.array([-0.035, 0.0, 0.053])  # of the grip site on the box: near and high, the hand stays partly outside
FRONT_X = -0.095  # where the box's centre is carried down in front of the shelf
CLEAR_X = -0.015  # the box is clear of the front edge when no corner is beyond this
INSIDE_X = 0.080  # where the box's centre is set down
SIDE_Y = 0.06  # the box is put in at its own y, but not further out than this
BACK_OFF_M, CARRY_M = 0.033, 0.050  # above the upper board: high enough to back off; what is aimed at
HOVER_M = 0.022  # above the lower board while going in
RETREAT_X = -0.14  # where the empty hand moves up and down in front of the shelf
REACH_OF_ARM_M = 0.72  # from the arm's base to a box on the upper board, horizontally
TURNED_RAD = 0.9  # between the box and the line from the arm's base to it


class Box:
    """The box's pose T (4, 4), its corners (8, 3), its yaw (rad, up to half a turn) and extent (m)."""

    def __init__(self, T: Array) -> None:
        self.T = T
        self.corners = T[:3, 3] + CORNERS_BOX @ T[:3, :3].T
        # The box looks the same after half a turn.
        self.yaw = within(np.arctan2(T[1, 0], T[0, 0]), np.pi)
        self.tilt = float(np.arccos(np.clip(T[2, 2], -1.0, 1.0)))
        low, high = self.corners.min(0), self.corners.max(0)
        self.bottom, self.top, self.far = float(low[2]), float(high[2]), float(high[0])
        inside = low[0] > 0.012 and high[0] < DEPTH_M - 0.01 and max(-low[1], high[1]) < WIDTH_M / 2 - 0.02
        self.placed = bool(T[2, 2] > 0.9 and inside and abs(low[2] - LOWER_TOP_M) < 0.006)
        """Whether it stands where it should."""

    @property
    def half_turn(self) -> Array:
        """(3, 3) identity, or half a turn about z where the box stands the other way round."""
        return turn_z(0.0) if self.T[:2, 0] @ (np.cos(self.yaw), np.sin(self.yaw)) > 0 else turn_z(np.pi)


class CerealView(ArmView):
    """What the phases' conditions are about."""

    def __init__(self, scene: SceneState, arm: str) -> None:
        super().__init__(scene, arm)
        self.box, self.fingers = Box(scene.T_world_obj["cereal"]), scene.fingers_on("cereal", arm)
        self.held = self.fingers == 2 and self.hand.squeezes(0.02, 0.05)
        self.on_upper = abs(self.box.bottom - UPPER_TOP_M) < 0.03
        self.y_in = float(np.clip(self.box.T[1, 3], -SIDE_Y, SIDE_Y))

    @property
    def gap(self) -> float:
        """Metres from the grip site to the box, 0 inside it."""
        p_box = self.box.T[:3, :3].T @ (self.p - self.box.T[:3, 3])
        return float(np.linalg.norm(np.maximum(np.abs(p_box) - BOX_HALF_M, 0.0)))

    @property
    def lost(self) -> bool:
        """Lies on its side, or stands on neither board: nothing that this expert can take."""
        return self.box.T[2, 2] <= 0.9 or not (self.on_upper or abs(self.box.bottom - LOWER_TOP_M) < 0.03)

    @property
    def square(self) -> bool:
        """In front of the shelf at the right height and not turned: ready to go in."""
        box = self.box
        level = abs(box.bottom - (LOWER_TOP_M + HOVER_M)) < 0.012
        return level and abs(box.yaw) < 0.1 and box.tilt < 0.1 and abs(box.T[1, 3]) < SIDE_Y + 0.01

    @cached_property
    def reach(self) -> Reach:
        turn = turn_z(self.box.yaw)
        grasp = pose(hand_rotation(HAND_PITCH_RAD, self.box.yaw), self.box.T[:3, 3] + turn @ GRASP_BOX)
        approach = grasp[:3, 2] if self.on_upper else turn[:, 0]
        return Reach(self.hand, grasp, approach, empty_m=0.02, near=(0.01, 0.1), near_closing=(0.02, 0.2))

    @property
    def beside_box(self) -> bool:
        """So near to the box that the way to the pregrasp would touch it."""
        return self.gap < 0.03 and self.reach.offset[0] > 0.02 - self.reach.pregrasp_m

    @property
    def other_level(self) -> bool:
        """The upper board is between the hand and where it has to go."""
        return bool(abs(self.p[2] - self.reach.pregrasp[2, 3]) > 0.06 and self.p[2] < UPPER_TOP_M + 0.08)


def _place(v: CerealView, x: float, y: float, bottom: float, yaw: float, speed: float) -> Waypoint:
    """The held box's centre to x, y, its lowest corner to ``bottom``, turned to ``yaw``, upright."""
    T_box = pose(turn_z(yaw) @ v.box.half_turn, (x, y, bottom + BOX_HALF_M[2]))
    return Waypoint(T_box @ inverse(v.box.T) @ v.hand.T_world_ee, CLOSED_M, speed)


def _withdraw(v: CerealView) -> Waypoint:
    return Waypoint(pose(hand_rotation(HAND_PITCH_RAD), (RETREAT_X, v.p[1], v.p[2])), OPEN_M, speed=0.12)


def _back_off(v: CerealView) -> Waypoint:
    return Waypoint(v.hand_at(v.p - 0.08 * v.reach.approach), OPEN_M, speed=0.10)


def _go_round(v: CerealView) -> Waypoint:
    goal, (x, y, z) = v.reach.pregrasp, v.p
    p = (RETREAT_X if x > RETREAT_X + 0.03 else x, y, z if x > RETREAT_X + 0.06 else goal[2, 3])
    return Waypoint(pose(goal[:3, :3], p), OPEN_M)


PHASES: tuple[Phase[CerealView], ...] = (
    # The box stands where it should: open, then back straight out.
    Phase("release", lambda v: v.box.placed and not v.hand.is_open, still(OPEN_M)),
    Phase("withdraw", lambda v: v.box.placed, _withdraw),
    # The box is between the fingers: up, back over the edge, down, in, and set down.
    Phase("close", lambda v: v.held and not v.hand.is_closed, still(CLOSED_M)),
    Phase(
        "back_out",  # the hand was turned against the upper board: pressing on would jam it
        lambda v: v.held and v.box.tilt > 0.14 and v.box.bottom < UPPER_TOP_M - 0.01 and v.box.T[0, 3] > FRONT_X + 0.02,
        lambda v: _place(v, FRONT_X, v.box.T[1, 3], max(v.box.bottom, LOWER_TOP_M + 0.01), v.box.yaw, 0.10),
    ),
    Phase(
        "insert",
        lambda v: v.held and v.box.far < CLEAR_X and v.square,
        lambda v: _place(v, INSIDE_X, v.y_in, LOWER_TOP_M + HOVER_M, 0.0, 0.10),
    ),
    Phase(
        "descend",
        lambda v: v.held and v.box.far < CLEAR_X,
        lambda v: _place(v, FRONT_X, v.y_in, LOWER_TOP_M + HOVER_M, 0.0, 0.14),
    ),
    Phase(
        "lift",
        lambda v: v.held and UPPER_TOP_M - 0.01 < v.box.bottom < UPPER_TOP_M + BACK_OFF_M,
        lambda v: _place(v, v.box.T[0, 3], v.box.T[1, 3], UPPER_TOP_M + CARRY_M, v.box.yaw, 0.12),
    ),
    Phase(
        "back",
        lambda v: v.held and v.box.bottom > UPPER_TOP_M - 0.01,
        lambda v: _place(v, FRONT_X, v.y_in, UPPER_TOP_M + CARRY_M, 0.0, 0.14),
    ),
    Phase(
        "back",
        lambda v: v.held and (v.box.top > UPPER_BOTTOM_M - 0.005 or v.box.bottom < LOWER_TOP_M - 0.005),
        lambda v: _place(v, FRONT_X, v.y_in, v.box.bottom, 0.0, 0.10),
    ),
    Phase(
        "insert",
        lambda v: v.held and v.box.T[0, 3] < INSIDE_X - 0.01,
        lambda v: _place(v, INSIDE_X, v.y_in, LOWER_TOP_M + HOVER_M, 0.0, 0.10),
    ),
    Phase("lower", lambda v: v.held, lambda v: _place(v, INSIDE_X, v.box.T[1, 3], LOWER_TOP_M - 0.004, 0.0, 0.06)),
    # The hand is empty: go in front of the box, straight towards it, and close.
    Phase("wait", lambda v: v.lost, still(OPEN_M)),
    Phase("close", lambda v: v.reach.there, lambda v: Waypoint(v.reach.grasp, CLOSED_M, speed=0.03)),
    Phase("approach", lambda v: v.reach.lined_up, lambda v: Waypoint(v.reach.grasp, OPEN_M, speed=0.10)),
    Phase("back_off", lambda v: v.beside_box, _back_off),
    Phase("go_round", lambda v: v.other_level, _go_round),
    Phase("reach", lambda v: True, lambda v: Waypoint(v.reach.pregrasp, OPEN_M)),
)


def _outside_shelf(p_world: Array) -> float:
    """Distance in metres from the space between the two boards, 0 inside it."""
    low = np.array([0.0, -WIDTH_M / 2, LOWER_TOP_M])
    high = np.array([DEPTH_M, WIDTH_M / 2, UPPER_BOTTOM_M])
    return float(np.linalg.norm(np.maximum(np.maximum(low - p_world, p_world - high), 0.0)))
