"""RenderAssets 1: the scripted expert acts until the task is done; what happened becomes a Trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.seeding import Split, generator
from geo4d_bench.tasks.base import Task

TAIL_S = 1.0
"""Recorded after success: a policy has to learn that the hand stays where it is."""
DISTURB_S = (1.0, 10.0)
"""A disturbance comes at a random time in this range, or as soon after as the phase has one."""


@dataclass(frozen=True)
class Attempt:
    """One simulated episode: its trajectory, or why it failed (``phase: reason``)."""

    seed: int
    trajectory: Trajectory | None
    failure: str


def collect(task: Task, seed: int, split: Split, *, disturbed: bool, scene: str) -> Attempt:
    """Run the expert once.

    Args:
        task: a task of any state; it is reset.
        seed, split: of the episode.
        disturbed: whether to disturb it once, at a random time.
        scene: sha256 of the packed scene, stored with the trajectory.

    Returns:
        A successful trajectory (row s is the state before action s), or the phase reached and why it ended. An
        episode that was to be disturbed and was not, because it ended first, is a failure too.
    """
    spec = task.spec
    task.reset(seed, split)
    expert = task.expert()
    rng = generator(spec.key, split, seed, "disturbance")
    disturb_at = round(float(rng.uniform(*DISTURB_S)) * spec.control_hz) if disturbed else None
    disturbances: list[tuple[int, str]] = []
    rows = _Rows()
    tail = round(TAIL_S * spec.control_hz)
    for step in range(round(spec.max_seconds * spec.control_hz)):
        if disturb_at is not None and step >= disturb_at and not disturbances:
            name = task.disturb(rng)
            if name is not None:
                disturbances.append((step, name))
        command = expert.command()
        rows.add(task, task.action(command))
        task.step(command)
        why = task.failure()
        if why is not None:
            return Attempt(seed, None, f"{task.phase()}: {why}")
        if task.success()["task"]:
            tail -= 1
            if tail <= 0:
                break
    if not task.success()["task"]:
        return Attempt(seed, None, f"{task.phase()}: no success within {spec.max_seconds:g} s")
    if disturbed and not disturbances:
        return Attempt(seed, None, f"{task.phase()}: ended before its disturbance")
    trajectory = Trajectory(
        task=spec.id,
        version=spec.version,
        seed=seed,
        split=split,
        language=spec.language,
        success=True,
        phase=task.phase(),
        control_hz=spec.control_hz,
        states=np.stack(rows.states),
        actions=np.stack(rows.actions).astype(np.float32),
        time=np.arange(len(rows.states)) / spec.control_hz,
        T_world_ee={arm: np.stack([p[arm] for p in rows.ee]) for arm in spec.arms},
        opening_m={arm: np.array([o[arm] for o in rows.openings]) for arm in spec.arms},
        T_world_obj={name: np.stack([p[name] for p in rows.objects]) for name in spec.objects},
        scene=scene,
        disturbances=tuple(disturbances),
    )
    return Attempt(seed, trajectory, "")


class _Rows:
    """What is recorded before every action; copies, because a task may reuse its arrays."""

    def __init__(self) -> None:
        self.states: list[Array] = []
        self.actions: list[npt.NDArray[np.float32]] = []
        self.ee: list[dict[str, Array]] = []
        self.openings: list[dict[str, float]] = []
        self.objects: list[dict[str, Array]] = []

    def add(self, task: Task, action: Array) -> None:
        self.states.append(np.array(task.physics_state(), dtype=np.float64))
        self.actions.append(np.array(action, dtype=np.float32))
        self.ee.append({arm: np.array(T) for arm, T in task.ee_poses().items()})
        self.openings.append({arm: float(o) for arm, o in task.openings().items()})
        self.objects.append({name: np.array(T) for name, T in task.object_poses().items()})
