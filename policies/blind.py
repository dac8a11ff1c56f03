"""Policies that see nothing: what can be done without looking is no evidence for a policy that looks.

Each is made from the training demonstrations alone, which stand where another policy has its checkpoint. On a task that
one of them solves, success does not need cameras ('geo4d-bench audit').
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.spatial.transform import Rotation

from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.options import check_ranges
from geo4d_bench.policies.protocol import ActionChunk, Observation, PlanOptions, Policy, PolicyFactory, TaskInfo

PLAN_DT_S = 0.4
"""Between a plan's waypoints, as of the policies that these are compared with."""
HOLD_S = 5.0
"""For which the hands are told at once to stay where a motion ended."""
RADIAN_M = 0.1
"""How much nearness of the hand's rotation counts beside that of its position."""


@dataclass(frozen=True)
class BlindOptions:
    """Options of a policy that is made of demonstrations."""

    checkpoint: Path | None = None
    """Dataset of the demonstrations; data/<task> where not given. Disturbed ones are left out."""


@dataclass(frozen=True)
class ReplayOptions(BlindOptions):
    """Options of ``replay``."""

    demonstration: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Number of the demonstration to play; the one nearest to their average where not given."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class NearestOptions(PlanOptions, BlindOptions):
    """Options of ``proprioception``."""


@dataclass(frozen=True)
class Motion:
    """What the arms of a task did (S control steps).

    Attributes:
        position_m: (arms, S, 3) commanded, in the world.  rotation: (arms, S, 3, 3).  closed: (arms, S) bool.
    """

    position_m: Array
    rotation: Array
    closed: npt.NDArray[np.bool_]

    def chunk(self, task: TaskInfo, first: int = 0, count: int | None = None) -> ActionChunk:
        """Its steps from ``first`` on as commands, to be carried out at the controller's rate."""
        steps = slice(first, None if count is None else first + count)
        T = np.tile(np.eye(4), (*self.closed[:, steps].shape, 1, 1))
        T[..., :3, :3], T[..., :3, 3] = self.rotation[:, steps], self.position_m[:, steps]
        opening = np.where(self.closed[:, steps], 0.0, task.hand.max_opening_m)
        return ActionChunk(
            {arm: T[i] for i, arm in enumerate(task.arms)},
            {arm: opening[i] for i, arm in enumerate(task.arms)},
            1.0 / task.control_hz,
        )


def commanded(trajectory: Trajectory) -> Motion:
    """The motion that an expert commanded."""
    actions = trajectory.actions.astype(np.float64).reshape(len(trajectory.actions), -1, 7).swapaxes(0, 1)
    turns = Rotation.from_rotvec(actions[..., 3:6].reshape(-1, 3)).as_matrix()
    return Motion(actions[..., :3], turns.reshape(*actions.shape[:2], 3, 3), actions[..., 6] > 0)


def average(motions: list[Motion]) -> tuple[Motion, list[Motion]]:
    """The average of motions, and those that it is of: the ones whose grippers close and open in the commonest order.

    Between two such moments time is stretched, so that all motions close and open together.
    """
    cuts = [np.flatnonzero((m.closed[:, 1:] != m.closed[:, :-1]).any(0)) + 1 for m in motions]
    orders = [m.closed[:, [0, *c]].tobytes() for m, c in zip(motions, cuts, strict=True)]
    usual = Counter(orders).most_common(1)[0][0]
    alike = [i for i, order in enumerate(orders) if order == usual]
    edges = np.array([[0, *cuts[i], motions[i].closed.shape[1]] for i in alike])
    lengths = np.diff(edges, axis=1).mean(0).round().astype(int)
    parts = []
    for part, length in enumerate(lengths):
        low, high = edges[:, part], edges[:, part + 1] - 1
        steps = np.linspace(low, high, length).round().astype(int)  # (length, motions)
        position = np.mean([motions[i].position_m[:, s] for i, s in zip(alike, steps.T, strict=True)], axis=0)
        summed = np.sum([motions[i].rotation[:, s] for i, s in zip(alike, steps.T, strict=True)], axis=0)
        u, _, vt = np.linalg.svd(summed)  # the nearest rotation: the chordal mean
        u[..., -1] *= np.linalg.det(u @ vt)[..., None]
        closed = np.repeat(motions[alike[0]].closed[:, edges[0, part], None], length, axis=1)
        parts.append(Motion(position, u @ vt, closed))
    return Motion(
        np.concatenate([p.position_m for p in parts], 1),
        np.concatenate([p.rotation for p in parts], 1),
        np.concatenate([p.closed for p in parts], 1),
    ), [motions[i] for i in alike]


class MadeOfDemonstrations(Policy):
    """A policy made of the undisturbed demonstrations of a dataset, whose identity stands in its rows."""

    Options: ClassVar[type] = BlindOptions
    needs_images: ClassVar[bool] = False
    needs_checkpoint: ClassVar[bool] = True
    colour = "#666666"

    def __init__(self, options: Any, material: Any) -> None:
        super().__init__(options)
        self.material = material

    @classmethod
    def load(cls, options: Any) -> PolicyFactory:
        """Read the demonstrations once for all episodes; DatasetError where they are not of the train split or all of
        them disturbed."""
        dataset = Dataset(options.checkpoint, images=False)
        made = dataset.manifest.settings
        if made.split != "train":
            raise DatasetError(
                f"{options.checkpoint}: its episodes are of the '{made.split}' split, on which policies are judged; "
                f"name what 'geo4d-bench datagen --task {made.task_name}' makes with --checkpoint"
            )
        found = [episode.trajectory for episode in dataset.episodes]
        calm = [trajectory for trajectory in found if not trajectory.disturbances]
        if not calm:
            raise DatasetError(
                f"{options.checkpoint}: all of its {len(found)} demonstrations are disturbed, expected one that is "
                "not; make more of them with 'geo4d-bench datagen'"
            )
        material = cls.prepare(options, calm)
        return PolicyFactory(
            policy=cls,
            build=lambda: cls(options, material),
            checkpoint_sha256=dataset.identity,
            arms=len(made.arms),
        )

    @classmethod
    def prepare(cls, options: Any, demonstrations: list[Trajectory]) -> Any:
        """What all episodes share."""
        raise NotImplementedError

    @classmethod
    def default_checkpoint(cls, task: str) -> Path:
        return Path("data") / task

    @classmethod
    def train_command(cls, task: str, out: Path | None) -> str:
        where = "" if out is None or out == cls.default_checkpoint(task) else f" --out {out}"
        return f"'geo4d-bench datagen --task {task}{where}'"

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.task, self.played = task, False


class Blind(MadeOfDemonstrations):
    """Plays the average of the demonstrations, whatever happens."""

    name = "blind"
    rank = 2.0

    @classmethod
    def prepare(cls, options: Any, demonstrations: list[Trajectory]) -> Motion:
        return average([commanded(each) for each in demonstrations])[0]

    def act(self, obs: Observation) -> ActionChunk:
        """The whole motion; after it the hands stay where they are."""
        motion: Motion = self.material
        if not self.played:
            self.played = True
            return motion.chunk(self.task)
        return replace(motion.chunk(self.task, motion.closed.shape[1] - 1), dt_s=HOLD_S)


class Replay(Blind):
    """Plays one demonstration, whatever happens."""

    name = "replay"
    Options: ClassVar[type] = ReplayOptions
    rank = 3.0

    @classmethod
    def prepare(cls, options: Any, demonstrations: list[Trajectory]) -> Motion:
        motions = [commanded(each) for each in demonstrations]
        if options.demonstration is None:
            mean, alike = average(motions)
            nearest: Motion = min(alike, key=lambda motion: _distance_m(motion, mean))
            return nearest
        if options.demonstration >= len(motions):
            raise ConfigError(
                f"--demonstration is {options.demonstration}, expected less than {len(motions)}: {options.checkpoint} "
                "has no more that are not disturbed"
            )
        chosen: Motion = motions[options.demonstration]
        return chosen


class Proprioception(MadeOfDemonstrations):
    """Goes on as the demonstrations did where the hands were most nearly as they are now: it feels and does not see."""

    name = "proprioception"
    Options: ClassVar[type] = NearestOptions
    rank = 4.0

    @classmethod
    def prepare(cls, options: Any, demonstrations: list[Trajectory]) -> tuple[Array, list[tuple[Motion, int]]]:
        """(N, D) how the hands were at every step, and the step of the motion that this was."""
        features = [
            np.stack([_feel(each.T_world_ee, each.opening_m, step) for step in range(len(each.time))])
            for each in demonstrations
        ]
        places = [(m, s) for m in map(commanded, demonstrations) for s in range(m.closed.shape[1])]
        return np.concatenate(features), places

    def act(self, obs: Observation) -> ActionChunk:
        features, places = self.material
        here = _feel({a: T[None] for a, T in obs.T_world_ee.items()}, {a: [o] for a, o in obs.opening_m.items()}, 0)
        motion, step = places[int(np.argmin(np.square(features - here).sum(1)))]
        count = round(self.options.execute * PLAN_DT_S * self.task.control_hz)
        chunk: ActionChunk = motion.chunk(self.task, step, count)
        return chunk


def _feel(T_world_ee: dict[str, Array], opening_m: dict[str, Any], step: int) -> Array:
    """(D,) position, scaled rotation and opening of every hand, in the order of their names."""
    return np.concatenate(
        [
            np.concatenate(
                [
                    T_world_ee[arm][step][:3, 3],
                    RADIAN_M * T_world_ee[arm][step][:3, :3].ravel() / np.sqrt(2.0),
                    [opening_m[arm][step]],
                ]
            )
            for arm in sorted(T_world_ee)
        ]
    )


def _distance_m(a: Motion, b: Motion) -> float:
    """Mean distance of two motions whose lengths are made equal."""
    steps = np.linspace(0, a.closed.shape[1] - 1, b.closed.shape[1]).round().astype(int)
    return float(np.linalg.norm(a.position_m[:, steps] - b.position_m, axis=-1).mean())
