"""CanInDrawer: pull a drawer open by its handle and put a can into it.

The scene's geometry changes while the arm works, and the goal, the inside of the drawer, shows only to cameras that
look down into it. The world's x axis points from the robot to the cabinet, y to the robot's left, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.base import ArmSetup, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.can_in_drawer_scene import (
    BAR_HALF_M,
    BAR_M,
    CABINET_M,
    CABINET_SIZE_M,
    CAN_HALF_M,
    CAN_RADIUS_M,
    FRONT_TOP_M,
    INSIDE_LOW_M,
    TABLE_TOP_M,
    Can,
    world_mjcf,
)
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.motion import hand_rotation
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
    id="can_in_drawer",
    version="v1",
    language="open the drawer by its handle and put the can into it",
    arms=(ARM,),
    control_hz=20.0,
    max_seconds=45.0,
    phases=("reached_handle", "opened", "grasped", "lifted", "in_drawer", "released", "task"),
    closed_below_m=0.06,  # open is 0.08, the can is 0.04 thick, the handle's bar 0.016
    workspace=(0.0, 0.0, 1.0),
    objects=("can",),
    spawn=(Spawn("can", (-0.13, 0.03), (-0.24, -0.10), TABLE_TOP_M + CAN_HALF_M + 1e-4, (-np.pi, np.pi)),),
    joints=(("drawer", 0.0, 0.05),),  # shut, or left ajar
)

# What counts.
REACH_M = 0.02  # the hand counts as there when the grip site is this near to the handle's bar
OPENED_M, LEFT_OPEN_M = 0.14, 0.10  # the drawer was pulled open this far while gripped; is open this far at the end
GRASP_M = 0.008  # something is between the fingers when their opening is this near to its thickness
LIFT_M = 0.03  # the can counts as lifted when its lowest point is this far above the table
WITHDRAWN_M = 0.05  # the hand is out of the drawer when the grip site is this far above its front


class CanInDrawer(RobosuiteTask):
    """One Panda before a table with a cabinet of one drawer."""

    spec = SPEC
    arms: ClassVar = {ARM: ArmSetup((-0.64, 0.0, 0.0), (-0.042, 0.114, 0.006, -2.22, 0.0, 2.335, 0.75))}
    watched: ClassVar = ("drawer", "handle")

    def world(self) -> str:
        return world_mjcf()

    def failure(self) -> str | None:
        x, y, z = self.object_poses()["can"][:3, 3]
        if z < TABLE_TOP_M - 0.05:
            return "the can has fallen off the table"
        if x < -0.30 or x > 0.16 or abs(y) > 0.36:
            return "the can is out of reach"
        # Not put in, and a hand that takes it would not fit between the drawer's front and the cabinet.
        can = Can(self.object_poses()["can"])
        across = can.inside(self.joints()["drawer"]) and abs(can.grasp_yaw) >= 0.9 and not self._done["in_drawer"]
        if across and self.at_rest("can") and self.scene().fingers_on("can", ARM) == 0:
            return "the can fell across the drawer, where the hand cannot take it"
        return None

    def update_phases(self, done: dict[str, bool]) -> None:
        view = CanView(self.scene(), ARM)
        can = view.can
        grips = view.on_handle == 2 and abs(view.hand.opening_m - 2 * BAR_HALF_M[1]) < GRASP_M
        held = view.on_can == 2 and abs(view.hand.opening_m - 2 * CAN_RADIUS_M) < GRASP_M
        inside = can.inside(view.travel)
        rests = inside and view.can_on_drawer and view.on_can == 0
        withdrawn = view.p[2] > TABLE_TOP_M + FRONT_TOP_M + WITHDRAWN_M
        self.advance(
            done,
            reached_handle=_gap(view.p, view.bar, BAR_HALF_M) < REACH_M,
            # By the bar between the fingers: a drawer that was dragged open some other way has to be gripped too.
            opened=grips and view.travel > OPENED_M,
            grasped=held,
            lifted=held and can.bottom > TABLE_TOP_M + LIFT_M,
            # Held until it is between the walls: a can that was dropped from above has not been put in.
            in_drawer=held and inside,
            released=rests,
            task=rests and withdrawn and view.travel > LEFT_OPEN_M and self.at_rest("can"),
        )

    def expert(self) -> Expert:
        return ReactiveExpert(self.scene, CanView, {ARM: PHASES}, SPEC.control_hz)

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        view = CanView(self.scene(), ARM)
        can, beside_drawer = view.can, view.can.p[1] < CABINET_M[1] - CABINET_SIZE_M[1] / 2 - 0.05
        on_table = can.bottom < TABLE_TOP_M + 0.06 and beside_drawer
        held, grips = view.held and view.hand.is_closed, view.grips and view.hand.is_closed
        free = view.on_can == 0 and view.on_handle == 0
        if grips and rng.random() < 0.5:
            return self.force_open(ARM, "handle_slipped")
        if held and on_table and rng.random() < 0.7:
            return self.force_open(ARM, "can_slipped")
        if free and can.stands and on_table and _gap(view.p, can.p, can.half) > 0.06 and rng.random() < 0.5:
            way = self.way_to_spawn("can", rng, 0.06)
            if rng.random() < 0.5:
                return (self.push_object("can", "can_nudged", way, 3.0, -0.8 * CAN_HALF_M),)
            return (self.push_object("can", "can_knocked_over", way, 3.0, 0.9 * CAN_HALF_M),)
        if free and view.travel > OPEN_ENOUGH_M and view.handle.far and rng.random() < 0.6:
            inwards = np.array([rng.uniform(0.06, 0.12), 0.0])
            return (self.push_object("drawer", "drawer_pushed", inwards, 10.0, 0.0, gain_n_s_m=100.0),)
        if held or grips or free:
            # Never down, nor towards the cabinet, where something would be jammed.
            away = np.array([-rng.uniform(0.3, 1.0), rng.uniform(-1, 1), 0.7 * rng.uniform(0, 1)])
            return (self.push_hand(ARM, away, rng.uniform(0.05, 0.10)),)
        return ()


class CanInDrawerV2(CanInDrawer):
    """The same from starts so wide that hardly any motion that is played without looking takes the can."""

    spec = SPEC.widened("v2", can={"x_m": (-0.20, 0.07), "y_m": (-0.30, -0.08)})


# ---------------------------------------------------------------- the expert

FLOOR_M = float(CABINET_M[2] + INSIDE_LOW_M[2])  # height of the drawer's floor
OPEN_TO_M, OPEN_ENOUGH_M = 0.17, 0.125  # how far the drawer is pulled; when it stands less open, it is pulled again
HIGH_ON_BAR_M = 0.015  # above the middle of the handle's bar: the palm stays clear of the drawer's front
CARRY_M, CROSS_M = 0.16, 0.16  # above the table: the carried can's bottom; the empty hand on its way past the drawer
OUT_M = FRONT_TOP_M + WITHDRAWN_M + 0.03  # above the table: where the hand ends
PARK = np.array([-0.05, -0.16])  # where a held can is put back on the table when the drawer has to be opened again
OVER_M = 0.02  # the can is lowered while its centre is this near to where it goes


class CanView(ArmView):
    """What the phases' conditions are about; ``on_handle`` and ``on_can`` count fingers that touch."""

    def __init__(self, scene: SceneState, arm: str) -> None:
        super().__init__(scene, arm)
        self.can, self.travel = Can(scene.T_world_obj["can"]), scene.joints["drawer"]
        self.on_handle, self.on_can = scene.fingers_on("handle", arm), scene.fingers_on("can", arm)
        self.can_on_drawer = "drawer" in scene.contacts["can"]
        self.put_in = scene.done["in_drawer"]
        self.held = self.on_can == 2 and self.hand.squeezes(0.03, 0.055)
        # The bar is between the fingers; while pulling, one of them may lose touch for a moment.
        self.grips = self.on_handle > 0 and self.hand.squeezes(0.012, 0.03)
        # The drawer has to be pulled, first or again.
        self.shut = not scene.done["opened"] or self.travel < OPEN_ENOUGH_M
        self.bar: Array = CABINET_M + BAR_M - np.array([self.travel, 0.0, 0.0])  # (3,) middle of the handle's bar
        # (2,) where the can goes: the middle of what stands out of the cabinet.
        self.goal = np.array([CABINET_M[0] - self.travel / 2, CABINET_M[1]])

    @property
    def placed(self) -> bool:
        """Stands or lies in the drawer, where it was put."""
        return self.put_in and self.can.inside(self.travel) and self.can.bottom < FLOOR_M + 0.008

    @property
    def at_can(self) -> bool:
        return _gap(self.p, self.can.p, self.can.half) < 0.03

    @property
    def over_drawer(self) -> bool:
        return bool(np.linalg.norm(self.can.p[:2] - self.goal) < OVER_M)

    @cached_property
    def handle(self) -> Straight:
        """To the bar's upper end."""
        T = pose(hand_rotation(np.pi / 2), self.bar + np.array([0.0, 0.0, HIGH_ON_BAR_M]))
        return Straight.to(self, T, 2 * float(BAR_HALF_M[1]))

    @cached_property
    def take(self) -> Straight:
        T = pose(hand_rotation(np.pi / 2, self.can.grasp_yaw), self.can.grasp_point)
        return Straight.to(self, T, 2 * CAN_RADIUS_M)


class Straight(Reach):
    """The hand on its way to the handle or the can."""

    @classmethod
    def to(cls, view: CanView, grasp: Array, thickness_m: float) -> Straight:
        """To a grasp (4, 4) about something ``thickness_m`` thick."""
        return cls(view.hand, grasp, grasp[:3, 2], thickness_m - 0.006, (0.012, 0.12), (0.025, 0.25), past_m=0.03)

    @property
    def there(self) -> bool:
        along, aside, turned = self.offset
        near, turn = self.near_closing if self.hand.is_closing else self.near
        return self.hand.opening_m > self.empty_m and abs(along) < near and aside < near and turned < turn

    @property
    def beside(self) -> bool:
        """So near that the way to the pregrasp would touch what is to be taken."""
        along, aside, _ = self.offset
        return aside < 0.08 and 0.02 - self.pregrasp_m < along < 0.05

    @property
    def far(self) -> bool:
        """Something may stand between the hand and the pregrasp."""
        return bool(np.linalg.norm((self.hand.T_world_ee - self.pregrasp)[:2, 3]) > 0.06)


def _move_can(v: CanView, p_can: Array, speed: float) -> Waypoint:
    """The held can's centre to ``p_can`` (3,), the hand turned square and straight down."""
    R = hand_rotation(np.pi / 2)
    offset = R @ v.hand.T_world_ee[:3, :3].T @ (v.can.p - v.p)
    return Waypoint(pose(R, p_can - offset), CLOSED_M, speed)


def _carry(v: CanView, xy: Array) -> Waypoint:
    return _move_can(v, np.array([*xy, TABLE_TOP_M + CARRY_M + v.can.half[2]]), 0.16)


def _lower(v: CanView, floor_m: float) -> Waypoint:
    return _move_can(v, np.array([*v.can.p[:2], floor_m - 0.004 + v.can.half[2]]), 0.10)


def _pull(v: CanView) -> Waypoint:
    """From where the hand is on the bar: it may have slid along it."""
    x, _, _ = v.p
    _, y, z = v.handle.grasp[:3, 3]
    return Waypoint(pose(v.handle.grasp[:3, :3], (x - (OPEN_TO_M - v.travel), y, z)), CLOSED_M, 0.12)


def _up(v: CanView, height_m: float) -> Waypoint:
    """Straight up to ``height_m`` above the table."""
    return Waypoint(v.hand_at((v.p[0], v.p[1], TABLE_TOP_M + height_m)), OPEN_M)


def _cross(reach: Reach) -> Waypoint:
    """Past the drawer's front and the can to where the approach begins."""
    T = reach.pregrasp
    T[2, 3] = max(T[2, 3], TABLE_TOP_M + CROSS_M + 0.015)
    return Waypoint(T, OPEN_M, speed=0.18)


def _leave(v: CanView, reach: Reach) -> Waypoint:
    return Waypoint(v.hand_at(v.p - 0.08 * reach.approach), OPEN_M, speed=0.12)


def _low(v: CanView) -> bool:
    return bool(v.p[2] < TABLE_TOP_M + CROSS_M)


def _take(
    name: str, reach: Callable[[CanView], Straight], when: Callable[[CanView], bool]
) -> tuple[Phase[CanView], ...]:
    """The empty hand goes before a grasp, past what is in its way, straight towards it, and closes."""
    return (
        Phase(f"grip_{name}", lambda v: when(v) and reach(v).there, lambda v: Waypoint(reach(v).grasp, CLOSED_M, 0.03)),
        Phase(
            f"approach_{name}", lambda v: when(v) and reach(v).lined_up, lambda v: Waypoint(reach(v).grasp, OPEN_M, 0.1)
        ),
        Phase(f"leave_{name}", lambda v: when(v) and reach(v).beside, lambda v: _leave(v, reach(v))),
        Phase(f"rise_to_{name}", lambda v: when(v) and reach(v).far and _low(v), lambda v: _up(v, CROSS_M + 0.03)),
        Phase(f"cross_to_{name}", lambda v: when(v) and reach(v).far, lambda v: _cross(reach(v))),
        Phase(f"reach_{name}", when, lambda v: Waypoint(reach(v).pregrasp, OPEN_M)),
    )


PHASES: tuple[Phase[CanView], ...] = (
    # The can stands where it should: open, then straight up.
    Phase("release", lambda v: v.placed and v.at_can and not v.hand.is_open, still(OPEN_M)),
    Phase("withdraw", lambda v: v.placed and (v.at_can or not v.shut), lambda v: _up(v, OUT_M)),
    # The can is between the fingers: up, over the drawer and down; back to the table where the drawer is not open.
    Phase("put_back", lambda v: v.held and v.shut and v.can.bottom < TABLE_TOP_M + 0.008, still(OPEN_M)),
    Phase("close", lambda v: v.held and not v.hand.is_closed, still(CLOSED_M)),
    Phase("lower", lambda v: v.held and not v.shut and v.over_drawer, lambda v: _lower(v, FLOOR_M)),
    Phase(
        "lower_back",
        lambda v: v.held and v.shut and bool(np.linalg.norm(v.can.p[:2] - PARK) < OVER_M),
        lambda v: _lower(v, TABLE_TOP_M),
    ),
    Phase(
        "carry",
        lambda v: v.held and v.can.bottom > TABLE_TOP_M + CARRY_M - 0.025,
        lambda v: _carry(v, PARK if v.shut else v.goal),
    ),
    Phase("lift", lambda v: v.held, lambda v: _carry(v, v.can.p[:2])),
    # The handle is between the fingers: pull, then let go and back off.
    Phase("pull", lambda v: v.grips and v.hand.is_closed and v.travel < OPEN_TO_M - 0.015, _pull),
    Phase("let_go", lambda v: v.grips and not v.shut, still(OPEN_M)),
    Phase("let_go", lambda v: v.handle.there and not v.hand.is_open and not v.shut, still(OPEN_M)),
    Phase("leave", lambda v: v.handle.beside and not v.shut, lambda v: _leave(v, v.handle)),
    # The hand is empty.
    *_take("handle", lambda v: v.handle, lambda v: v.shut),
    *_take("can", lambda v: v.take, lambda v: True),
)


def _gap(p: Array, middle: Array, half: Array) -> float:
    """Distance in metres from an upright box, 0 inside it."""
    return float(np.linalg.norm(np.maximum(np.abs(p - middle) - half, 0.0)))
