"""The policy of the paper: generate the next seconds as 4D video, track the hand through it, move along, plan again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geo4d_bench.errors import PolicyError
from geo4d_bench.geometry import depth_to_points, inverse, transform
from geo4d_bench.model import backbones
from geo4d_bench.model.video import FirstFrames
from geo4d_bench.policies.protocol import ActionChunk, Observation, Policy, TaskInfo
from geo4d_bench.policies.video_policy import VideoPolicy
from geo4d_bench.seeding import derive_seed

if TYPE_CHECKING:
    from geo4d_bench.model.backbones import AnyGenerator


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator in memory, shared by the policies of all episodes.

    Attributes:
        generator: the model.  sha256: of its checkpoint.  image_size: (H, W) that it was trained at.
        steps: sampling steps; None takes the checkpoint's own.
    """

    generator: AnyGenerator
    sha256: str
    image_size: tuple[int, int]
    steps: int | None = None

    def first_frames(self, obs: Observation, task: TaskInfo) -> FirstFrames:
        """What the generator sees; PolicyError where the images are not of the size that it was trained at."""
        height, width = self.image_size
        if obs.rgb.shape[1:3] != (height, width):
            raise PolicyError(
                f"geo4d: images are {obs.rgb.shape[1]} x {obs.rgb.shape[2]}, the checkpoint was trained at "
                f"{height} x {width}; render observations at that size"
            )
        return first_frames(obs, task)


class Geo4D(VideoPolicy):
    """Plans with a generator; knows the reference camera's pose to say where the hands are in it, and to take its plan
    to the world.

    Args:
        loaded: the generator, shared between episodes.
        execute: waypoints of each plan that are carried out before the next one.
    """

    def __init__(self, loaded: LoadedGenerator, execute: int) -> None:
        super().__init__(execute)
        self.loaded = loaded

    def reset(self, task: TaskInfo, seed: int) -> None:
        super().reset(task, seed)
        self._plans = 0

    def act(self, obs: Observation) -> ActionChunk:
        return self.act_many([self], [obs])[0]

    @classmethod
    def act_many(cls, policies: Sequence[Policy], observations: Sequence[Observation]) -> list[ActionChunk]:
        """One call of the generator for all episodes, then each episode's own tracking.

        The generator gives every sample what it would give it alone, so a plan doesn't depend on its company.
        """
        mine = [p for p in policies if isinstance(p, Geo4D)]
        if len(mine) != len(policies) or any(p.loaded is not mine[0].loaded for p in mine):
            raise PolicyError("Geo4D.act_many: the policies must come from one factory, so that they share a generator")
        if not mine:
            return []
        began = time.perf_counter()
        firsts = [p.loaded.first_frames(obs, p.task) for p, obs in zip(mine, observations, strict=True)]
        loaded = mine[0].loaded
        videos = loaded.generator.generate(firsts, [p.next_seed() for p in mine], loaded.steps)
        generate_ms = 1e3 * (time.perf_counter() - began) / len(mine)
        chunks = []
        for policy, obs, video in zip(mine, observations, videos, strict=True):
            policy.timings["generate_ms"] = generate_ms
            chunks.append(policy.chunk_from_video(video, obs))
        return chunks

    def next_seed(self) -> int:
        """The seed of the next plan: its own for every plan of an episode, the same in every rerun."""
        seed = derive_seed(f"{self.task.id}-{self.task.version}", "plan", self.seed, f"generate{self._plans}")
        self._plans += 1
        return seed


class Geo4DCalibrated(Geo4D):
    """:class:`Geo4D` with a generator that is given the poses of both cameras."""

    needs_both_poses = True


def load_generator(checkpoint: Path, device: backbones.Device = "cpu", steps: int | None = None) -> LoadedGenerator:
    """Load a checkpoint folder once for all episodes, to sample in ``steps`` steps (None: the checkpoint's own number);
    CheckpointError where it is incomplete."""
    from geo4d_bench.model.checkpoint import checkpoint_sha256

    generator = backbones.load_generator(checkpoint, device)
    config = generator.config
    return LoadedGenerator(generator, checkpoint_sha256(checkpoint), (config.height, config.width), steps)


def first_frames(obs: Observation, task: TaskInfo) -> FirstFrames:
    """The first frames of an observation: points in each view's own frame, the hands in view n from the poses, and the
    poses of both cameras where the observation has them."""
    points = np.stack([depth_to_points(obs.depth[v], obs.K[v]) for v in (0, 1)])
    mask = np.zeros(points.shape[1:3], dtype=bool)
    points_world = transform(obs.T_world_cam_n, points[0])
    for arm in task.arms:
        mask |= task.hand.visible_mask(points_world, obs.T_world_ee[arm], obs.opening_m[arm])
    T_n_world = inverse(obs.T_world_cam_n)
    return FirstFrames(
        rgb=obs.rgb,
        points=points,
        K=obs.K,
        hand_mask=mask,
        p_n_ee=np.stack([transform(T_n_world, obs.T_world_ee[arm][:3, 3]) for arm in task.arms]),
        opening_m=np.array([obs.opening_m[arm] for arm in task.arms]),
        T_world_cam=None if obs.T_world_cam_m is None else np.stack([obs.T_world_cam_n, obs.T_world_cam_m]),
    )
