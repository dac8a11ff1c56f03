"""The floor of every leaderboard: a bounded random walk of the hand."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.se3 import Array
from geo4d_bench.policies.protocol import ActionChunk, Observation, Policy, TaskInfo

WAYPOINTS, DT_S = 4, 0.4
STEP_M, STEP_RAD = 0.06, 0.15
REACH_M = 0.25
"""Waypoints stay this near the place where the episode began, so that the arm stays off its limits."""


class Random(Policy):
    """Random waypoints about the present pose, a pure function of the seed and the observed poses."""

    name = "random"
    colour, rank = "#8A8F98", 0.0

    needs_images: ClassVar[bool] = False

    def reset(self, task: TaskInfo, seed: int) -> None:
        self._task = task
        self._rng = np.random.default_rng(seed)
        self._start: dict[str, Array] = {}

    def act(self, obs: Observation) -> ActionChunk:
        poses, openings = {}, {}
        for arm in self._task.arms:
            T = np.array(obs.T_world_ee[arm], dtype=np.float64)
            start = self._start.setdefault(arm, T.copy())
            walk = np.tile(np.eye(4), (WAYPOINTS, 1, 1))
            for i in range(WAYPOINTS):
                away = T[:3, 3] + self._rng.uniform(-STEP_M, STEP_M, 3) - start[:3, 3]
                away *= min(1.0, REACH_M / max(float(np.linalg.norm(away)), 1e-9))
                T[:3, 3] = start[:3, 3] + away
                turned = Rotation.from_rotvec(self._rng.uniform(-STEP_RAD, STEP_RAD, 3)) * Rotation.from_matrix(
                    start[:3, :3]
                )
                T[:3, :3] = turned.as_matrix()
                walk[i] = T
            poses[arm] = walk
            openings[arm] = self._rng.uniform(0.0, self._task.hand.max_opening_m, WAYPOINTS)
        return ActionChunk(poses, openings, DT_S)
