"""What every registered task must keep, whoever wrote it: a task is tested by being registered."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench import tasks
from geo4d_bench.datagen.collect import collect
from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.room import KEEP_OUT_M
from geo4d_bench.geometry.se3 import Array, inverse, pose
from geo4d_bench.policies.protocol import Observation
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.rooms import corners
from geo4d_bench.rendering.scene import Scene, load_scene, pack_scene
from geo4d_bench.rollout.gym_env import TaskEnv
from geo4d_bench.tasks import Task
from geo4d_bench.tasks.assets import packed_assets
from geo4d_bench.tasks.base import Command, Spawn
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.rigs import make_rig
from geo4d_bench.tasks.robosuite_task import RobosuiteTask

CONTACT_M = 0.004
"""Soft contacts give way by less than this; deeper is passing through."""
SEEDS = [(split, seed) for split in ("train", "eval") for seed in range(5000, 5006)]


# Later versions differ from the first in where things start: test_versions.py.
@pytest.fixture(scope="module", params=[name for name in tasks.names() if name == tasks.spec(name).id])
def task(request: pytest.FixtureRequest) -> RobosuiteTask:
    made = tasks.make(request.param)
    assert isinstance(made, RobosuiteTask)
    return made


@pytest.fixture(scope="module")
def packed(task: RobosuiteTask) -> Scene:
    return load_scene(packed_assets(task, ())[0])


def hold(task: Task) -> Command:
    return Command(task.ee_poses(), dict.fromkeys(task.spec.arms, 0.08))


def wander(task: Task, steps: int, seed: int) -> None:
    """Every second another target within 15 cm and 0.5 rad of the start, fingers at random."""
    rng, start = np.random.default_rng(seed), task.ee_poses()
    command = hold(task)
    for step in range(steps):
        if step % 20 == 0:
            targets = {}
            for arm, T in start.items():
                turn = Rotation.from_rotvec(rng.uniform(-0.5, 0.5, 3)).as_matrix()
                targets[arm] = pose(turn @ T[:3, :3], T[:3, 3] + rng.uniform(-0.15, 0.15, 3))
            command = Command(targets, {arm: float(rng.uniform(0.0, 0.08)) for arm in start})
        task.step(command)


def follow_expert(task: Task, steps: int) -> list[bytes]:
    expert, states = task.expert(), []
    for _ in range(steps):
        task.step(expert.command())
        states.append(task.physics_state().tobytes())
    return states


def test_the_spec_is_complete(task: RobosuiteTask) -> None:
    spec = task.spec
    assert spec.phases[-1] == "task"
    assert len(set(spec.phases)) == len(spec.phases)
    assert set(task.success()) == set(spec.phases)
    assert spec.language.strip() == spec.language != ""
    assert 0.01 < spec.closed_below_m < 0.08
    assert {spawn.object for spawn in spec.spawn} == set(spec.objects)
    assert set(task.arms) == set(spec.arms)


def test_a_seed_is_an_episode_to_the_bit_whatever_was_run_before(task: RobosuiteTask) -> None:
    task.reset(5000, "eval")
    first = follow_expert(task, 60)
    task.reset(3, "train")
    follow_expert(task, 30)
    task.disturb(np.random.default_rng(0))
    follow_expert(task, 5)
    task.reset(5000, "eval")
    assert follow_expert(task, 60) == first


def test_a_restored_snapshot_goes_on_to_the_bit(task: RobosuiteTask) -> None:
    task.reset(5001, "eval")
    follow_expert(task, 70)
    task.disturb(np.random.default_rng(1))
    snapshot, done = task.snapshot(), task.success()
    first = follow_expert(task, 40)
    task.restore(snapshot)
    assert task.success() == done
    assert follow_expert(task, 40) == first


def test_starts_lie_in_their_ranges_differ_and_do_not_collide(task: RobosuiteTask) -> None:
    starts = []
    for split, seed in SEEDS:
        task.reset(seed, split)
        poses = task.object_poses()
        for spawn in task.spec.spawn:
            outside = how_far_outside(spawn, poses)
            assert max(outside) <= spawn.tolerance_m + 1e-9, (spawn.object, split, seed, outside)
        assert deepest(task) < CONTACT_M
        assert not any(task.success().values())
        assert task.failure() is None
        starts.append(np.concatenate([T.ravel() for T in poses.values()]))
    assert len(np.unique(np.round(starts, 6), axis=0)) == len(SEEDS)


def how_far_outside(spawn: Spawn, poses: dict[str, Array]) -> tuple[float, float]:
    p = poses[spawn.object][:3, 3] - (poses[spawn.on][:3, 3] if spawn.on else 0.0)
    x, y = (max(low - v, v - high, 0.0) for v, (low, high) in zip(p[:2], (spawn.x_m, spawn.y_m), strict=True))
    return x, y


def test_a_start_that_cannot_be_had_names_the_constraint(task: RobosuiteTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "unmet", lambda: "the moon is not full")
    with pytest.raises(SceneError, match=rf"{task.spec.key}: no start for train seed 7 in 100 tries .*the moon"):
        task.reset(7, "train")


def test_every_object_can_be_moved(task: RobosuiteTask) -> None:
    for name in task.spec.objects:
        task.reset(1, "train")
        before = task.object_poses()[name][:3, 3].copy()
        body = task._body_of[name]
        mass = float(task.model.body_mass[body])
        # Ten times its weight for each missing m/s: what is light would be shaken by a firmer hand.
        task._pushes = (Push("lifted", body, (0.0, 0.0, 0.3), 100.0 * mass, 40.0 * mass, 0.0, 10),)
        for _ in range(10):
            task.step(hold(task))
        assert task.object_poses()[name][2, 3] - before[2] > 0.01, name


def test_wandering_about_keeps_all_finite_and_achieves_nothing(task: RobosuiteTask) -> None:
    task.reset(5002, "eval")
    wander(task, 200, seed=0)
    assert np.all(np.isfinite(task.physics_state()))
    assert not task.success()["task"]


@pytest.mark.parametrize("seed", [5003, pytest.param(5004, marks=pytest.mark.exhaustive)])
def test_the_expert_succeeds_and_nothing_passes_through_anything(task: RobosuiteTask, seed: int) -> None:
    spec = task.spec
    task.reset(seed, "eval")
    expert, worst, phases, steps = task.expert(), 0.0, [task.phase()], 0
    while not task.success()["task"]:
        task.step(expert.command())
        steps += 1
        worst = max(worst, deepest(task))
        if task.phase() != phases[-1]:
            phases.append(task.phase())
        assert task.failure() is None
        assert steps < spec.max_seconds * spec.control_hz
    assert worst < CONTACT_M
    assert phases == sorted(phases, key=("start", *spec.phases).index)
    assert all(task.success().values())
    assert task.model.neq == sum(task.model.eq_type == mujoco.mjtEq.mjEQ_JOINT)  # only what couples fingers, no weld


def deepest(task: RobosuiteTask) -> float:
    """Metres that any object, or a robot, is inside something else."""
    data, worst = task.data, 0.0
    for contact in range(data.ncon):
        labels = {task._labels[int(geom)] for geom in data.contact.geom[contact]}
        if labels & set(task.spec.objects) or any(label.startswith("robot/") for label in labels):
            worst = max(worst, -float(data.contact.dist[contact]))
    return worst


def test_an_expert_that_fails_says_in_which_phase(task: RobosuiteTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "spec", dataclasses.replace(task.spec, max_seconds=1.0))
    failure = collect(task, 0, "train", disturbed=False, scene="")
    assert isinstance(failure, str)
    assert failure.split(":")[0] in ("start", *task.spec.phases)


def test_no_room_puts_a_thing_where_the_task_stands(packed: Scene) -> None:
    model, data = packed.model, packed.data
    for geom in np.flatnonzero((model.body_weldid[model.geom_bodyid] == 0) & (model.geom_bodyid > 0)):
        points = corners(model, data, int(geom))
        for axis, (low, high) in enumerate(KEEP_OUT_M):
            assert low < points[:, axis].min() < points[:, axis].max() < high, model.geom(geom).name


@pytest.mark.parametrize("seed", [300, pytest.param(301, marks=pytest.mark.exhaustive)])
def test_a_disturbed_expert_recovers(task: RobosuiteTask, seed: int) -> None:
    """How many of many are lost is measured, not tested."""
    lost = collect(task, seed, "train", disturbed=True, scene="")
    assert not isinstance(lost, str), lost


def test_stored_states_replay_to_the_same_images_and_poses(task: RobosuiteTask, packed: Scene) -> None:
    cameras = make_rig("hemisphere16", task.spec.workspace).cameras[::5]
    again = load_scene(pack_scene(task.scene_xml(), arms=task.spec.arms))
    task.reset(5005, "eval")
    expert, states, hands, objects = task.expert(), [], [], []
    for step in range(61):
        if step % 30 == 0:
            states.append(task.physics_state())
            hands.append(task.ee_poses())
            objects.append(task.object_poses())
        task.step(expert.command())
    with Renderer(packed, 48, 60) as one, Renderer(again, 48, 60) as other:
        first = [one.render(state, cameras) for state in states]
        second = [other.render(state, cameras) for state in reversed(states)][::-1]
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a.rgb, b.rgb)
            assert np.array_equal(a.depth, b.depth, equal_nan=True)
            assert np.array_equal(a.seg, b.seg)
        seen = {packed.seg_names[label] for frame in first for label in np.unique(frame.seg)}
    assert {f"hand/{arm}" for arm in task.spec.arms} <= seen
    assert set(task.spec.objects) <= seen
    # MJCF writes the scene's numbers with six digits.
    for state, T_hands, T_objects in zip(states, hands, objects, strict=True):
        packed.set_state(state)
        for number, arm in enumerate(task.spec.arms):
            np.testing.assert_allclose(packed.T_world_site(f"gripper{number}_right_grip_site"), T_hands[arm], atol=1e-6)
        for name, T in T_objects.items():
            stored = task.model.body(task._body_of[name]).name
            body = packed.data.body(stored)
            np.testing.assert_allclose(pose(body.xmat.reshape(3, 3), body.xpos), T, atol=1e-6)


def test_observations_are_on_the_allow_list(task: RobosuiteTask) -> None:
    assert {field.name for field in dataclasses.fields(Observation)} == {
        "rgb", "depth", "K", "T_world_cam_n", "T_world_ee", "opening_m", "language", "T_world_cam_m"
    }  # fmt: skip
    # The last one is None but for policies that say so: tests/harness/test_simulator.py.
    (last,) = (field for field in dataclasses.fields(Observation) if field.name == "T_world_cam_m")
    assert last.default is None
    env = TaskEnv(task.spec.id, simulation=task)
    observation, _ = env.reset(seed=1)
    parts = ("position", "rotvec", "opening")
    assert set(observation) == {f"{arm}_{part}" for arm in task.spec.arms for part in parts}
    assert env.observation_space.contains(observation)
    T = task.ee_poses()[task.spec.arms[0]]
    reached = pose(
        Rotation.from_rotvec(observation[f"{task.spec.arms[0]}_rotvec"]).as_matrix(),
        observation[f"{task.spec.arms[0]}_position"],
    )
    np.testing.assert_allclose(inverse(T) @ reached, np.eye(4), atol=1e-9)
