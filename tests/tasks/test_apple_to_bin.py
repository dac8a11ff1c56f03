"""AppleToBin: only an apple that both arms handled as told counts, and the expert recovers with either arm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from geo4d_bench import tasks
from geo4d_bench.tasks.apple_to_bin import LEFT, RIGHT, SPEC, AppleToBin, AppleView
from geo4d_bench.tasks.apple_to_bin_scene import BIN_WALL_M, DISH_FLOOR_M, RADIUS_M, TABLE_TOP_M, in_dish
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.reactive import ReactiveExpert

IN_BIN_Z = TABLE_TOP_M + BIN_WALL_M + RADIUS_M + 1e-3
STEPS = round(SPEC.max_seconds * SPEC.control_hz)


@pytest.fixture(scope="module")
def task() -> AppleToBin:
    made = tasks.make("apple_to_bin")
    assert isinstance(made, AppleToBin)
    return made


def put(task: AppleToBin, name: str, position: tuple[float, float, float]) -> None:
    """Put an object somewhere by force: what no policy can do, to test what the task makes of it."""
    model, data = task.model, task.data
    joint = model.body_jntadr[model.body(name).id]
    at, dof = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
    data.qpos[at : at + 7] = (*position, 1, 0, 0, 0)
    data.qvel[dof : dof + 6] = 0
    task._sim.refresh()


def wait(task: AppleToBin, steps: int) -> None:
    command = Command(task.ee_poses(), dict.fromkeys(SPEC.arms, 0.08))
    for _ in range(steps):
        task.step(command)


def run_until(task: AppleToBin, phase: str, each: Callable[[], None] = lambda: None) -> ReactiveExpert[AppleView]:
    expert = task.expert()
    assert isinstance(expert, ReactiveExpert)
    for _ in range(STEPS):
        if task.success()[phase]:
            return expert
        task.step(expert.command())
        each()
        assert task.failure() is None
    pytest.fail(f"'{phase}' was not reached, only '{task.phase()}'")


def arms_touch(task: AppleToBin) -> bool:
    def belongs(geom: int, arm: str) -> bool:
        return task._labels[geom].endswith(f"/{arm}")

    pairs = task.data.contact.geom[: task.data.ncon].tolist()
    return any(
        {belongs(a, LEFT), belongs(b, LEFT)} == {belongs(a, RIGHT), belongs(b, RIGHT)} == {True, False}
        for a, b in pairs
    )


def test_each_hand_does_its_part_and_the_arms_never_touch(task: AppleToBin) -> None:
    task.reset(5000, "eval")
    home = task.ee_poses()[RIGHT][:3, 3]
    met, strayed = [], [0.0]

    def watch() -> None:
        met.append(arms_touch(task))
        if not task.success()["over_shelf"]:
            strayed.append(float(np.linalg.norm(task.ee_poses()[RIGHT][:3, 3] - home)))

    run_until(task, "task", watch)
    assert not any(met)
    assert max(strayed) < 0.06  # only from its noisy start to where it waits
    apple, T_bin = task.object_poses()["apple"][:3, 3], task.object_poses()["bin"]
    assert np.all(np.abs(apple[:2] - T_bin[:2, 3]) < 0.09)
    wait(task, 20)
    assert all(task.success().values())


def test_an_apple_that_no_hand_brought_does_not_count(task: AppleToBin) -> None:
    task.reset(1, "train")
    put(task, "apple", (0.0, 0.0, DISH_FLOOR_M + RADIUS_M + 1e-3))
    wait(task, 20)
    assert in_dish(task.object_poses()["apple"][:3, 3])
    assert task.phase() == "start"
    put(task, "apple", (*task.object_poses()["bin"][:2, 3], IN_BIN_Z))
    wait(task, 20)
    assert task.phase() == "start"
    assert not task.success()["in_bin"]
    assert task.failure() == "the apple got to the right side without having been put on the stand"


def test_an_apple_that_drops_onto_the_stand_has_not_been_put_there(task: AppleToBin) -> None:
    """The left hand takes it up again there and puts it down; nothing is wrong with that."""
    task.reset(2, "train")
    run_until(task, "lifted")
    put(task, "apple", (0.0, 0.0, DISH_FLOOR_M + RADIUS_M + 0.05))
    wait(task, 20)
    assert in_dish(task.object_poses()["apple"][:3, 3])
    assert task.phase() == "lifted"
    run_until(task, "on_shelf")


def test_an_apple_that_falls_into_the_bin_from_the_stand_does_not_count(task: AppleToBin) -> None:
    task.reset(3, "train")
    run_until(task, "on_shelf")
    put(task, "apple", (*task.object_poses()["bin"][:2, 3], IN_BIN_Z))
    wait(task, 20)
    assert task.phase() == "on_shelf"
    assert not task.success()["task"]
    assert task.failure() == "the apple is in the bin without having been held above it"


def test_failure_names_its_cause(task: AppleToBin) -> None:
    task.reset(0, "train")
    assert task.failure() is None
    put(task, "apple", (0.0, 0.5, 0.5))
    assert task.failure() == "the apple has fallen off the table"
    put(task, "apple", (0.25, 0.2, TABLE_TOP_M + RADIUS_M))
    assert task.failure() == "the apple is out of reach"
    task.reset(0, "train")
    put(task, "bin", (0.0, -0.6, 0.3))
    assert task.failure() == "the bin has been knocked over"


def test_a_rolling_apple_comes_to_rest(task: AppleToBin) -> None:
    task.reset(0, "train")
    put(task, "apple", (0.14, 0.0, TABLE_TOP_M + RADIUS_M))
    joint = task.model.body_jntadr[task.model.body("apple").id]
    task.data.qvel[int(task.model.jnt_dofadr[joint]) + 1] = 0.1
    wait(task, 40)
    assert task.at_rest("apple")
    assert 0.005 < task.object_poses()["apple"][1, 3] < 0.10


@pytest.mark.parametrize("arm", [LEFT, RIGHT])
def test_an_apple_that_slipped_from_either_hand_is_taken_up_again(task: AppleToBin, arm: str) -> None:
    task.reset(4, "train")
    expert = run_until(task, "handed_over" if arm == RIGHT else "reached")
    held_at = task.object_poses()["apple"][2, 3]
    while task.object_poses()["apple"][2, 3] < held_at + 0.03:
        task.step(expert.command())
    disturb(task, task.force_open(arm, "apple_slipped"))
    seen = set()
    for _ in range(40):
        task.step(expert.command())
        seen.add(expert.phases[arm])
    assert seen & {"approach", "rise", "reach"}, "the apple was meant to slip"
    run_until(task, "on_shelf" if arm == LEFT else "in_bin")


@pytest.mark.parametrize("after", ["lifted", "handed_over"])
def test_a_hand_that_was_pushed_goes_on(task: AppleToBin, after: str) -> None:
    task.reset(6, "train")
    run_until(task, after)
    arm, way = (LEFT, (0.5, 1.0, 0.5)) if after == "lifted" else (RIGHT, (0.5, -1.0, 0.5))
    disturb(task, (task.push_hand(arm, np.array(way), 0.08),))
    run_until(task, "on_shelf" if arm == LEFT else "in_bin")


def test_a_bowl_that_was_nudged_is_followed(task: AppleToBin) -> None:
    task.reset(7, "train")
    before = task.object_poses()["bowl"][:3, 3]
    disturb(task, (task.push_object("bowl", "bowl_nudged", np.array([0.04, 0.02]), 12.0, 0.0, gain_n_s_m=200.0),))
    run_until(task, "reached")
    assert np.linalg.norm(task.object_poses()["bowl"][:3, 3] - before) > 0.02
    run_until(task, "lifted")


def test_the_disturbances_that_moments_allow(task: AppleToBin) -> None:
    """Every kind comes up in the course of an episode, and none that could not be recovered from."""
    task.reset(8, "train")
    rng, found = np.random.default_rng(0), set()

    def look() -> None:
        found.update(push.name for push in task.choose_pushes(rng))

    run_until(task, "task", look)
    assert found == {"hand_pushed", "apple_slipped", "bowl_nudged"}


def disturb(task: AppleToBin, pushes: tuple[Push, ...]) -> None:
    task._pushes = pushes
