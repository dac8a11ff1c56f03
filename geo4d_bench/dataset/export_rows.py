"""What both exports take from an episode: a row for every rendered frame, and the command that leads to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
        steps: (K,) control step of every frame.  states: (K, nstate) float64.
        actions: (K, A) float32 as stored: absolute targets in the world. Between two frames lie several commands; the
            row has the last of them, which says where the hands shall be at the next frame. With a dataset rendered
            at the control rate every command has its row.
        ee_position: (K, 3) metres and ee_quaternion: (K, 4) xyzw of each arm's grip site in the world.
        opening_m: (K,) of each arm.
        objects: (K, 7 x objects) position and quaternion (xyzw) of each object in the world, by name.
        relative: (K, arms, 6) what the command adds to the pose that the frame shows: metres along the world's axes,
            and the rotation vector, about the world's axes, that turns the hand to its target.
    """

    steps: npt.NDArray[np.int32]
    states: Array
    actions: npt.NDArray[np.float32]
    ee_position: dict[str, Array]
    ee_quaternion: dict[str, Array]
    opening_m: dict[str, Array]
    objects: Array
    relative: Array

    def __len__(self) -> int:
        return len(self.steps)


def dataset_rows(dataset: Dataset) -> list[Rows]:
    """The rows of every episode, without images; quaternions and rotations do not jump, nor between episodes.

    A rotation has two quaternions, and near half a turn two rotation vectors: of these the one is taken that is nearer
    to the row before, and for an episode's first row to the first episode's.
    """
    found = list(_all(dataset))
    first = found[0]
    return [
        Rows(
            steps=rows.steps,
            states=rows.states,
            actions=_continued_actions(rows.actions, first.actions[0]),
            ee_position=rows.ee_position,
            ee_quaternion={a: _continued(q, first.ee_quaternion[a][0]) for a, q in rows.ee_quaternion.items()},
            opening_m=rows.opening_m,
            objects=_continued_objects(rows.objects, first.objects[0]),
            relative=rows.relative,
        )
        for rows in found
    ]


def _all(dataset: Dataset) -> Iterator[Rows]:
    for episode in dataset.episodes:
        yield _rows(episode, dataset.arms)
        episode.close()


def _rows(episode: EpisodeFile, arms: tuple[str, ...]) -> Rows:
    from scipy.spatial.transform import Rotation

    t, steps = episode.trajectory, episode.steps
    actions = t.actions[np.append(steps[1:], len(t.time)) - 1]
    poses = {arm: t.T_world_ee[arm][steps] for arm in arms}
    quaternions = {arm: Rotation.from_matrix(T[:, :3, :3]).as_quat() for arm, T in poses.items()}
    relative = np.empty((len(steps), len(arms), 6))
    for index, arm in enumerate(arms):
        target = actions[:, PER_ARM * index :].astype(np.float64)
        turn = Rotation.from_rotvec(target[:, 3:6]) * Rotation.from_quat(quaternions[arm]).inv()
        relative[:, index, :3], relative[:, index, 3:] = target[:, :3] - poses[arm][:, :3, 3], turn.as_rotvec()
    objects = [
        np.concatenate([T[steps, :3, 3], Rotation.from_matrix(T[steps, :3, :3]).as_quat()], axis=1)
        for _, T in sorted(t.T_world_obj.items())
    ]
    return Rows(
        steps=steps,
        states=t.states[steps],
        actions=actions,
        ee_position={arm: T[:, :3, 3] for arm, T in poses.items()},
        ee_quaternion=quaternions,
        opening_m={arm: t.opening_m[arm][steps] for arm in arms},
        objects=np.concatenate([np.zeros((len(steps), 0)), *objects], axis=1),
        relative=relative,
    )


def _continued(quaternions: Array, start: Array) -> Array:
    """(K, 4) the same rotations without a change of sign, the first row as near to ``start`` as can be."""
    before = np.concatenate([start[None], quaternions[:-1]])
    flips = np.where(np.sum(before * quaternions, axis=1) < 0, -1.0, 1.0)
    return np.asarray(quaternions * np.cumprod(flips)[:, None], dtype=np.float64)


def _continued_objects(objects: Array, start: Array) -> Array:
    out = objects.copy()
    for at in range(3, objects.shape[1], 7):
        out[:, at : at + 4] = _continued(objects[:, at : at + 4], start[at : at + 4])
    return out


def _continued_actions(actions: npt.NDArray[np.float32], start: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(K, A) the same commands, their rotation vectors a whole turn longer or shorter where that avoids a jump."""
    out = actions.copy()
    for at in range(3, actions.shape[1], PER_ARM):
        before = start[at : at + 3].astype(np.float64)
        for row, vector in enumerate(actions[:, at : at + 3].astype(np.float64)):
            angle = float(np.linalg.norm(vector))
            if angle > 1e-3:  # a rotation near none has no second vector nearby
                turns = [vector * (1 + 2 * np.pi * k / angle) for k in (0, -1, 1)]
                vector = min(turns, key=lambda v: float(np.linalg.norm(v - before)))
            out[row, at : at + 3] = before = vector
    return out
