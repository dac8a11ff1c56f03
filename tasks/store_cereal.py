"""StoreCerealBoxUnderShelf: take a cereal box from the top of a shelf and put it on the board underneath."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench import seeding
from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.base import Command, Expert, Task
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.store_cereal_layout import BOX, HOME_QPOS, SHELF, SPAWN, SPEC

if TYPE_CHECKING:
    from geo4d_bench.tasks.robosuite_scene import ControllerState

_ARM = SPEC.arms[0]
_OPEN_FINGERS_M = (0.04, -0.04)
_LIFT_M = 0.03
"""The box counts as lifted when its lowest corner is this far above the upper board."""
_REACH_M = 0.02
"""The hand counts as there when the grip site is this near to the box."""
_GRASP_M = 0.01
"""The box is between the fingers when their opening is this near to its thickness."""
_WITHDRAWN_M = 0.04
"""The hand is out of the shelf when the grip site is this far from the space between the boards."""
_REST_M_S, _REST_RAD_S = 0.02, 0.2
"""Speeds below which the box is at rest."""
_PUSH_STEPS = 10
_PUSH_S = _PUSH_STEPS / SPEC.control_hz
_HAND_PUSH_M = (0.05, 0.10)
"""How far the hand is pushed, roughly: the controller resists."""
_SLIP_STEPS = 8
FRONT_CLEAR_X = -0.09
"""A box whose centre is nearer to the robot than this cannot touch the shelf."""
_NUDGE_M = 0.05
"""How far the box is slid over the board at most."""


@dataclass(frozen=True)
class Scene:
    """What an expert sees of one moment.

    Attributes:
        T_world_ee, T_world_box: (4, 4).  opening_m: between the fingers.
        gripper_ramp: -1 when the fingers are told to be open, 1 closed; it takes 0.8 s from one to the other.
        velocity_ee: (3,) m/s of the grip site.
        fingers_on_box: how many of the two fingers touch the box.
    """

    T_world_ee: Array
    T_world_box: Array
    opening_m: float
    gripper_ramp: float
    velocity_ee: Array
    fingers_on_box: int


@dataclass(frozen=True)
class _Snapshot:
    physics: Array
    controller: ControllerState
    done: tuple[bool, ...]
    pushes: tuple[Push, ...]


class StoreCereal(Task):
    """The task on robosuite 1.5.2: a Panda, absolute OSC at 20 Hz, one process's simulation, reset many times."""

    spec = SPEC

    def __init__(self) -> None:
        # robosuite takes seconds to import; whoever only lists tasks must not pay for it.
        import mujoco
        from threadpoolctl import threadpool_limits

        from geo4d_bench.tasks.robosuite_scene import ShelfSimulation

        # LAPACK rounds differently with another number of threads, and an episode must not depend on it. For this
        # process from now on: matrices of 7 x 7 gain nothing from threads.
        threadpool_limits(limits=1, user_api="blas")

        self._mujoco = mujoco
        self._sim = ShelfSimulation()
        model = self._sim.model
        self._site = self._sim.site
        self._box_body = model.body("cereal_main").id
        self._hand_body = model.body("gripper0_right_right_gripper").id
        self._box_qpos = int(model.jnt_qposadr[model.body_jntadr[self._box_body]])
        self._box_dof = int(model.jnt_dofadr[model.body_jntadr[self._box_body]])
        self._side_of = self._geom_sides()
        self._done = dict.fromkeys(SPEC.phases, False)
        self._pushes: tuple[Push, ...] = ()
        self.reset(0, "train")

    def reset(self, seed: int, split: str) -> None:
        rng = seeding.generator(SPEC.key, split, seed, "spawn")
        x, y, yaw = (rng.uniform(*r) for r in (SPAWN.box_x_m, SPAWN.box_y_m, SPAWN.box_yaw_rad))
        qpos = np.zeros(self._sim.model.nq)
        qpos[self._sim.arm_qpos] = np.array(HOME_QPOS) + rng.uniform(-1, 1, len(HOME_QPOS)) * SPAWN.joint_noise_rad
        qpos[self._sim.finger_qpos] = _OPEN_FINGERS_M
        box = slice(self._box_qpos, self._box_qpos + 7)
        # A tenth of a millimetre above the board: it settles without a first deep contact.
        qpos[box] = (x, y, SHELF.upper_top_m + BOX.half_m[2] + 1e-4, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        self._done = dict.fromkeys(SPEC.phases, False)
        self._pushes = ()
        self._sim.reset(qpos)

    def step(self, command: Command) -> None:
        pushes = self._pushes
        self._sim.control_step(self.action(command), [push.apply for push in pushes])
        self._pushes = tuple(left for push in pushes if (left := push.after_step()))
        self._update_phases()

    def action(self, command: Command) -> Array:
        """(7,) position (3), rotation vector (3) of the grip site in the world, gripper (+1 close, -1 open)."""
        T = np.asarray(command.T_world_ee[_ARM], dtype=np.float64)
        close = command.opening_m[_ARM] < SPEC.closed_below_m
        return np.concatenate([T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_rotvec(), [1.0 if close else -1.0]])

    def physics_state(self) -> Array:
        return self._state(self._mujoco.mjtState.mjSTATE_FULLPHYSICS)

    def snapshot(self) -> _Snapshot:
        return _Snapshot(
            self._state(self._mujoco.mjtState.mjSTATE_INTEGRATION),
            self._sim.controller_state(),
            tuple(self._done.values()),
            self._pushes,
        )

    def restore(self, snapshot: _Snapshot) -> None:
        self._mujoco.mj_setState(
            self._sim.model, self._sim.data, snapshot.physics, self._mujoco.mjtState.mjSTATE_INTEGRATION
        )
        self._sim.set_controller_state(snapshot.controller)
        self._done = dict(zip(SPEC.phases, snapshot.done, strict=True))
        self._pushes = snapshot.pushes
        self._sim.refresh()

    def ee_poses(self) -> dict[str, Array]:
        data = self._sim.data
        return {_ARM: pose(data.site_xmat[self._site].reshape(3, 3), data.site_xpos[self._site])}

    def openings(self) -> dict[str, float]:
        left, right = self._sim.data.qpos[self._sim.finger_qpos]
        return {_ARM: float(left - right)}

    def object_poses(self) -> dict[str, Array]:
        data = self._sim.data
        return {"cereal": pose(data.xmat[self._box_body].reshape(3, 3), data.xpos[self._box_body])}

    def success(self) -> dict[str, bool]:
        return dict(self._done)

    def failure(self) -> str | None:
        x, y, z = self._sim.data.xpos[self._box_body]
        if z < SHELF.lower_top_m - 0.05:
            return "the box has fallen off the shelf"
        if x > SHELF.depth_m + 0.1 or abs(y) > SHELF.width_m / 2 + 0.1:
            return "the box is out of reach"
        return None

    def scene_xml(self) -> str:
        return self._sim.xml()

    def scene(self) -> Scene:
        """The present moment as the expert sees it."""
        velocity = np.zeros(6)
        self._mujoco.mj_objectVelocity(
            self._sim.model, self._sim.data, self._mujoco.mjtObj.mjOBJ_SITE, self._site, velocity, 0
        )
        return Scene(
            self.ee_poses()[_ARM],
            self.object_poses()["cereal"],
            self.openings()[_ARM],
            self._sim.gripper_ramp,
            velocity[3:].copy(),
            len({"left", "right"} & self._touching()),
        )

    def expert(self) -> Expert:
        from geo4d_bench.tasks.store_cereal_expert import StoreCerealExpert

        return StoreCerealExpert(self.scene)

    def disturb(self, rng: np.random.Generator) -> str | None:
        if self._pushes:
            return None
        self._pushes = self._choose_pushes(rng)
        return self._pushes[0].name if self._pushes else None

    def _state(self, what: int) -> Array:
        state = np.empty(self._mujoco.mj_stateSize(self._sim.model, what))
        self._mujoco.mj_getState(self._sim.model, self._sim.data, state, what)
        return state

    def _geom_sides(self) -> dict[int, str]:
        """What each colliding geom is, for whatever may touch the box."""
        model, sides = self._sim.model, {}
        for geom in range(model.ngeom):
            name, body = model.geom(geom).name, model.geom_bodyid[geom]
            if body == self._box_body:
                sides[geom] = "box"
            elif "finger1" in name:
                sides[geom] = "left"
            elif "finger2" in name:
                sides[geom] = "right"
            elif name.startswith("shelf"):
                sides[geom] = name
            else:
                sides[geom] = "other"
        return sides

    def _touching(self) -> set[str]:
        """What the box touches now: ``left`` or ``right`` finger, ``shelf_lower``, ``shelf_upper``, ``other`` ..."""
        data = self._sim.data
        pairs = data.contact.geom[: data.ncon]
        found = set()
        for a, b in pairs:
            sides = {self._side_of[int(a)], self._side_of[int(b)]}
            if "box" in sides:
                found |= sides - {"box"}
        return found

    def _choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        """A disturbance that this moment allows and that can be recovered from; empty where there is none."""
        scene = self.scene()
        T_ee, T_box = scene.T_world_ee, scene.T_world_box
        bottom = float((T_box[2, 3] + CORNERS_BOX @ T_box[2, :3]).min())
        held = scene.fingers_on_box == 2 and scene.gripper_ramp > 0.999
        above_board = T_box[0, 3] > -0.5 * BOX.half_m[0] and bottom > SHELF.upper_top_m - 0.005
        free = scene.fingers_on_box == 0 and _box_gap(T_ee[:3, 3], T_box) > 0.06
        if held and above_board and bottom < SHELF.upper_top_m + 0.06 and rng.random() < 0.7:
            return self._slip(T_ee[:3, 0])
        if free and above_board and rng.random() < 0.5:
            return (self._nudge(T_box, rng),)
        if held or free:
            under_board = T_box[0, 3] > FRONT_CLEAR_X and bottom < SHELF.upper_bottom_m
            return (self._bump(rng, sideways=0.3 if under_board else 1.0, up=0.0 if under_board else 0.7),)
        return ()

    def _slip(self, fingers_axis: Array) -> tuple[Push, ...]:
        """The fingers are forced apart for a moment and the box drops onto the board it is above."""
        left, right = (self._sim.model.body(f"gripper0_right_{side}finger").id for side in ("left", "right"))
        x, y, z = (float(v) for v in 0.15 * fingers_axis)
        # The left finger opens against the x axis of the grip site.
        return (
            Push("box_slipped", left, (-x, -y, -z), 300.0, 45.0, 0.0, _SLIP_STEPS),
            Push("box_slipped", right, (x, y, z), 300.0, 45.0, 0.0, _SLIP_STEPS),
        )

    def _nudge(self, T_box: Array, rng: np.random.Generator) -> Push:
        """The box is slid over the board, pushed low so that it does not fall over."""
        way = np.array([rng.uniform(*SPAWN.box_x_m), rng.uniform(*SPAWN.box_y_m)]) - T_box[:2, 3]
        vx, vy = way * min(1.0, _NUDGE_M / max(float(np.linalg.norm(way)), 1e-9)) / _PUSH_S
        return Push("box_nudged", self._box_body, (vx, vy, 0.0), 10.0, 3.0, -0.9 * BOX.half_m[2], _PUSH_STEPS)

    def _bump(self, rng: np.random.Generator, sideways: float, up: float) -> Push:
        """The hand is pushed away from the shelf, so that nothing gets jammed."""
        way = np.array([-rng.uniform(0.3, 1.0), sideways * rng.uniform(-1.0, 1.0), up * rng.uniform(0.0, 1.0)])
        vx, vy, vz = way / np.linalg.norm(way) * rng.uniform(*_HAND_PUSH_M) / _PUSH_S
        return Push("hand_pushed", self._hand_body, (vx, vy, vz), 600.0, 80.0, 0.0, _PUSH_STEPS)

    def _update_phases(self) -> None:
        data, done = self._sim.data, self._done
        T_box, p_ee = self.object_poses()["cereal"], data.site_xpos[self._site]
        corners = T_box[:3, 3] + CORNERS_BOX @ T_box[:3, :3].T
        touching = self._touching()
        # Closed fingertips pushing from one side both touch the box too, but nothing is between them.
        held = {"left", "right"} <= touching and abs(self.openings()[_ARM] - 2 * BOX.half_m[1]) < _GRASP_M
        hand_on_box = bool({"left", "right"} & touching)
        inside = (
            bool(np.all(corners[:, 0] > 0.0) and np.all(corners[:, 0] < SHELF.depth_m))
            and bool(np.all(np.abs(corners[:, 1]) < SHELF.width_m / 2))
            and corners[:, 2].min() > SHELF.lower_top_m - 0.01
            and corners[:, 2].max() < SHELF.upper_bottom_m + 0.01
        )
        if _box_gap(p_ee, T_box) < _REACH_M:
            done["reached"] = True
        if done["reached"] and held:
            done["grasped"] = True
        if done["grasped"] and held and corners[:, 2].min() > SHELF.upper_top_m + _LIFT_M:
            done["lifted"] = True
        # Held on the way in: a box that was dropped half-way and pushed the rest has not been inserted.
        if done["lifted"] and held and inside:
            done["inserted"] = True
        rests = inside and "shelf_lower" in touching and not hand_on_box
        if done["inserted"] and rests:
            done["released"] = True
        velocity = data.qvel[self._box_dof : self._box_dof + 6]
        still = np.linalg.norm(velocity[:3]) < _REST_M_S and np.linalg.norm(velocity[3:]) < _REST_RAD_S
        if done["released"] and rests and still and _outside_shelf(p_ee) > _WITHDRAWN_M:
            done["task"] = True


CORNERS_BOX = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.array(BOX.half_m)


def _box_gap(p_world: Array, T_world_box: Array) -> float:
    """Distance in metres from the box, 0 inside it."""
    p_box = T_world_box[:3, :3].T @ (p_world - T_world_box[:3, 3])
    return float(np.linalg.norm(np.maximum(np.abs(p_box) - BOX.half_m, 0.0)))


def _outside_shelf(p_world: Array) -> float:
    """Distance in metres from the space between the two boards, 0 inside it."""
    low = np.array([0.0, -SHELF.width_m / 2, SHELF.lower_top_m])
    high = np.array([SHELF.depth_m, SHELF.width_m / 2, SHELF.upper_bottom_m])
    return float(np.linalg.norm(np.maximum(np.maximum(low - p_world, p_world - high), 0.0)))
