"""spatula_on_table: what counts as success and what does not, and recovery from each kind of disturbance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from geo4d_bench import tasks
from geo4d_bench.geometry.se3 import inverse
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.spatula_on_table import ARM, SPEC, SpatulaOnTable, SpatulaView
from geo4d_bench.tasks.spatula_on_table_scene import (
    LENGTH_M,
    MAT_CENTRE,
    MAT_TOP_M,
    ORIGIN_M,
    TABLE_TOP_M,
)

MAX_STEPS = round(SPEC.max_seconds * SPEC.control_hz)
LYING = (np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0)
"""Blade away from the robot, its broad side down."""


@pytest.fixture(scope="session")
def spatula() -> SpatulaOnTable:
    made = tasks.make("spatula_on_table")
    assert isinstance(made, SpatulaOnTable)
    return made


def run(task: SpatulaOnTable, until: Callable[[], bool], steps: int = MAX_STEPS) -> bool:
    """The expert acts until something is so; whether it came to be."""
    expert = task.expert()
    for _ in range(steps):
        if until():
            return True
        task.step(expert.command())
    return until()


def finished(task: SpatulaOnTable) -> bool:
    return task.success()["task"] or task.failure() is not None


def place(task: SpatulaOnTable, name: str, position: tuple[float, float, float], turn: tuple[float, ...]) -> None:
    """Put an object somewhere by force: what no policy can do, to test what the task makes of it."""
    joint = task.model.body_jntadr[task.model.body(name).id]
    at, dof = int(task.model.jnt_qposadr[joint]), int(task.model.jnt_dofadr[joint])
    task.data.qpos[at : at + 7] = (*position, *turn)
    task.data.qvel[dof : dof + 6] = 0.0
    task._sim.refresh()


def hold(task: SpatulaOnTable, opening_m: float, steps: int) -> None:
    command = Command(task.ee_poses(), {ARM: opening_m})
    for _ in range(steps):
        task.step(command)


def test_every_start_has_the_spatula_at_rest_leaning_in_the_crock(spatula: SpatulaOnTable) -> None:
    ways = []
    for seed in range(12):
        spatula.reset(seed, "train")
        view = SpatulaView(spatula.scene(), ARM)
        assert view.in_crock
        assert 0.3 < np.arccos(view.axis[2]) < 0.65
        assert view.touching == {"crock"}
        assert view.outline[1:, 2].min() > view.rim, "the blade is above the rim"
        ways.append(np.arctan2(view.axis[1], view.axis[0]))
    assert np.ptp(ways) > np.pi / 2


def test_the_expert_passes_all_phases_in_order(spatula: SpatulaOnTable) -> None:
    spatula.reset(5000, "eval")
    expert, seen, speeds = spatula.expert(), [spatula.phase()], []
    while not finished(spatula) and len(speeds) < MAX_STEPS:
        spatula.step(expert.command())
        speeds.append(np.linalg.norm(spatula.scene().arms[ARM].velocity_m_s))
        if spatula.phase() != seen[-1]:
            seen.append(spatula.phase())
    assert seen == ["start", *SPEC.phases]
    assert 8.0 < len(speeds) / SPEC.control_hz < 20.0
    assert max(speeds) < 0.3
    view = SpatulaView(spatula.scene(), ARM)
    assert view.on_mat
    assert view.lies
    assert view.T_crock[2, 2] > 0.99, "the crock still stands"


@pytest.mark.parametrize(
    "name", [pytest.param("hand_pushed", marks=pytest.mark.exhaustive), "spatula_slipped", "crock_nudged"]
)
def test_it_recovers_from_each_disturbance(spatula: SpatulaOnTable, name: str) -> None:
    spatula.reset(3, "train")
    moment: dict[str, Callable[[], bool]] = {
        "hand_pushed": lambda: spatula.success()["pulled"],
        "spatula_slipped": lambda: spatula.success()["grasped"] and SpatulaView(spatula.scene(), ARM).ends[0, 2] > 1.0,
        "crock_nudged": lambda: spatula.data.time > 0.8,
    }
    assert run(spatula, moment[name])
    before = spatula.object_poses()
    snapshot, rng = spatula.snapshot(), np.random.default_rng(0)
    for _ in range(50):
        if spatula.disturb(rng) == name:
            break
        spatula.restore(snapshot)
    else:
        pytest.fail(f"the moment has no {name}")
    lost = False
    for _ in range(12):
        hold(spatula, 0.08 if name == "crock_nudged" else 0.0, 1)
        lost |= spatula.scene().fingers_on("spatula", ARM) == 0
    if name == "crock_nudged":
        moved = np.linalg.norm(spatula.object_poses()["crock"][:2, 3] - before["crock"][:2, 3])
        assert 0.01 < moved < 0.07
    if name == "spatula_slipped":
        assert lost, "the fingers were meant to let go"
    assert run(spatula, lambda: finished(spatula))
    assert spatula.success()["task"]


def test_a_spatula_dropped_onto_the_mat_has_not_been_laid_there(spatula: SpatulaOnTable) -> None:
    spatula.reset(0, "train")
    assert run(spatula, lambda: SpatulaView(spatula.scene(), ARM).held and SpatulaView(spatula.scene(), ARM).ready)
    hold(spatula, 0.08, 50)
    view = SpatulaView(spatula.scene(), ARM)
    assert view.lies
    assert view.ends[:, 2].max() < MAT_TOP_M + 0.03
    assert view.gap > 0.06
    assert spatula.phase() == "over_mat"
    assert run(spatula, lambda: finished(spatula)), "it can be taken up from there"
    assert spatula.success()["task"]


def test_a_spatula_that_lies_on_the_mat_unpulled_does_not_count(spatula: SpatulaOnTable) -> None:
    spatula.reset(0, "train")
    x = MAT_CENTRE[0] - LENGTH_M / 2 + ORIGIN_M
    place(spatula, "spatula", (x, MAT_CENTRE[1], MAT_TOP_M + 0.009), LYING)
    hold(spatula, 0.08, 20)
    view = SpatulaView(spatula.scene(), ARM)
    assert view.on_mat
    assert view.lies
    expert = spatula.expert()
    for _ in range(240):  # time enough to take it up and to lay it down again
        spatula.step(expert.command())
    assert spatula.phase() == "reached"


def test_a_crock_that_is_pushed_over_ends_the_episode(spatula: SpatulaOnTable) -> None:
    """The cheat: with the crock on its side the spatula could be taken from the table."""
    spatula.reset(2, "train")
    body = spatula.model.body("crock").id
    spatula._pushes = (Push("pushed_over", body, (0.8, 0.0, 0.0), 300.0, 20.0, 0.08, 12),)
    assert run(spatula, lambda: spatula.failure() is not None, 60)
    assert spatula.failure() == "the crock has fallen over"
    assert spatula.phase() == "start"


def test_failure_names_its_cause(spatula: SpatulaOnTable) -> None:
    spatula.reset(0, "train")
    assert spatula.failure() is None
    place(spatula, "spatula", (0.5, 0.0, 0.5), LYING)
    assert spatula.failure() == "the spatula has fallen off the table"
    place(spatula, "spatula", (0.1, -0.44, TABLE_TOP_M + 0.01), LYING)
    assert spatula.failure() == "the spatula is out of reach"


def test_the_grasp_crosses_the_handle_wherever_the_spatula_leans(spatula: SpatulaOnTable) -> None:
    """Fingers' axis square to the handle; approach never flatter than a start may need."""
    for seed in range(12):
        spatula.reset(seed, "train")
        view = SpatulaView(spatula.scene(), ARM)
        in_spatula = inverse(view.T) @ view.reach.grasp
        assert abs(in_spatula[2, 0]) < 1e-9
        assert np.linalg.det(view.reach.grasp[:3, :3]) == pytest.approx(1.0)
        assert view.reach.grasp[2, 2] < -np.sin(np.radians(44.0))
