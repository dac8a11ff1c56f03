"""Policies that plan with a generator: make 4D video of the next seconds, track the gripper, move, repeat."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from geo4d_bench.errors import ConfigError, PolicyError
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.hand import hand_mask
from geo4d_bench.geometry.se3 import inverse
from geo4d_bench.model.generators import Device, presets
from geo4d_bench.model.types import FirstFrames
from geo4d_bench.options import Steps
from geo4d_bench.policies.protocol import ActionChunk, Observation, PlanOptions, Policy, PolicyFactory, TaskInfo
from geo4d_bench.policies.video_policy import VideoOptions, VideoPolicy
from geo4d_bench.seeding import derive_seed

if TYPE_CHECKING:
    from geo4d_bench.model.base import Generator


@dataclass(frozen=True)
class TrainedOptions(PlanOptions):
    """Options of a policy that has a checkpoint."""

    checkpoint: Path | None = None
    """Checkpoint folder; where 'geo4d-bench train' puts it by default where not given."""
    device: Device = "cpu"
    """Where the checkpoint computes. On a GPU (cuda) two runs may differ by rounding."""


@dataclass(frozen=True)
class GeneratorOptions(TrainedOptions, VideoOptions):
    """Options of a policy that plans by a generator's video."""

    steps: Steps | None = None
    """Sampling steps; the checkpoint's own number where not given."""


class TrainedPolicy(Policy):
    """A policy on a checkpoint of ``geo4d-bench train``.

    Args:
        options: its options.  generator: the checkpoint's, shared between episodes.
    """

    needs_checkpoint = True
    Options: ClassVar[type] = TrainedOptions
    preset: ClassVar[str]
    """What its default checkpoint is trained with."""
    rig: ClassVar[str | None] = None
    """What its default checkpoint is trained on; None: the rig that datagen has by default."""
    ablation: ClassVar[str] = "none"

    def __init__(self, options: Any, generator: Generator[Any]) -> None:
        super().__init__(options)
        self.generator = generator

    @classmethod
    def load(cls, options: Any) -> PolicyFactory:
        """Load the checkpoint once for all episodes.

        Raises:
            CheckpointError: it is incomplete.
            ConfigError: it was trained for another policy, or there is no such device.
        """
        from geo4d_bench.model.checkpoint import checkpoint_sha256
        from geo4d_bench.model.generators import load_generator

        generator = load_generator(options.checkpoint, options.device)
        config = generator.config
        if config.board_name is None:
            raise ConfigError(
                f"{options.checkpoint} was trained for {config.ablation}: its video has no depth that a gripper could "
                "be tracked by, so that there is no policy of it; 'geo4d-bench evaluate' scores its images"
            )
        if config.board_name != cls.name:
            raise ConfigError(
                f"{options.checkpoint} was trained for the policy '{config.board_name}', not '{cls.name}'"
            )
        return PolicyFactory(
            policy=cls,
            build=lambda: cls(options, generator),
            generator=config.name,
            ablation="none" if config.ablation == cls.ablation else config.ablation,
            checkpoint_sha256=checkpoint_sha256(options.checkpoint),
            image_size=(config.height, config.width),
            arms=config.arms,
            sensor=config.sensor,
            rig=config.rig,
            finds_cameras=generator.finds_cameras,
        )

    @classmethod
    def default_checkpoint(cls, task: str) -> Path:
        calibrated = "_calibrated" if cls.needs_both_poses else ""
        return Path("runs") / task / f"{cls.preset}{calibrated}{'' if cls.ablation == 'none' else f'-{cls.ablation}'}"

    @classmethod
    def train_command(cls, task: str, out: Path | None) -> str:
        calibrated = " --calibrated" if cls.needs_both_poses else ""
        ablation = "" if cls.ablation == "none" else f" --ablation {cls.ablation}"
        preset = presets().get(cls.preset) if cls.preset in presets() else None  # another package's may have none
        size = "" if preset is None else f" --height {preset.height} --width {preset.width}"
        data, default = f"data/{task}", cls.default_checkpoint(task)
        out = out or default
        if cls.rig is not None:  # a folder of its own, whose name would put the checkpoint elsewhere
            data = f"{data}_{cls.rig}"
            size += f" --rig {cls.rig} --out {data}"
        where = "" if out == default and cls.rig is None else f" --out {out}"
        return (
            f"'geo4d-bench datagen --task {task}{size}' and then "
            f"'geo4d-bench train --data {data} --preset {cls.preset}{calibrated}{ablation}{where}'"
        )

    def first_frames(self, obs: Observation, task: TaskInfo) -> FirstFrames:
        """What the generator is given; PolicyError where the images are not of the size that it was trained at."""
        config = self.generator.config
        if obs.rgb.shape[1:3] != (config.height, config.width):
            raise PolicyError(
                f"{self.name}: images are {obs.rgb.shape[1]} x {obs.rgb.shape[2]}, the checkpoint was trained at "
                f"{config.height} x {config.width}; render observations at that size"
            )
        return frames_of_observation(obs, task)


class GeneratedVideo(TrainedPolicy, VideoPolicy):
    """Plans by a generator's video. The reference camera's pose puts the grippers into its frame and the plan into the
    world's."""

    Options: ClassVar[type] = GeneratorOptions
    rung_above, stage = "oracle_video", "generating the frames"

    def reset(self, task: TaskInfo, seed: int) -> None:
        super().reset(task, seed)
        self._plans = 0

    def act(self, obs: Observation) -> ActionChunk:
        return self.act_many([self], [obs])[0]

    @classmethod
    def act_many(cls, policies: Sequence[Policy], observations: Sequence[Observation]) -> list[ActionChunk]:
        """One pass of the generator for all episodes, then each episode's own tracking."""
        mine = [p for p in policies if isinstance(p, GeneratedVideo)]
        if len(mine) != len(policies) or any(p.generator is not mine[0].generator for p in mine):
            raise PolicyError(f"{cls.__name__}.act_many: the policies must come from one factory, to share a generator")
        if not mine:
            return []
        began = time.perf_counter()
        firsts = [p.first_frames(obs, p.task) for p, obs in zip(mine, observations, strict=True)]
        seeds = [p.next_seed() for p in mine]
        videos = mine[0].generator.generate(firsts, seeds, mine[0].options.steps, batch=len(mine))
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


class Geo4D(GeneratedVideo):
    """The method of arXiv 2507.01099: the plan is tracked in generated 4D video, and comes from nowhere else."""

    name = "geo4d"
    preset, rig = "dit_nano", "wide16"
    rank = 30.0


class Layered(GeneratedVideo):
    """A trajectory predicted from the first frames, drawn into video by layers, and read back by the tracker."""

    name = "layered"
    preset = "layered_nano"
    colour = "#882255"
    rank = 20.0


def calibrated(policy: type[TrainedPolicy]) -> type[TrainedPolicy]:
    """The same policy, given the poses of both cameras."""
    values = {"name": f"{policy.name}_calibrated", "needs_both_poses": True, "rank": policy.rank + 1.0}
    return type(f"{policy.__name__}Calibrated", (policy,), values)


Geo4DCalibrated, LayeredCalibrated = calibrated(Geo4D), calibrated(Layered)


def policy_of_generator(generator: str, both_poses: bool) -> type[TrainedPolicy]:
    """The policy that plans by the video of another package's generator."""
    from geo4d_bench.model.generators import GENERATORS

    config = GENERATORS.get(generator)
    values = {"name": config.policy, "preset": next(iter(config.presets()), generator), "rank": 35.0}
    policy = type(config.policy, (GeneratedVideo,), values)
    return calibrated(policy) if both_poses else policy


def frames_of_observation(obs: Observation, task: TaskInfo) -> FirstFrames:
    """The first frames of an observation: points in each view's own frame, the hands in view n from the poses, and the
    poses of both cameras where the observation has them."""
    points = np.stack([depth_to_points(depth, K) for depth, K in zip(obs.depth, obs.K, strict=True)])
    T_n_ee = np.stack([inverse(obs.T_world_cam_n) @ obs.T_world_ee[arm] for arm in task.arms])
    opening = np.array([obs.opening_m[arm] for arm in task.arms])
    return FirstFrames(
        rgb=obs.rgb,
        points=points,
        K=obs.K,
        hand_mask=hand_mask(points[0], [(task.hand, *at) for at in zip(T_n_ee, opening, strict=True)]),
        p_n_ee=T_n_ee[:, :3, 3],
        opening_m=opening,
        T_world_cam=None if obs.T_world_cam_m is None else np.stack([obs.T_world_cam_n, obs.T_world_cam_m]),
    )
