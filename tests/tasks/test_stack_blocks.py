"""Stacking by colour: what counts and what does not, what is told of a failure, and what the expert recovers from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from geo4d_bench import tasks
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.motion import hand_rotation
from geo4d_bench.tasks.reactive import ReactiveExpert
from geo4d_bench.tasks.stack_blocks import ARM, SPEC, StackBlocks
from geo4d_bench.tasks.stack_blocks_expert import BLOCKS, BLUE, GREEN, HALF_M, RED, TABLE_TOP_M, YELLOW

EDGE_M = 2 * HALF_M
PLACES = {RED: (-0.10, -0.10), BLUE: (0.05, 0.0), GREEN: (-0.10, 0.12), YELLOW: (0.10, -0.14)}


@pytest.fixture(scope="module")
def blocks() -> StackBlocks:
    made = tasks.make("stack_blocks")
    assert isinstance(made, StackBlocks)
    return made


def put(task: StackBlocks, block: str, x: float, y: float, level: int = 0) -> None:
    """A block somewhere by force: what no policy can do, to test what the task makes of it."""
    joint = task.model.body_jntadr[task.model.body(block).id]
    at, dof = int(task.model.jnt_qposadr[joint]), int(task.model.jnt_dofadr[joint])
    task.data.qpos[at : at + 7] = (x, y, TABLE_TOP_M + HALF_M + level * EDGE_M, 1, 0, 0, 0)
    task.data.qvel[dof : dof + 6] = 0
    task._sim.refresh()


def apart(task: StackBlocks) -> None:
    """An episode whose blocks stand square and far from one another."""
    task.reset(0, "train")
    for block, (x, y) in PLACES.items():
        put(task, block, x, y)


def go(task: StackBlocks, x: float, y: float, z: float, opening_m: float, steps: int = 50) -> None:
    start = task.ee_poses()[ARM][:3, 3]
    for i in range(steps):
        p = start + (np.array([x, y, z]) - start) * min(1.0, (i + 1) / (0.7 * steps))
        task.step(Command({ARM: pose(hand_rotation(np.pi / 2), p)}, {ARM: opening_m}))


def carry(task: StackBlocks, block: str, x: float, y: float, let_go_above_m: float, level: int) -> None:
    """Take a block and let go of it ``let_go_above_m`` over a place on top of ``level`` blocks."""
    px, py = task.object_poses()[block][:2, 3]
    grasp = TABLE_TOP_M + HALF_M + 0.004
    go(task, px, py, 1.06, 0.08, 35)
    go(task, px, py, grasp, 0.08, 35)
    go(task, px, py, grasp, 0.0, 20)
    go(task, px, py, 1.06, 0.0, 35)
    go(task, x, y, 1.06, 0.0)
    go(task, x, y, grasp + level * EDGE_M + let_go_above_m, 0.0, 35)
    go(task, x, y, grasp + level * EDGE_M + let_go_above_m, 0.08, 20)
    go(task, x, y, 1.12, 0.08, 35)


def expert_steps(task: StackBlocks) -> Iterator[ReactiveExpert]:
    """Let the expert act until the task is done, failed or out of time."""
    expert = task.expert()
    assert isinstance(expert, ReactiveExpert)
    for _ in range(round(SPEC.max_seconds * SPEC.control_hz)):
        task.step(expert.command())
        if task.success()["task"] or task.failure() is not None:
            return
        yield expert


def test_the_expert_passes_through_all_phases_in_10_to_20_seconds(blocks: StackBlocks) -> None:
    blocks.reset(5000, "eval")
    phases = [blocks.phase()]
    for _ in expert_steps(blocks):
        if blocks.phase() != phases[-1]:
            phases.append(blocks.phase())
    order = ("start", *SPEC.phases)
    assert blocks.success()["task"]
    assert phases == sorted(phases, key=order.index)
    assert 10.0 < blocks.data.time < 20.0
    T = blocks.object_poses()
    for top, base in ((RED, BLUE), (GREEN, RED)):
        offset = T[top][:3, 3] - T[base][:3, 3]
        assert np.linalg.norm(offset[:2]) < 0.003
        assert offset[2] == pytest.approx(EDGE_M, abs=0.001)


def test_a_start_leaves_room_for_the_hand(blocks: StackBlocks) -> None:
    for seed in range(20):
        blocks.reset(seed, "train")
        p = np.array([T[:2, 3] for T in blocks.object_poses().values()])
        distances = np.linalg.norm(p[:, None] - p, axis=2)[np.triu_indices(len(BLOCKS), 1)]
        assert distances.min() > EDGE_M


def test_a_tower_that_no_hand_built_does_not_count(blocks: StackBlocks) -> None:
    apart(blocks)
    put(blocks, RED, *PLACES[BLUE], level=1)
    put(blocks, GREEN, *PLACES[BLUE], level=2)
    go(blocks, 0.05, 0.0, 1.15, 0.08)
    assert blocks.failure() is None
    assert blocks.phase() in ("start", "reached")
    assert not blocks.success()["task"]


def test_taking_the_wrong_block_is_told_by_the_phase(blocks: StackBlocks) -> None:
    apart(blocks)
    carry(blocks, YELLOW, *PLACES[BLUE], let_go_above_m=0.002, level=1)
    offset = (blocks.object_poses()[YELLOW] - blocks.object_poses()[BLUE])[:3, 3]
    assert offset == pytest.approx([0.0, 0.0, EDGE_M], abs=0.008), "the hand was meant to stack yellow on blue"
    assert blocks.phase() == "grasped"


def test_a_block_dropped_from_above_does_not_count_and_one_set_down_does(blocks: StackBlocks) -> None:
    for height, phase in ((0.045, "red_lifted"), (0.004, "red_stacked")):
        apart(blocks)
        carry(blocks, RED, *PLACES[BLUE], let_go_above_m=height, level=1)
        assert blocks.phase() == phase


@pytest.mark.parametrize("off_m", [0.010, 0.014])
def test_a_block_set_down_a_centimetre_off_stays_and_counts(blocks: StackBlocks, off_m: float) -> None:
    apart(blocks)
    x, y = PLACES[BLUE]
    carry(blocks, RED, x + off_m, y, let_go_above_m=0.003, level=1)
    assert blocks.phase() == "red_stacked"


def test_failure_names_the_block_and_the_distractor_does_not_matter(blocks: StackBlocks) -> None:
    apart(blocks)
    put(blocks, YELLOW, 0.4, 0.0, level=-3)
    assert blocks.failure() is None
    put(blocks, GREEN, 0.4, 0.0, level=-3)
    assert blocks.failure() == "the green block has fallen off the table"
    apart(blocks)
    put(blocks, BLUE, 0.0, 0.33)
    assert blocks.failure() == "the blue block is out of reach"


def test_the_expert_clears_what_lies_on_the_wrong_place(blocks: StackBlocks) -> None:
    apart(blocks)
    put(blocks, YELLOW, *PLACES[BLUE], level=1)
    for _ in expert_steps(blocks):
        pass
    assert blocks.success()["task"]
    assert blocks.object_poses()[YELLOW][2, 3] == pytest.approx(TABLE_TOP_M + HALF_M, abs=0.002)


@pytest.mark.parametrize(
    "kind",
    [pytest.param("hand_pushed", marks=pytest.mark.exhaustive), "block_slipped", "block_nudged", "tower_knocked"],
)
def test_the_expert_recovers(blocks: StackBlocks, kind: str) -> None:
    blocks.reset(5001, "eval")
    applied = False
    for step, _ in enumerate(expert_steps(blocks)):
        if applied or step < 20 or step % 3:
            continue
        snapshot = blocks.snapshot()
        for draw in range(10):
            name = blocks.disturb(np.random.default_rng(draw))
            if name == kind:
                applied = True
                break
            blocks.restore(snapshot)
    assert applied, f"no moment of the episode allowed {kind}"
    assert blocks.success()["task"]
