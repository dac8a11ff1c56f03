"""What both exports take from an episode: a row for every rendered frame, and the command that leads to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.reader import Dataset, EpisodeFile
from geo4d_bench.geometry.se3 import Array

PER_ARM = 7
"""Numbers of one arm in an action: position (3), rotation vector (3), gripper."""


@dataclass(frozen=True)
class Rows:
    """One episode at its rendered frames (K rows).

    Attributes:
        states: (K, nstate) float64.
        actions: (K, A) float32 as stored: absolute targets in the world. Between two frames lie several commands; the
            row has the last of them, the target for the next frame. At the control rate every command has its row.
        ee: (K, arms, 8) position in metres and quaternion (xyzw) of each arm's grip site in the world, and opening.
        objects: (K, objects, 7) position and quaternion (xyzw) of each object in the world, by name.
        relative: (K, arms, 6) what the command adds to the pose that the frame shows: metres along the world's axes,
            and the rotation vector, about the world's axes, that turns the hand to its target.
    """

    states: Array
    actions: npt.NDArray[np.float32]
    ee: Array
    objects: Array
    relative: Array

    def __len__(self) -> int:
        return len(self.states)


def dataset_rows(dataset: Dataset) -> list[Rows]:
    """The rows of every episode, without images; quaternions and rotations do not jump, nor between episodes.

    A rotation has two quaternions, and near half a turn two rotation vectors: of these the one is taken that is nearer
    to the row before, and for an episode's first row to the first episode's.
    """
    found: list[Rows] = []
    for episode in dataset.episodes:
        rows = _rows(episode, dataset.arms)
        first = found[0] if found else rows
        _make_continuous(rows.ee[..., 3:7], first.ee[0, :, 3:7])
        _make_continuous(rows.objects[..., 3:], first.objects[0, :, 3:])
        _make_turns_continuous(rows.actions, first.actions[0])
        found.append(rows)
        episode.close()
    return found


def calibration(episode: EpisodeFile, cameras: tuple[str, ...]) -> dict[str, Any]:
    """K and T_world_cam of some cameras, as JSON values."""
    return {n: {"K": episode.K(n).tolist(), "T_world_cam": episode.T_world_cam(n).tolist()} for n in cameras}


def _rows(episode: EpisodeFile, arms: tuple[str, ...]) -> Rows:
    from scipy.spatial.transform import Rotation

    t, steps = episode.trajectory, episode.steps
    actions = t.actions[np.append(steps[1:], len(t.time)) - 1]
    ee, objects = np.empty((len(steps), len(arms), 8)), np.empty((len(steps), len(t.T_world_obj), 7))
    relative = np.empty((len(steps), len(arms), 6))
    for index, arm in enumerate(arms):
        T, target = t.T_world_ee[arm][steps], actions[:, PER_ARM * index :].astype(np.float64)
        rotation = Rotation.from_matrix(T[:, :3, :3])
        ee[:, index] = np.column_stack([T[:, :3, 3], rotation.as_quat(), t.opening_m[arm][steps]])
        turn = Rotation.from_rotvec(target[:, 3:6]) * rotation.inv()
        relative[:, index] = np.column_stack([target[:, :3] - T[:, :3, 3], turn.as_rotvec()])
    for index, (_, T) in enumerate(sorted(t.T_world_obj.items())):
        quaternions = Rotation.from_matrix(T[steps, :3, :3]).as_quat()
        objects[:, index] = np.column_stack([T[steps, :3, 3], quaternions])
    return Rows(t.states[steps], actions, ee, objects, relative)


def _make_continuous(quaternions: Array, start: Array) -> None:
    """Change signs of quaternions (K, N, 4) in place so that none jumps; the first are as near to ``start`` (N, 4) as
    can be."""
    before = np.concatenate([start[None], quaternions[:-1]])
    flips = np.where(np.sum(before * quaternions, axis=-1) < 0, -1.0, 1.0)
    quaternions *= np.cumprod(flips, axis=0)[..., None]


def _make_turns_continuous(actions: npt.NDArray[np.float32], start: npt.NDArray[np.float32]) -> None:
    """Make rotation vectors of commands (K, A) a whole turn longer or shorter, in place, where that avoids a jump."""
    for at in range(3, actions.shape[1], PER_ARM):
        before = start[at : at + 3].astype(np.float64)
        for row, vector in enumerate(actions[:, at : at + 3].astype(np.float64)):
            angle = float(np.linalg.norm(vector))
            if angle > 1e-3:  # a rotation near none has no second vector nearby
                turns = [vector * (1 + 2 * np.pi * k / angle) for k in (0, -1, 1)]
                vector = min(turns, key=lambda v: float(np.linalg.norm(v - before)))
            actions[row, at : at + 3] = before = vector
