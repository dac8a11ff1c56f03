"""What all tasks share; a task adds its scene, its phases, its expert and its disturbances."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench import seeding
from geo4d_bench.errors import ActionError, SceneError
from geo4d_bench.geometry.se3 import Array, pose, unfit_pose
from geo4d_bench.tasks.base import ArmSetup, Command, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.reactive import ArmState, SceneState

SPAWN_TRIES = 100
_OPEN_FINGERS_M = (0.04, -0.04)
_PENETRATION_M = 1e-3  # objects that start deeper in one another than this collide
_REST_M_S, _REST_RAD_S = 0.02, 0.2  # speeds below which an object is at rest
_PUSH_STEPS, _SLIP_STEPS = 10, 8


class RobosuiteTask(ABC):
    """A running simulation of one task on robosuite 1.5.2: Pandas with absolute OSC; built once, reset many times.

    A task is a subclass with ``spec``, ``arms`` and the abstract methods below. The phases in ``self._done`` are its
    only memory.
    """

    spec: TaskSpec
    arms: ClassVar[Mapping[str, ArmSetup]]
    """How each of ``spec.arms`` is mounted."""
    settle_s: ClassVar[float] = 0.0
    """How long objects come to rest after they were put at their start, while the arms hold still."""
    watched: ClassVar[Sequence[str]] = ()
    """Bodies of the scene, such as a drawer's handle, that ``contacts`` tells of as it does of objects."""

    @abstractmethod
    def world(self) -> str:
        """MJCF: ``<mujoco>`` with ``<asset>`` and ``<worldbody>``, in the frame of the world.

        A movable object is a body of the world with a free joint and the object's name. Geoms of group 1 are drawn,
        those of group 0 are not; robosuite computes masses from group 0 alone. So whatever moves has geoms of group 0
        that collide and weigh, and geoms of group 1 with ``contype="0" conaffinity="0"`` that are seen. What does not
        move may have geoms of group 1 that collide.
        """

    @abstractmethod
    def update_phases(self, done: dict[str, bool]) -> None:
        """Set what has been reached now; called after every control step."""

    @abstractmethod
    def failure(self) -> str | None:
        """Why the episode cannot succeed any more (the object lies on the floor), or None."""

    @abstractmethod
    def expert(self) -> Expert:
        """A fresh expert that starts from the present state."""

    @abstractmethod
    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        """A disturbance that this moment allows and that can be recovered from; empty where there is none."""

    def robosuite_objects(self) -> Sequence[Any]:
        """robosuite's own objects (``MujocoObject``) that are in the scene too."""
        return ()

    def unmet(self) -> str | None:
        """Which constraint of the task the present start breaks (it is then drawn again), or None."""
        return None

    # ---------------------------------------------------------------- a simulation

    def __init__(self) -> None:
        # robosuite takes seconds to import; whoever only lists tasks must not pay for it.
        from threadpoolctl import threadpool_limits

        from geo4d_bench.rendering.opengl import import_mujoco

        mujoco = import_mujoco()
        from geo4d_bench.tasks.simulation import Simulation

        # LAPACK rounds differently with another number of threads, and an episode must not depend on it. For this
        # process from now on: matrices of 7 x 7 gain nothing from threads.
        threadpool_limits(limits=1, user_api="blas")

        self._mujoco = mujoco
        self._sim = Simulation(self.spec, self.arms, self.world(), self.robosuite_objects())
        self.model, self.data = self._sim.model, self._sim.data
        self._body_of = {name: self._find_body(name) for name in self.spec.objects}
        self._labels, self._geom_names = self._geom_labels()
        self._joints = self._own_joints()
        self._done: dict[str, bool] = {}
        self._pushes: tuple[Push, ...] = ()
        self.reset(0, "train")

    def reset(self, seed: int, split: str) -> None:
        """A new episode. SceneError: no start that meets the task's constraints was found in 100 tries."""
        rng = seeding.generator(self.spec.key, split, seed, "spawn")
        faults: Counter[str] = Counter()
        for _ in range(SPAWN_TRIES):
            fault = self._try_start(rng)
            if fault is None:
                return
            faults[fault] += 1
        why = "; ".join(f"{count} times: {fault}" for fault, count in faults.most_common(3))
        raise SceneError(f"{self.spec.key}: no start for {split} seed {seed} in {SPAWN_TRIES} tries ({why})")

    def step(self, command: Command) -> None:
        """One control step (1 / control_hz seconds) towards absolute targets; ActionError where they are none."""
        self._sim.control_step(self.action(command), self._pushes)
        self._pushes = tuple(replace(push, steps=push.steps - 1) for push in self._pushes if push.steps > 1)
        self.update_phases(self._done)

    def action(self, command: Command) -> Array:
        """(7 x arms,) what the controller is given, as stored in datasets: for each arm position (3) and rotation
        vector (3) of the grip site in the world, gripper (+1 close, -1 open). ActionError where that is not possible.
        """
        rows: list[Array] = []
        for arm in self.spec.arms:
            at = f"control step {round(self.data.time * self.spec.control_hz)}, arm '{arm}'"
            try:
                T, opening = np.asarray(command.T_world_ee[arm], dtype=np.float64), float(command.opening_m[arm])
            except (KeyError, TypeError, ValueError) as error:
                raise ActionError(f"{at}: expected a pose and an opening, numbers, got {error!r}") from None
            if T.shape != (4, 4) or not np.isfinite(opening):
                raise ActionError(f"{at}: expected a pose (4, 4) and a finite opening, got {T.shape} and {opening}")
            if fault := unfit_pose(T[None]):
                raise ActionError(f"{at}: the target has {fault[1]}")
            close = opening < self.spec.closed_below_m
            rows += [T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_rotvec(), np.array([1.0 if close else -1.0])]
        return np.concatenate(rows)

    def physics_state(self) -> Array:
        """(nstate,) mjSTATE_FULLPHYSICS: enough to render the moment, also on another machine."""
        return self._state(self._mujoco.mjtState.mjSTATE_FULLPHYSICS)

    def snapshot(self) -> Any:
        """All of the simulation, controllers and pushes included, so that ``restore`` continues to the bit."""
        controllers = [arm.state for arm in self._sim.arms.values()]
        return self._state(self._mujoco.mjtState.mjSTATE_INTEGRATION), controllers, self.success(), self._pushes

    def restore(self, snapshot: Any) -> None:
        """Go back to a :meth:`snapshot`."""
        physics, controllers, done, self._pushes = snapshot
        self._mujoco.mj_setState(self.model, self.data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        for arm, state in zip(self._sim.arms.values(), controllers, strict=True):
            arm.state = state
        self._done = dict(done)
        self._sim.refresh()

    def ee_poses(self) -> dict[str, Array]:
        """T_world_ee (4, 4) of each arm: robosuite's grip site, z along the approach, x along the fingers' axis."""
        data = self.data
        return {
            name: pose(data.site_xmat[arm.site].reshape(3, 3), data.site_xpos[arm.site])
            for name, arm in self._sim.arms.items()
        }

    def openings(self) -> dict[str, float]:
        """Metres between the fingers of each arm, 0 when closed."""
        # Of the fingers' two joints, left minus right.
        return {name: float(np.subtract(*self.data.qpos[arm.finger_qpos])) for name, arm in self._sim.arms.items()}

    def object_poses(self) -> dict[str, Array]:
        """T_world_obj (4, 4) of each movable object."""
        data = self.data
        return {name: pose(data.xmat[body].reshape(3, 3), data.xpos[body]) for name, body in self._body_of.items()}

    def success(self) -> dict[str, bool]:
        """Each phase of ``spec.phases`` and whether it has been reached in this episode; ``task`` is the whole."""
        return dict(self._done)

    def phase(self) -> str:
        """The last phase reached in order, ``start`` where none was."""
        reached = itertools.takewhile(self._done.__getitem__, self.spec.phases)
        return ("start", *reached)[-1]

    def scene_xml(self) -> str:
        """The MJCF of the present model; its mesh and texture files may be absolute paths of this machine."""
        return self._sim.xml()

    def disturb(self, rng: np.random.Generator) -> str | None:
        """Begin a physical disturbance now; its name, or None where one is under way or the phase has none."""
        if self._pushes:
            return None
        self._pushes = self.choose_pushes(rng)
        return self._pushes[0].name if self._pushes else None

    def robosuite_environment(self) -> Any:
        """A new ``robosuite`` environment of the same model, with robosuite's own controllers, to compare with."""
        from geo4d_bench.tasks.simulation import World

        return World(self.spec, self.arms, self.world(), self.robosuite_objects())

    # ---------------------------------------------------------------- for phases, experts and disturbances

    def scene(self) -> SceneState:
        """The present moment as the expert sees it."""
        poses, openings, velocity = self.ee_poses(), self.openings(), np.zeros(6)
        arms = {}
        for name, arm in self._sim.arms.items():
            self._mujoco.mj_objectVelocity(self.model, self.data, self._mujoco.mjtObj.mjOBJ_SITE, arm.site, velocity, 0)
            arms[name] = ArmState(poses[name], velocity[3:].copy(), openings[name], arm.ramp)
        return SceneState(arms, self.object_poses(), self.contacts(), self.joints(), self.success())

    def contacts(self) -> dict[str, frozenset[str]]:
        """What each movable object, and each body of ``watched``, touches now: labels (``finger_left/<arm>``,
        ``finger_right/<arm>``, ``robot/<arm>``, ``floor``, the name of a watched body, otherwise the name of the body
        of the world that it belongs to), and the names of the geoms that have one."""
        found: dict[str, set[str]] = {name: set() for name in (*self.spec.objects, *self.watched)}
        data = self.data
        for a, b in data.contact.geom[: data.ncon].tolist():
            for mine, other in ((a, b), (b, a)):
                if self._labels[mine] in found and self._labels[other] != self._labels[mine]:
                    found[self._labels[mine]].update((self._labels[other], self._geom_names[other]))
        return {name: frozenset(labels - {""}) for name, labels in found.items()}

    def joints(self) -> dict[str, float]:
        """Positions of the scene's own hinges and slides (a drawer's, not the robots'), radians or metres."""
        return {name: float(self.data.qpos[at]) for name, at in self._joints.items()}

    def at_rest(self, obj: str) -> bool:
        """Whether an object moves slower than 2 cm/s and 0.2 rad/s."""
        dof = int(self.model.body_dofadr[self._body_of[obj]])
        velocity = self.data.qvel[dof : dof + 6]
        return bool(np.linalg.norm(velocity[:3]) < _REST_M_S and np.linalg.norm(velocity[3:]) < _REST_RAD_S)

    def push_hand(self, arm: str, way: Array, distance_m: float) -> Push:
        """The hand is pushed ``distance_m`` along ``way`` (3,), roughly: the controller resists."""
        vx, vy, vz = (float(v) for v in way / np.linalg.norm(way) * distance_m / self._push_s)
        return Push("hand_pushed", self._sim.arms[arm].hand_body, (vx, vy, vz), 600.0, 80.0, 0.0, _PUSH_STEPS)

    def force_open(self, arm: str, name: str) -> tuple[Push, ...]:
        """The fingers are forced apart for a moment, and what they hold drops."""
        x, y, z = (float(v) for v in 0.15 * self.ee_poses()[arm][:3, 0])
        # The left finger opens against the x axis of the grip site.
        return (
            Push(name, self._sim.arms[arm].left_body, (-x, -y, -z), 300.0, 45.0, 0.0, _SLIP_STEPS),
            Push(name, self._sim.arms[arm].right_body, (x, y, z), 300.0, 45.0, 0.0, _SLIP_STEPS),
        )

    def push_object(
        self, obj: str, name: str, offset_m: Array, force_n: float, at_height_m: float, gain_n_s_m: float = 10.0
    ) -> Push:
        """An object, or another body of the scene, is slid by ``offset_m`` (2,) with at most ``force_n``, pushed
        ``at_height_m`` above its centre of mass; ``gain_n_s_m`` is more for what is heavy."""
        vx, vy = (float(v) for v in np.asarray(offset_m) / self._push_s)
        return Push(name, self._find_body(obj), (vx, vy, 0.0), gain_n_s_m, force_n, at_height_m, _PUSH_STEPS)

    def way_to_spawn(self, obj: str, rng: np.random.Generator, at_most_m: float) -> Array:
        """(2,) from where an object is towards a place drawn from its spawn range, cut to ``at_most_m``."""
        spawn = next(spawn for spawn in self.spec.spawn if spawn.object == obj)
        way = np.array([rng.uniform(*spawn.x_m), rng.uniform(*spawn.y_m)]) - self.object_poses()[obj][:2, 3]
        return way * min(1.0, at_most_m / max(float(np.linalg.norm(way)), 1e-9))

    def advance(self, done: dict[str, bool], **holds: object) -> None:
        """For ``update_phases``: whether the condition of each phase holds now. A phase is reached once it does, after
        the phase before it was reached."""
        before = True
        for phase in self.spec.phases:
            done[phase] = before = done[phase] or (before and bool(holds[phase]))

    # ---------------------------------------------------------------- helpers

    @property
    def _push_s(self) -> float:
        return _PUSH_STEPS / self.spec.control_hz

    def _try_start(self, rng: np.random.Generator) -> str | None:
        """Draw a start and let it come to rest; what is wrong with it, or None."""
        starts = draw_spawns(self.spec.spawn, rng)
        self._sim.reset(self._start_qpos(starts, rng))
        self._done = dict.fromkeys(self.spec.phases, False)
        self._pushes = ()
        return self._collision() or self.unmet() or (self._settle(starts) if self.settle_s > 0.0 else None)

    def _start_qpos(self, starts: Mapping[str, Array], rng: np.random.Generator) -> Array:
        qpos: Array = self.model.qpos0.copy()
        for name, start in starts.items():
            at = int(self.model.jnt_qposadr[self.model.body_jntadr[self._body_of[name]]])
            qpos[at : at + 7] = start
        for joint, low, high in self.spec.joints:
            qpos[self._joints[joint]] = rng.uniform(low, high)
        for arm, part in self._sim.arms.items():
            home = np.array(self.arms[arm].home_qpos)
            qpos[part.qpos] = home + rng.uniform(-1, 1, len(home)) * self.arms[arm].noise_rad
            qpos[part.finger_qpos] = _OPEN_FINGERS_M
        return qpos

    def _settle(self, starts: Mapping[str, Array]) -> str | None:
        hold = self.action(Command(self.ee_poses(), dict.fromkeys(self.spec.arms, 0.08)))
        for _ in range(round(self.settle_s * self.spec.control_hz)):
            self._sim.control_step(hold)
        self.data.time = 0.0
        self._sim.refresh()
        for name in self.spec.objects:
            if not self.at_rest(name):
                return f"{name} did not come to rest within {self.settle_s:g} s"
        poses = self.object_poses()
        for spawn in self.spec.spawn:
            if np.linalg.norm(poses[spawn.object][:3, 3] - starts[spawn.object][:3]) > spawn.tolerance_m:
                return f"{spawn.object} came to rest more than {spawn.tolerance_m:g} m from where it was put"
        return self.unmet()

    def _collision(self) -> str | None:
        data = self.data
        for number in np.flatnonzero(data.contact.dist[: data.ncon] < -_PENETRATION_M):
            labels = [self._labels[int(geom)] for geom in data.contact.geom[number]]
            if set(labels) & set(self.spec.objects) or any(label.startswith("robot/") for label in labels):
                return f"{labels[0]} collides with {labels[1]}"
        return None

    def _state(self, what: int) -> Array:
        state = np.empty(self._mujoco.mj_stateSize(self.model, what))
        self._mujoco.mj_getState(self.model, self.data, state, what)
        return state

    def _find_body(self, name: str) -> int:
        """An object's body: of that name, or robosuite's ``<name>_main``."""
        for candidate in (name, f"{name}_main"):
            found = self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_BODY, candidate)
            if found >= 0:
                return int(found)
        raise SceneError(f"{self.spec.key}: the scene has no body '{name}', which the task names as object or watched")

    def _geom_labels(self) -> tuple[list[str], list[str]]:
        """What each geom belongs to, and its own name (empty where it has none)."""
        model = self.model
        roots = {body: label for label, body in self._body_of.items()}
        roots |= {self._find_body(name): name for name in self.watched}
        for name, arm in self._sim.arms.items():
            roots |= {arm.left_body: f"finger_left/{name}", arm.right_body: f"finger_right/{name}"}
            # The arm's own tree begins at the child of the world above the hand.
            roots[int(model.body_rootid[arm.hand_body])] = f"robot/{name}"
        labels = ["floor"]
        for body in range(1, model.nbody):
            parent = labels[model.body_parentid[body]]
            own = model.body(body).name if model.body_parentid[body] == 0 else parent
            labels.append(roots.get(body, own))
        return (
            [labels[model.geom_bodyid[geom]] for geom in range(model.ngeom)],
            [model.geom(geom).name for geom in range(model.ngeom)],
        )

    def _own_joints(self) -> dict[str, int]:
        robots = {int(self.model.body_rootid[arm.hand_body]) for arm in self._sim.arms.values()}
        free = self._mujoco.mjtJoint.mjJNT_FREE
        return {
            self.model.joint(j).name: int(self.model.jnt_qposadr[j])
            for j in range(self.model.njnt)
            if self.model.jnt_type[j] != free and int(self.model.body_rootid[self.model.jnt_bodyid[j]]) not in robots
        }


def draw_spawns(spawns: Sequence[Spawn], rng: np.random.Generator) -> dict[str, Array]:
    """(7,) position (metres, world) and quaternion (w, x, y, z) of each object, drawn in turn."""
    starts: dict[str, Array] = {}
    for spawn in spawns:
        x, y, yaw = (rng.uniform(*r) for r in (spawn.x_m, spawn.y_m, spawn.yaw_rad))
        position, turn = np.array([x, y, spawn.z_m]), np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        if spawn.lean_rad is not None:
            lean, to = rng.uniform(*spawn.lean_rad), rng.uniform(*spawn.lean_to_rad)
            tip = Rotation.from_rotvec(lean * np.array([-np.sin(to), np.cos(to), 0.0]))
            turn = (tip * Rotation.from_quat(turn, scalar_first=True)).as_quat(scalar_first=True)
        if spawn.on is not None:
            position = position + starts[spawn.on][:3]
        starts[spawn.object] = np.concatenate([position, turn])
    return starts
