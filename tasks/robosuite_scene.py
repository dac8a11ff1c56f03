"""The robosuite side of ``store_cereal``: model, controller and a control step without observables or rewards.

This module imports robosuite and is itself imported only when a task is made.
"""

from __future__ import annotations

import logging
import os
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.store_cereal_layout import BASE_XPOS, BOX, HOME_QPOS, SHELF, SPEC

os.environ.setdefault("MUJOCO_GL", "egl")
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
    from robosuite.models.objects import CerealObject
    from robosuite.models.tasks import ManipulationTask
    from robosuite.utils.mjcf_utils import xml_path_completion

    from geo4d_bench.tasks.osc import WorldFrameOSC

ARM = SPEC.arms[0]
KP = 300.0
SUBSTEPS = round(1.0 / SPEC.control_hz / macros.SIMULATION_TIMESTEP)


@register_gripper
class SteadyPandaGripper(PandaGripper):  # type: ignore[misc]
    """The Panda's hand with the real one's finger speed: 0.8 s for the whole stroke (robosuite: 0.5 s)."""

    @property
    def speed(self) -> float:
        return 0.125


class UprightCerealObject(CerealObject):  # type: ignore[misc]
    """robosuite's cereal box with a box for its collision geometry.

    The mesh is a box with rounded edges; against boards and finger pads a mesh gives few and jumping contact points,
    a primitive gives a stable patch. Its solref of 1 ms is below twice the time step, which MuJoCo would clip.
    """

    def _get_object_properties(self) -> None:
        for geom in self.worldbody.iter("geom"):
            if geom.get("group") == "0":
                for key in ("mesh", "material"):
                    geom.attrib.pop(key, None)
                geom.set("type", "box")
                geom.set("size", " ".join(map(str, BOX.half_m)))
                geom.set("solref", "0.005 1")
                geom.set("solimp", "0.95 0.99 0.001")
        super()._get_object_properties()


class ShelfEnv(ManipulationEnv):  # type: ignore[misc]
    """A Panda in front of a two-level shelf with a cereal box. Only the model and the controller are used."""

    def __init__(self) -> None:
        config = load_composite_controller_config(controller="BASIC", robot="Panda")
        config["body_parts"][ARM] |= {
            "input_type": "absolute",
            "input_ref_frame": "world",
            "kp": KP,
            "damping_ratio": 1,
        }
        super().__init__(
            robots="Panda",
            controller_configs=config,
            gripper_types=SteadyPandaGripper.__name__,
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=SPEC.control_hz,
            hard_reset=False,
            ignore_done=True,
            renderer="mujoco",
        )

    def _load_model(self) -> None:
        super()._load_model()
        robot = self.robots[0]
        robot.robot_model.set_base_xpos(BASE_XPOS)
        robot.init_qpos = np.array(HOME_QPOS)
        arena = EmptyArena()
        arena.set_origin([0, 0, 0])
        for camera in arena.worldbody.findall("camera"):
            arena.worldbody.remove(camera)
        _add_shelf(arena)
        for side in (-1, 1):  # the arena's one light leaves whatever faces the cameras in the dark
            ET.SubElement(
                arena.worldbody, "light", pos=f"0.5 {2 * side} 2.5", dir=f"-0.4 {-side} -0.7", directional="true",
                castshadow="false", diffuse="0.35 0.35 0.35", specular="0.05 0.05 0.05",
            )  # fmt: skip
        self.cereal = UprightCerealObject(name="cereal")
        self.model = ManipulationTask(
            mujoco_arena=arena, mujoco_robots=[robot.robot_model], mujoco_objects=[self.cereal]
        )

    def _setup_observables(self) -> dict[str, Any]:
        return {}

    def reward(self, action: Any = None) -> float:
        return 0.0


@dataclass(frozen=True)
class ControllerState:
    """What the controllers keep between two control steps."""

    goal_pos: Array
    goal_ori: Array
    gripper_action: Array


class ShelfSimulation:
    """robosuite's model, its control law and its gripper behind a few exact calls.

    The physics is always left after ``mj_step1``: positions, contacts and velocities belong to the present state
    (robosuite leaves them one substep behind), and going on costs nothing extra.
    """

    def __init__(self) -> None:
        self.env = ShelfEnv()
        robot = self.env.robots[0]
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        self._gripper = robot.gripper[ARM]
        self.site = self.model.site(self._gripper.important_sites["grip_site"]).id
        self.arm_qpos = np.array(robot._ref_joint_pos_indexes)
        self.finger_qpos = np.array(robot._ref_gripper_joint_pos_indexes[ARM])
        self._arm_ctrl = np.array(robot._ref_actuators_indexes_dict[ARM])
        self._finger_ctrl = np.array(robot._ref_joint_gripper_actuator_indexes[ARM])
        self._finger_range = self.model.actuator_ctrlrange[self._finger_ctrl].T.copy()
        dofs = np.array(robot._ref_joint_vel_indexes)
        limit = self.model.actuator_ctrlrange[self._arm_ctrl, 1].copy()
        self.osc = WorldFrameOSC(self.model, self.data, self.site, dofs, self.arm_qpos, np.array(HOME_QPOS), limit, KP)

    def xml(self) -> str:
        """The MJCF; mesh and texture files are absolute paths."""
        return str(self.env.edit_model_xml(self.env.model.get_xml()))

    def reset(self, qpos: Array) -> None:
        """All physics and controller state as in a fresh process, at these joint positions, at rest."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self.refresh()
        self.osc.hold()
        self._gripper.current_action = np.array([1.0, -1.0])  # fully open

    def refresh(self) -> None:
        """Derived quantities of the present state."""
        mujoco.mj_step1(self.model, self.data)

    def control_step(self, action: Array, pushes: Sequence[Callable[[Any, Any], None]] = ()) -> None:
        """One control period towards ``action`` = position (3), rotation vector (3), gripper (+1 close, -1 open).

        Each of ``pushes`` sets outside forces ``(model, data)`` before every physics step.
        """
        data = self.data
        data.xfrc_applied[:] = 0.0
        self.osc.set_goal(action)
        low, high = self._finger_range
        ramp = self._gripper.format_action(action[6:])
        data.ctrl[self._finger_ctrl] = 0.5 * (low + high) + 0.5 * (high - low) * ramp
        for _ in range(SUBSTEPS):
            for push in pushes:
                push(self.model, data)
            data.ctrl[self._arm_ctrl] = self.osc.torques()
            mujoco.mj_step2(self.model, data)
            mujoco.mj_step1(self.model, data)

    @property
    def gripper_ramp(self) -> float:
        """The fingers' commanded position: -1 fully open, 1 fully closed."""
        return float(self._gripper.current_action[1])

    def controller_state(self) -> ControllerState:
        return ControllerState(
            self.osc.goal_pos.copy(), self.osc.goal_ori.copy(), np.array(self._gripper.current_action)
        )

    def set_controller_state(self, state: ControllerState) -> None:
        self.osc.goal_pos, self.osc.goal_ori = state.goal_pos.copy(), state.goal_ori.copy()
        self._gripper.current_action = state.gripper_action.copy()


def _add_shelf(arena: EmptyArena) -> None:
    """Boards and posts as one static body ``shelf``; geoms in the visual group, they also collide."""
    wood = xml_path_completion("textures/light-wood.png")
    ET.SubElement(arena.asset, "texture", type="2d", name="tex-shelf", file=wood)
    ET.SubElement(
        arena.asset, "material", name="shelf", texture="tex-shelf", texrepeat="3 3", texuniform="true",
        specular="0.1", shininess="0.1", reflectance="0",
    )  # fmt: skip
    body = ET.SubElement(arena.worldbody, "body", name="shelf", pos=f"{SHELF.depth_m / 2} 0 0")
    common = {"group": "1", "friction": "1 0.005 0.0001"}
    half = (SHELF.depth_m / 2, SHELF.width_m / 2, SHELF.thickness_m / 2)
    for name, top in (("shelf_lower", SHELF.lower_top_m), ("shelf_upper", SHELF.upper_top_m)):
        ET.SubElement(
            body, "geom", common, name=name, type="box", size=" ".join(map(str, half)),
            pos=f"0 0 {top - half[2]}", material="shelf",
        )  # fmt: skip
    radius, height = SHELF.post_radius_m, SHELF.upper_top_m - SHELF.thickness_m
    for number, (sx, sy) in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
        x, y = sx * (half[0] - radius), sy * (half[1] - radius)
        ET.SubElement(
            body, "geom", common, name=f"shelf_post{number}", type="cylinder", size=f"{radius} {height / 2}",
            pos=f"{x} {y} {height / 2}", rgba="0.35 0.36 0.38 1",
        )  # fmt: skip
