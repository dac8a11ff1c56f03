"""HangMug: what counts as hung, what ends an episode, and that the expert recovers from each kind of disturbance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench import tasks
from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.hang_mug import ARM, SPEC, HangMug
from geo4d_bench.tasks.hang_mug_scene import (
    AXIS_RACK,
    HANDLE_HALF_M,
    HANDLE_OUT_M,
    HANDLE_Z,
    LOOP_MUG,
    PEG_M,
    PEG_RACK,
    TABLE_TOP_M,
    WALL_M,
    peg_in_loop,
)
from geo4d_bench.tasks.motion import hand_rotation, turn_z


@pytest.fixture(scope="module")
def mug_task() -> HangMug:
    made = tasks.make("hang_mug")
    assert isinstance(made, HangMug)
    return made


def put(task: HangMug, name: str, T: Array) -> None:
    """Put an object somewhere by force: what no policy can do, to test what the task makes of it."""
    model, data = task.model, task.data
    joint = model.body_jntadr[model.body(name).id]
    at, dof = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
    data.qpos[at : at + 3] = T[:3, 3]
    data.qpos[at + 3 : at + 7] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
    data.qvel[dof : dof + 6] = 0
    task._sim.refresh()


def wait(task: HangMug, steps: int, opening: float = 0.08) -> None:
    command = Command(task.ee_poses(), {ARM: opening})
    for _ in range(steps):
        task.step(command)


def run_until(task: HangMug, phase: str) -> None:
    expert = task.expert()
    for _ in range(round(SPEC.max_seconds * SPEC.control_hz)):
        if task.success()[phase]:
            return
        task.step(expert.command())
        assert task.failure() is None
    pytest.fail(f"'{phase}' was not reached, only '{task.phase()}'")


def hanging(T_rack: Array, along_m: float, yaw: float, loop_mug: Array = LOOP_MUG) -> Array:
    """The mug upright with a point of its frame, in the middle of the opening, on the peg."""
    R = T_rack[:3, :3] @ turn_z(yaw)
    on_peg = T_rack[:3, 3] + T_rack[:3, :3] @ (PEG_RACK + along_m * AXIS_RACK)
    return pose(R, on_peg - R @ loop_mug)


@pytest.mark.parametrize("yaw", [0.0, np.pi, 0.7, -2.5])
def test_the_peg_is_in_the_handle_exactly_when_it_crosses_its_opening(yaw: float) -> None:
    T_rack = pose(turn_z(0.4), (0.03, 0.2, TABLE_TOP_M))
    threaded, along, above = peg_in_loop(hanging(T_rack, 0.05, yaw), T_rack)
    assert threaded
    assert along == pytest.approx(0.05)
    assert above == pytest.approx(0.0, abs=1e-12)
    # Beyond the peg's tip, in the cup, outside the handle, above it and below it.
    assert not peg_in_loop(hanging(T_rack, PEG_M + 0.01, yaw), T_rack)[0]
    for x, z in (
        (0.0, HANDLE_Z),
        (WALL_M - 0.001, HANDLE_Z),
        (WALL_M + HANDLE_OUT_M + 0.001, HANDLE_Z),
        (LOOP_MUG[0], HANDLE_Z + HANDLE_HALF_M + 0.001),
        (LOOP_MUG[0], HANDLE_Z - HANDLE_HALF_M - 0.001),
    ):
        assert not peg_in_loop(hanging(T_rack, 0.05, yaw, np.array([x, 0.0, z])), T_rack)[0]


def test_a_handle_along_the_peg_is_not_on_it() -> None:
    T_rack = pose(turn_z(-0.3), (0.0, 0.2, TABLE_TOP_M))
    assert not peg_in_loop(hanging(T_rack, 0.05, np.pi / 2), T_rack)[0]


@pytest.mark.parametrize("yaw", [0.0, np.pi])
def test_a_mug_on_the_peg_stays_there_but_does_not_count_unless_the_hand_put_it_there(
    mug_task: HangMug, yaw: float
) -> None:
    mug_task.reset(0, "train")
    T_rack = mug_task.object_poses()["rack"]
    put(mug_task, "mug", hanging(T_rack, 0.05, yaw))
    wait(mug_task, 80)
    poses = mug_task.object_poses()
    assert peg_in_loop(poses["mug"], poses["rack"])[0]
    assert mug_task.contacts()["mug"] <= {"rack"}
    assert mug_task.at_rest("mug")
    assert not any(mug_task.success().values())


def test_a_mug_held_with_the_peg_in_its_handle_is_not_hung(mug_task: HangMug) -> None:
    mug_task.reset(1, "train")
    run_until(mug_task, "threaded")
    wait(mug_task, 40, opening=0.0)
    assert mug_task.phase() == "threaded"


def test_a_mug_stood_down_after_it_was_lifted_is_not_hung(mug_task: HangMug) -> None:
    mug_task.reset(2, "train")
    run_until(mug_task, "lifted")
    T_ee = mug_task.ee_poses()[ARM]
    for drop, opening in ((0.04, 0.0), (0.04, 0.08), (-0.15, 0.08)):
        for _ in range(40):
            target = pose(hand_rotation(np.pi / 2, float(np.arctan2(-T_ee[0, 0], T_ee[1, 0]))), T_ee[:3, 3])
            target[2, 3] -= drop
            mug_task.step(Command({ARM: target}, {ARM: opening}))
    assert mug_task.object_poses()["mug"][2, 2] > 0.99
    assert mug_task.phase() == "lifted"


def test_closed_fingers_at_the_mug_have_not_grasped_it(mug_task: HangMug) -> None:
    mug_task.reset(3, "train")
    p = mug_task.object_poses()["mug"][:3, 3]
    for x, z in ((-0.06, 0.15), (-0.06, 0.06), (0.02, 0.06)):
        for _ in range(40):
            T = pose(hand_rotation(np.pi / 2), p + np.array([x, 0.0, z]))
            mug_task.step(Command({ARM: T}, {ARM: 0.0}))
    assert np.linalg.norm(mug_task.object_poses()["mug"][:3, 3] - p) > 0.005, "the hand was meant to push the mug"
    assert not mug_task.success()["grasped"]


def test_failure_names_its_cause(mug_task: HangMug) -> None:
    mug_task.reset(0, "train")
    rack = mug_task.object_poses()["rack"]
    assert mug_task.failure() is None
    put(mug_task, "mug", pose(None, (-0.4, 0.0, 0.4)))
    assert mug_task.failure() == "the mug has fallen off the table"
    put(mug_task, "mug", pose(None, (0.0, -0.38, TABLE_TOP_M)))
    assert mug_task.failure() == "the mug is out of reach"
    put(mug_task, "mug", pose(Rotation.from_euler("x", -90, degrees=True).as_matrix(), (0.0, -0.1, TABLE_TOP_M + 0.03)))
    wait(mug_task, 20)
    assert mug_task.failure() == "the mug lies on its side"
    put(mug_task, "rack", pose(Rotation.from_euler("x", 80, degrees=True).as_matrix(), rack[:3, 3] + (0, 0, 0.1)))
    assert mug_task.failure() == "the rack has fallen over"


def test_the_expert_turns_the_hand_with_the_mug(mug_task: HangMug) -> None:
    """Whatever way the handle points, the fingers end up on either side of its plane."""
    for seed in (1, 2):
        mug_task.reset(seed, "train")
        run_until(mug_task, "grasped")
        across = mug_task.ee_poses()[ARM][:3, 0] @ mug_task.object_poses()["mug"][:3, 1]
        assert abs(across) > np.cos(0.1)


@pytest.mark.parametrize(
    "name", [pytest.param("hand_pushed", marks=pytest.mark.exhaustive), "mug_slipped", "mug_nudged", "rack_nudged"]
)
def test_the_expert_recovers(mug_task: HangMug, name: str) -> None:
    """The disturbance is drawn again, as soon as it may happen, until it is of the wanted kind."""
    mug_task.reset(11, "train")
    rng, expert, happened = np.random.default_rng(0), mug_task.expert(), False
    for _ in range(round(SPEC.max_seconds * SPEC.control_hz)):
        if not happened:
            for _ in range(20):
                pushes = mug_task.choose_pushes(rng)
                if pushes and pushes[0].name == name:
                    mug_task._pushes, happened = pushes, True
                    break
        mug_task.step(expert.command())
        assert mug_task.failure() is None
        if mug_task.success()["task"]:
            break
    assert happened
    assert mug_task.success()["task"]
