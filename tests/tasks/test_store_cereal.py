"""The simulation: determinism, exact snapshots, poses that are reached, and what counts as success."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from geo4d_bench.geometry.se3 import pose, pose_error
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.motion import hand_rotation
from geo4d_bench.tasks.store_cereal import BOX_HALF_M, HAND_PITCH_RAD, LOWER_TOP_M, SPEC, StoreCereal

ARM = "right"


def run_expert(task: StoreCereal, steps: int) -> list[bytes]:
    expert = task.expert()
    states = []
    for _ in range(steps):
        task.step(expert.command())
        states.append(task.physics_state().tobytes())
    return states


def place_box(task: StoreCereal, x: float, y: float, bottom: float) -> None:
    """Put the box somewhere by force: what no policy can do, to test what the task makes of it."""
    sim = task._sim
    joint = sim.model.body_jntadr[sim.model.body("cereal_main").id]
    at, dof = int(sim.model.jnt_qposadr[joint]), int(sim.model.jnt_dofadr[joint])
    sim.data.qpos[at : at + 7] = (x, y, bottom + BOX_HALF_M[2], 1, 0, 0, 0)
    sim.data.qvel[dof : dof + 6] = 0
    sim.refresh()


def move_hand(task: StoreCereal, target: np.ndarray, opening: float, steps: int) -> None:
    start = task.ee_poses()[ARM][:3, 3]
    for i in range(steps):
        position = start + (np.asarray(target) - start) * min(1.0, (i + 1) / (0.8 * steps))
        task.step(Command({ARM: pose(hand_rotation(HAND_PITCH_RAD, 0.0), position)}, {ARM: opening}))


def test_an_episode_is_the_same_to_the_bit_whatever_was_run_before(task: StoreCereal) -> None:
    task.reset(5, "eval")
    first = run_expert(task, 60)
    task.reset(6, "train")
    run_expert(task, 45)
    task.disturb(np.random.default_rng(0))
    task.step(task.expert().command())
    task.reset(5, "eval")
    assert run_expert(task, 60) == first


def test_seeds_and_splits_start_differently_within_the_declared_ranges(task: StoreCereal) -> None:
    starts = []
    for split in ("train", "eval"):
        for seed in range(8):
            task.reset(seed, split)
            T = task.object_poses()["cereal"]
            spawn = SPEC.spawn[0]
            assert spawn.x_m[0] <= T[0, 3] <= spawn.x_m[1]
            assert spawn.y_m[0] <= T[1, 3] <= spawn.y_m[1]
            assert spawn.yaw_rad[0] <= np.arctan2(T[1, 0], T[0, 0]) <= spawn.yaw_rad[1]
            assert not any(task.success().values())
            assert task.openings()[ARM] == pytest.approx(0.08, abs=1e-3)
            starts.append(task.physics_state())
    assert len(np.unique(np.round(starts, 6), axis=0)) == 16


@pytest.mark.parametrize("after", [12, 52, 110])
def test_a_restored_snapshot_goes_on_to_the_bit(task: StoreCereal, after: int) -> None:
    """In the approach, with the fingers half closed, and with a push under way and the box in the hand."""
    task.reset(1, "train")
    run_expert(task, after)
    if after == 110:
        assert task.disturb(np.random.default_rng(1)) is not None
    snapshot, before = task.snapshot(), task.physics_state()
    done = task.success()
    first = run_expert(task, 40)
    task.restore(snapshot)
    assert np.array_equal(task.physics_state(), before)
    assert task.success() == done
    assert run_expert(task, 40) == first


def test_commanded_poses_are_reached(task: StoreCereal) -> None:
    task.reset(0, "train")
    for position, yaw in (((-0.15, 0.08, 1.60), 0.3), ((-0.18, -0.10, 1.45), -0.3), ((-0.14, 0.0, 1.27), 0.0)):
        target = pose(hand_rotation(HAND_PITCH_RAD, yaw), position)
        for _ in range(50):
            task.step(Command({ARM: target}, {ARM: 0.08}))
        distance, angle = pose_error(task.ee_poses()[ARM], target)
        assert distance < 0.003
        assert np.degrees(angle) < 1.0


def test_fingers_close_below_the_threshold_and_open_above_it(task: StoreCereal) -> None:
    task.reset(0, "train")
    T = task.ee_poses()
    for asked, expected in ((SPEC.closed_below_m - 1e-3, 0.0), (SPEC.closed_below_m + 1e-3, 0.08)):
        for _ in range(40):
            task.step(Command(T, {ARM: asked}))
        assert task.openings()[ARM] == pytest.approx(expected, abs=2e-3)


def test_the_state_belongs_to_the_reported_poses(task: StoreCereal) -> None:
    """An independent MuJoCo model, set to the state, has its sites and bodies where the task says they are."""
    task.reset(3, "eval")
    run_expert(task, 30)
    model = mujoco.MjModel.from_xml_string(task.scene_xml())
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, task.physics_state(), mujoco.mjtState.mjSTATE_FULLPHYSICS)
    mujoco.mj_kinematics(model, data)
    site = model.site("gripper0_right_grip_site").id
    np.testing.assert_allclose(data.site_xpos[site], task.ee_poses()[ARM][:3, 3], atol=1e-9)
    np.testing.assert_allclose(data.body("cereal_main").xpos, task.object_poses()["cereal"][:3, 3], atol=1e-9)


def test_the_fingers_move_along_the_x_axis_of_the_end_effector(task: StoreCereal) -> None:
    task.reset(0, "train")
    data = task._sim.data
    tips = [data.body(f"gripper0_right_finger_joint{i}_tip").xpos for i in (1, 2)]
    between = task.ee_poses()[ARM][:3, :3].T @ (tips[0] - tips[1])
    assert abs(between[0]) == pytest.approx(np.linalg.norm(between), rel=1e-3)


def test_torques_are_those_of_robosuites_controller(task: StoreCereal) -> None:
    theirs = task._sim.env.robots[0].part_controllers["right"]
    ours = task._sim.arms[ARM].osc
    task.reset(3, "eval")
    expert = task.expert()
    theirs.update_initial_joints(np.array(ours._posture))
    for step in range(60):
        command = expert.command()
        task.step(command)
        if step % 10 == 0:
            theirs.new_update = True
            theirs.set_goal(task.action(command)[:6])
            ours.set_goal(task.action(command)[:6])
            np.testing.assert_allclose(ours.torques(), theirs.run_controller(), atol=1e-9)


def test_a_box_that_was_never_grasped_does_not_count(task: StoreCereal) -> None:
    task.reset(0, "train")
    place_box(task, 0.12, 0.0, LOWER_TOP_M)
    move_hand(task, np.array([-0.15, 0.0, 1.60]), 0.08, 20)
    assert task.failure() is None
    assert not task.success()["inserted"]
    assert not task.success()["task"]


def test_a_box_that_is_pushed_in_does_not_count(task: StoreCereal) -> None:
    task.reset(0, "train")
    place_box(task, 0.03, 0.0, LOWER_TOP_M)  # stands on the edge of the lower board, partly outside
    height = LOWER_TOP_M + 0.045
    for x, z in ((-0.16, 1.60), (-0.16, height), (0.035, height), (-0.16, height)):
        move_hand(task, np.array([x, 0.0, z]), 0.0, 60)
    T_box = task.object_poses()["cereal"]
    assert T_box[0, 3] - BOX_HALF_M[0] > 0.005, "the hand was meant to push the box in"
    assert T_box[2, 2] > 0.99, "the box was meant to stay upright"
    assert task.phase() in ("start", "reached")
    assert not task.success()["task"]


def test_failure_names_its_cause(task: StoreCereal) -> None:
    task.reset(0, "train")
    assert task.failure() is None
    place_box(task, -0.2, 0.3, 0.5)
    assert task.failure() == "the box has fallen off the shelf"
    place_box(task, 0.1, 0.5, LOWER_TOP_M)
    assert task.failure() == "the box is out of reach"
