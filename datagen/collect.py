"""The first stage: the scripted expert acts until the task is done; what happened becomes a Trajectory."""

from __future__ import annotations

import copy

import numpy as np

from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.seeding import Split, generator
from geo4d_bench.tasks import Task

TAIL_S = 1.0
"""Recorded after success: a policy has to learn that the hand stays where it is."""
DISTURB_S = (1.0, 10.0)
"""A disturbance comes at a random time in this range, or as soon after as the phase has one."""


def collect(task: Task, seed: int, split: Split, *, disturbed: bool, scene: str) -> Trajectory | str:
    """Run the expert once, from a reset of the task: the trajectory, or why it failed (``phase: reason``).

    Args:
        disturbed: whether to disturb it once, at a random time; an episode that ends before that is a failure.
        scene: sha256 of the packed scene, stored with the trajectory.
    """
    spec = task.spec
    task.reset(seed, split)
    expert = task.expert()
    rng = generator(spec.key, split, seed, "disturbance")
    disturb_at = round(float(rng.uniform(*DISTURB_S)) * spec.control_hz) if disturbed else None
    disturbances: list[tuple[int, str]] = []
    rows = []
    tail = round(TAIL_S * spec.control_hz)
    for step in range(round(spec.max_seconds * spec.control_hz)):
        if disturb_at is not None and step >= disturb_at and not disturbances:
            name = task.disturb(rng)
            if name is not None:
                disturbances.append((step, name))
        command = expert.command()
        # Copies, because a task may reuse its arrays.
        poses = task.ee_poses(), task.openings(), task.object_poses()
        rows.append(copy.deepcopy((task.physics_state(), task.action(command), *poses)))
        task.step(command)
        why = task.failure()
        if why is not None:
            return f"{task.phase()}: {why}"
        if task.success()["task"]:
            tail -= 1
            if tail <= 0:
                break
    if not task.success()["task"]:
        return f"{task.phase()}: no success within {spec.max_seconds:g} s"
    if disturbed and not disturbances:
        return f"{task.phase()}: ended before its disturbance"
    states, actions, ee, openings, objects = zip(*rows, strict=True)
    return Trajectory(
        task=spec.id,
        version=spec.version,
        seed=seed,
        split=split,
        language=spec.language,
        success=True,
        phase=task.phase(),
        control_hz=spec.control_hz,
        states=np.stack(states).astype(np.float64),
        actions=np.stack(actions).astype(np.float32),
        time=np.arange(len(rows)) / spec.control_hz,
        T_world_ee={arm: np.stack([p[arm] for p in ee]) for arm in spec.arms},
        opening_m={arm: np.array([o[arm] for o in openings], dtype=np.float64) for arm in spec.arms},
        T_world_obj={name: np.stack([p[name] for p in objects]) for name in spec.objects},
        scene=scene,
        disturbances=tuple(disturbances),
    )
