"""can_in_drawer: what counts, what does not, and that its expert comes back from what may go wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from geo4d_bench import tasks
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.can_in_drawer import ARM, OPENED_M, SPEC, CanInDrawer, CanView
from geo4d_bench.tasks.can_in_drawer_scene import (
    BAR_HALF_M,
    BAR_M,
    CABINET_M,
    CAN_HALF_M,
    CAN_RADIUS_M,
    INSIDE_HIGH_M,
    INSIDE_LOW_M,
    TABLE_TOP_M,
    Can,
)
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.motion import hand_rotation
from geo4d_bench.tasks.reactive import ReactiveExpert

DOWN = hand_rotation(np.pi / 2)
FLOOR = CABINET_M + np.array([0.0, 0.0, INSIDE_LOW_M[2] + CAN_HALF_M])
"""Of a can that stands in the drawer: its middle, under the cabinet's front edge."""


@pytest.fixture(scope="module")
def drawer() -> CanInDrawer:
    made = tasks.make("can_in_drawer")
    assert isinstance(made, CanInDrawer)
    return made


def view(task: CanInDrawer) -> CanView:
    return CanView(task.scene(), ARM)


def put(task: CanInDrawer, p: object, travel: float, quat: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)) -> None:
    """Set can and drawer by force: what no policy can do, to test what the task makes of it."""
    at = int(task.model.jnt_qposadr[task.model.body_jntadr[task.model.body("can").id]])
    task.data.qpos[at : at + 7] = (*np.asarray(p, dtype=float), *quat)
    task.data.qpos[task.model.joint("drawer").qposadr] = travel
    task.data.qvel[:] = 0
    task._sim.refresh()


def move(task: CanInDrawer, p: object, opening: float, steps: int) -> None:
    start, end = task.ee_poses()[ARM][:3, 3], np.asarray(p, dtype=float)
    for i in range(steps):
        position = start + (end - start) * min(1.0, (i + 1) / (0.8 * steps))
        task.step(Command({ARM: pose(DOWN, position)}, {ARM: opening}))


def run(task: CanInDrawer, until: Callable[[], bool] | None = None) -> ReactiveExpert[CanView]:
    """A fresh expert acts until a condition, or the end."""
    expert = task.expert()
    assert isinstance(expert, ReactiveExpert)
    for _ in range(round(SPEC.max_seconds * SPEC.control_hz)):
        if task.success()["task"] or task.failure() or (until is not None and until()):
            break
        task.step(expert.command())
    return expert


def test_the_drawer_starts_ajar_within_its_range_and_stays_there(drawer: CanInDrawer) -> None:
    ((_, low, high),), starts = SPEC.joints, []
    for seed in range(6):
        drawer.reset(seed, "train")
        starts.append(drawer.joints()["drawer"])
        move(drawer, (-0.1, 0.0, 1.15), 0.08, 10)
        assert drawer.joints()["drawer"] == pytest.approx(starts[-1], abs=1e-3)
    assert low <= min(starts)
    assert max(starts) <= high
    assert len(set(starts)) == len(starts)


def test_the_expert_reaches_every_phase_in_turn(drawer: CanInDrawer) -> None:
    drawer.reset(0, "train")
    order = []
    expert = drawer.expert()
    while not drawer.success()["task"] and drawer.failure() is None:
        drawer.step(expert.command())
        order += [name for name, done in drawer.success().items() if done and name not in order]
        assert drawer.data.time < SPEC.max_seconds
    assert tuple(order) == SPEC.phases
    assert drawer.joints()["drawer"] > OPENED_M
    assert drawer.object_poses()["can"][2, 3] == pytest.approx(FLOOR[2], abs=0.002)
    assert "drawer" in drawer.contacts()["can"]
    assert "table" not in drawer.contacts()["can"]


def test_a_can_that_got_into_the_drawer_by_itself_does_not_count(drawer: CanInDrawer) -> None:
    drawer.reset(0, "train")
    put(drawer, FLOOR - (0.08, 0.0, -1e-4), 0.17)
    move(drawer, (-0.1, 0.0, 1.15), 0.08, 20)
    assert view(drawer).can.inside(drawer.joints()["drawer"])
    assert drawer.phase() == "start"
    assert not drawer.success()["task"]


def test_a_drawer_that_is_hooked_open_has_not_been_opened_by_its_handle(drawer: CanInDrawer) -> None:
    drawer.reset(0, "train")
    travel = drawer.joints()["drawer"]
    behind = CABINET_M + BAR_M + np.array([BAR_HALF_M[0] + 0.014 - travel, 0.0, 0.02])
    for way, steps in (((0, 0, 0.08), 60), ((0, 0, 0), 40), ((travel - 0.17, 0, 0), 60)):
        move(drawer, behind + np.array(way), 0.0, steps)
    assert drawer.joints()["drawer"] > OPENED_M, "the closed fingers were meant to pull the bar from behind"
    assert drawer.success()["reached_handle"]
    assert not drawer.success()["opened"]


def drop_over_drawer(task: CanInDrawer, seed: int) -> None:
    task.reset(seed, "train")
    run(task, lambda: view(task).over_drawer and view(task).held)
    T = task.ee_poses()[ARM]
    for _ in range(30):
        task.step(Command({ARM: T}, {ARM: 0.08}))
    move(task, T[:3, 3] + np.array([0.0, 0.0, 0.05]), 0.08, 20)
    assert view(task).can.inside(task.joints()["drawer"]), "the can was meant to fall into the drawer"
    assert task.phase() == "lifted"


def test_a_can_dropped_into_the_drawer_has_to_be_put_in(drawer: CanInDrawer) -> None:
    drop_over_drawer(drawer, 2)
    assert not drawer.success()["task"]
    run(drawer)
    assert drawer.success()["task"], "the expert was meant to take it and put it in"


def test_the_drawers_walls_hold_the_can(drawer: CanInDrawer) -> None:
    drawer.reset(0, "train")
    put(drawer, FLOOR - (0.08, 0.0, -1e-4), 0.17)
    for way in ((0.0, 0.4), (0.0, -0.4), (-0.4, 0.0)):
        drawer._pushes = (drawer.push_object("can", "pushed", np.array(way), 4.0, -0.5 * CAN_HALF_M),)
        move(drawer, (-0.1, 0.0, 1.15), 0.08, 15)
        p = drawer.object_poses()["can"][:3, 3] + np.array([drawer.joints()["drawer"], 0.0, 0.0])
        assert np.all(p > CABINET_M + INSIDE_LOW_M)
        assert np.all(p < CABINET_M + INSIDE_HIGH_M)


def test_failure_names_its_cause(drawer: CanInDrawer) -> None:
    drawer.reset(0, "train")
    assert drawer.failure() is None
    put(drawer, (-0.1, -0.6, 0.6), 0.0)
    assert drawer.failure() == "the can has fallen off the table"
    put(drawer, (-0.1, -0.4, TABLE_TOP_M + CAN_HALF_M), 0.0)
    assert drawer.failure() == "the can is out of reach"
    lying_across = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
    put(drawer, CABINET_M + (INSIDE_LOW_M + INSIDE_HIGH_M) / 2 - np.array([0.17, 0.0, 0.01]), 0.17, lying_across)
    assert drawer.failure() == "the can fell across the drawer, where the hand cannot take it"


def test_the_hand_holds_the_bar_where_the_handle_grasp_says(drawer: CanInDrawer) -> None:
    drawer.reset(2, "train")
    run(drawer, lambda: drawer.joints()["drawer"] > 0.1)
    np.testing.assert_allclose(drawer.ee_poses()[ARM][:3, 3], view(drawer).handle.grasp[:3, 3], atol=0.01)
    assert drawer.openings()[ARM] == pytest.approx(2 * BAR_HALF_M[1], abs=0.003)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("hand_pushed", marks=pytest.mark.exhaustive),
        "handle_slipped",
        "can_slipped",
        "can_nudged",
        "can_knocked_over",
        "drawer_pushed",
    ],
)
def test_the_expert_recovers(drawer: CanInDrawer, kind: str) -> None:
    drawer.reset(3, "train")
    told: list[str | None] = []

    def disturbed() -> bool:
        for number in range(12):
            pushes = drawer.choose_pushes(np.random.default_rng(number))
            if pushes and pushes[0].name == kind and drawer.data.time > 1.0:
                told.append(drawer.disturb(np.random.default_rng(number)))
                return True
        return False

    run(drawer, disturbed)
    assert told == [kind]
    run(drawer)
    assert drawer.success()["task"], drawer.failure()


def test_fingers_that_slip_off_the_moving_handle_and_close_beside_it_open_again(drawer: CanInDrawer) -> None:
    drawer.reset(36, "train")
    start = drawer.joints()["drawer"]
    run(drawer, lambda: view(drawer).grips and drawer.joints()["drawer"] > start + 0.03)
    drawer._pushes = drawer.force_open(ARM, "handle_slipped")
    run(drawer, lambda: drawer.openings()[ARM] < 0.008)
    assert drawer.openings()[ARM] < 0.008, "the fingers were meant to close beside the bar"
    run(drawer)
    assert drawer.success()["task"]


def test_a_drawer_that_is_pushed_shut_while_the_can_is_carried_is_opened_again(drawer: CanInDrawer) -> None:
    drawer.reset(4, "train")
    run(drawer, lambda: drawer.success()["lifted"])
    drawer._pushes = (Push("shut", drawer.model.body("drawer").id, (0.34, 0.0, 0.0), 100.0, 10.0, 0.0, 10),)
    run(drawer, lambda: drawer.joints()["drawer"] < 0.05)
    assert drawer.joints()["drawer"] < 0.05, "the drawer was meant to be shut"
    run(drawer)
    assert drawer.success()["task"]


def test_the_can_is_where_its_half_extents_say() -> None:
    standing = Can(pose(np.eye(3), (0.0, 0.0, 1.0)))
    assert standing.stands
    assert standing.bottom == pytest.approx(1.0 - CAN_HALF_M)
    lying = Can(pose([[0, 0, 1], [1, 0, 0], [0, 1, 0]], (0.0, 0.0, 1.0)))
    assert not lying.stands
    np.testing.assert_allclose(lying.half, (CAN_HALF_M, CAN_RADIUS_M, CAN_RADIUS_M))
