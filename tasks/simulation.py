"""The robosuite side of a task: arms, model and a control step without observables or rewards.

This module imports robosuite and is itself imported only when a task is made.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.base import ArmSetup, TaskSpec
from geo4d_bench.tasks.disturbance import Push

# robosuite sets MUJOCO_GL to 'egl', which is not what this process draws with and would be inherited by others, and
# takes the numbers of EGL's and of CUDA's devices for the same.
_variables = {name: os.environ.pop(name) for name in ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID") if name in os.environ}
# robosuite resets its logger's level when imported, so a filter is what keeps its advice on optional extras quiet.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mujoco
    import robosuite.macros as macros
    from robosuite.controllers import load_composite_controller_config
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import EmptyArena
    from robosuite.models.grippers import PandaGripper, register_gripper
    from robosuite.models.tasks import ManipulationTask
    from robosuite.utils.mjcf_utils import xml_path_completion

    from geo4d_bench.tasks.osc import WorldFrameOSC
os.environ |= _variables

KP = 300.0
CONTACT_MEMORY = "64M"
"""Of contacts and constraints in a simulation. Tasks use 0.3 MB, robosuite's limits of 5,000 reserve 1.2 GB."""
_SIDE = "right"  # robosuite's name for the only arm of a Panda


def texture_file(name: str) -> str:
    """Path of one of robosuite's textures, such as ``light-wood.png``, for a ``<texture file=...>`` in MJCF."""
    return str(xml_path_completion(f"textures/{name}"))


@register_gripper
class SteadyPandaGripper(PandaGripper):  # type: ignore[misc]
    """The Panda's hand with the real one's finger speed: 0.8 s for the whole stroke (robosuite: 0.5 s)."""

    @property
    def speed(self) -> float:
        return 0.125


class World(ManipulationEnv):  # type: ignore[misc]
    """Pandas in an empty room with what a task puts there. Only the model is used, and the arms' bookkeeping."""

    def __init__(self, spec: TaskSpec, arms: Mapping[str, ArmSetup], mjcf: str, objects: Sequence[Any]) -> None:
        self._arms, self._mjcf, self._objects = tuple(arms[arm] for arm in spec.arms), mjcf, list(objects)
        config = load_composite_controller_config(controller="BASIC", robot="Panda")
        config["body_parts"][_SIDE] |= {
            "input_type": "absolute",
            "input_ref_frame": "world",
            "kp": KP,
            "damping_ratio": 1,
        }
        super().__init__(
            robots=["Panda"] * len(self._arms),
            controller_configs=[copy.deepcopy(config) for _ in self._arms],
            gripper_types=SteadyPandaGripper.__name__,
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=spec.control_hz,
            hard_reset=False,
            ignore_done=True,
            renderer="mujoco",
        )

    def _load_model(self) -> None:
        super()._load_model()
        for robot, setup in zip(self.robots, self._arms, strict=True):
            robot.robot_model.set_base_xpos(setup.base_xpos_m)
            robot.robot_model.set_base_ori((0.0, 0.0, setup.base_yaw_rad))
            robot.init_qpos = np.array(setup.home_qpos)
        arena = EmptyArena()
        arena.set_origin([0, 0, 0])
        for camera in arena.worldbody.findall("camera"):
            arena.worldbody.remove(camera)
        _add_mjcf(arena, self._mjcf)
        for side in (-1, 1):  # the arena's one light leaves whatever faces the cameras in the dark
            ET.SubElement(
                arena.worldbody, "light", pos=f"0.5 {2 * side} 2.5", dir=f"-0.4 {-side} -0.7", directional="true",
                castshadow="false", diffuse="0.35 0.35 0.35", specular="0.05 0.05 0.05",
            )  # fmt: skip
        self.model = ManipulationTask(
            mujoco_arena=arena,
            mujoco_robots=[robot.robot_model for robot in self.robots],
            mujoco_objects=self._objects,
        )
        size = self.model.root.find("size")
        size.attrib.clear()
        size.set("memory", CONTACT_MEMORY)

    def _setup_observables(self) -> dict[str, Any]:
        return {}

    def reward(self, action: Any = None) -> float:
        return 0.0


class Arm:
    """One Panda in a compiled model: where its parts are, its control law and its gripper."""

    def __init__(self, model: Any, data: Any, robot: Any, setup: ArmSetup) -> None:
        self.gripper = robot.gripper[_SIDE]
        self.site = model.site(self.gripper.important_sites["grip_site"]).id
        prefix = self.gripper.naming_prefix
        self.hand_body, self.left_body, self.right_body = (
            model.body(prefix + name).id for name in ("right_gripper", "leftfinger", "rightfinger")
        )
        self.qpos = np.array(robot._ref_joint_pos_indexes)
        self.finger_qpos = np.array(robot._ref_gripper_joint_pos_indexes[_SIDE])
        self.ctrl = np.array(robot._ref_actuators_indexes_dict[_SIDE])
        self._finger_ctrl = np.array(robot._ref_joint_gripper_actuator_indexes[_SIDE])
        self._finger_range = model.actuator_ctrlrange[self._finger_ctrl].T.copy()
        dofs = np.array(robot._ref_joint_vel_indexes)
        limit = model.actuator_ctrlrange[self.ctrl, 1].copy()
        self.osc = WorldFrameOSC(model, data, self.site, dofs, self.qpos, np.array(setup.home_qpos), limit, KP)
        self._data = data

    @property
    def ramp(self) -> float:
        """The fingers' commanded position: -1 fully open, 1 fully closed; a stroke takes 0.8 s."""
        return float(self.gripper.current_action[1])

    def rest(self) -> None:
        """Controllers as in a fresh process: hold the present pose, fingers open."""
        self.osc.hold()
        self.gripper.current_action = np.array([1.0, -1.0])

    def set_goal(self, action: Array) -> None:
        """Position (3), rotation vector (3) in the world, gripper (+1 close, -1 open), for one control step."""
        self.osc.set_goal(action)
        low, high = self._finger_range
        ramp = self.gripper.format_action(action[6:])
        self._data.ctrl[self._finger_ctrl] = 0.5 * (low + high) + 0.5 * (high - low) * ramp

    @property
    def state(self) -> tuple[Array, Array, Array]:
        """What the controllers keep between two control steps; none of it is changed in place."""
        return self.osc.goal_pos, self.osc.goal_ori, self.gripper.current_action

    @state.setter
    def state(self, state: tuple[Array, Array, Array]) -> None:
        self.osc.goal_pos, self.osc.goal_ori, self.gripper.current_action = state


class Simulation:
    """robosuite's model, its control law and its grippers behind a few exact calls.

    The physics is always left after ``mj_step1``: positions, contacts and velocities belong to the present state
    (robosuite leaves them one substep behind), and going on costs nothing extra.

    Args:
        spec: of the task.  arms: how each of ``spec.arms`` is mounted.
        mjcf: ``<mujoco>`` with ``<asset>`` and ``<worldbody>``: what stands in the room.
        objects: robosuite's own objects (``MujocoObject``) that are there as well.
    """

    def __init__(self, spec: TaskSpec, arms: Mapping[str, ArmSetup], mjcf: str, objects: Sequence[Any]) -> None:
        self.env = World(spec, arms, mjcf, objects)
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        self.arms = {
            arm: Arm(self.model, self.data, robot, arms[arm])
            for arm, robot in zip(spec.arms, self.env.robots, strict=True)
        }
        self._substeps = round(1.0 / spec.control_hz / macros.SIMULATION_TIMESTEP)

    def xml(self) -> str:
        """The MJCF; mesh and texture files are absolute paths."""
        return str(self.env.edit_model_xml(self.env.model.get_xml()))

    def reset(self, qpos: Array) -> None:
        """All physics and controller state as in a fresh process, at these joint positions, at rest."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self.refresh()
        for arm in self.arms.values():
            arm.rest()

    def refresh(self) -> None:
        """Derived quantities of the present state."""
        mujoco.mj_step1(self.model, self.data)

    def control_step(self, action: Array, pushes: Sequence[Push] = ()) -> None:
        """One control period towards ``action``: position (3), rotation vector (3), gripper for each arm in turn."""
        data = self.data
        data.xfrc_applied[:] = 0.0
        for arm, part in zip(self.arms.values(), np.split(action, len(self.arms)), strict=True):
            arm.set_goal(part)
        for _ in range(self._substeps):
            for push in pushes:
                push.apply(self.model, data)
            for arm in self.arms.values():
                data.ctrl[arm.ctrl] = arm.osc.torques()
            mujoco.mj_step2(self.model, data)
            mujoco.mj_step1(self.model, data)


def _add_mjcf(arena: EmptyArena, mjcf: str) -> None:
    """Move the assets and bodies of a task's MJCF into the room; nothing else is known to it."""
    root = ET.fromstring(mjcf)
    for part in root:
        if part.tag not in ("asset", "worldbody"):
            raise ValueError(f"a task's MJCF has <{part.tag}>; only <asset> and <worldbody> are taken over")
        for element in part:
            (arena.asset if part.tag == "asset" else arena.worldbody).append(element)
