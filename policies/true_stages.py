"""The stages of a plan, one of which is replaced by the truth: what ``geo4d-bench error-budget`` blames a loss on.

The truth is what the scripted expert would do from the present state, and what cameras without error would show. All
else stays as the policy makes it, so that an episode that is won with a true stage was lost in that stage, or in an
earlier one that it mends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from geo4d_bench.errors import PolicyError
from geo4d_bench.geometry.se3 import Array, inverse
from geo4d_bench.model.types import FirstFrames, Video4D
from geo4d_bench.policies.generated import GeneratedVideo, TrainedPolicy
from geo4d_bench.policies.oracles import simulator_of
from geo4d_bench.policies.protocol import ActionChunk, Observation, Policy, PolicyFactory, TaskInfo
from geo4d_bench.policies.video_policy import VideoPolicy

Replacement = Literal["first_frames", "cameras", "parts", "poses", "openings", "plan", "noise"]


class TrueFirstFrames(Policy):
    """Sees depth without the sensor's errors, and is told the cameras' poses without errors of calibration."""

    @classmethod
    def act_many(cls, policies: Sequence[Policy], observations: Sequence[Observation]) -> list[ActionChunk]:
        true = [simulator_of(policy).true_observation(policy.needs_both_poses) for policy in policies]
        return super().act_many(policies, true)


class TrueCameras(TrainedPolicy):
    """The generator, and the tracker of a video, are given the cameras' true poses instead of finding them; all else
    uses the poses as told."""

    def __init__(self, options: Any, generator: Any) -> None:
        super().__init__(options, generator)
        generator.cameras_given = True

    def first_frames(self, obs: Observation, task: TaskInfo) -> FirstFrames:
        return replace(super().first_frames(obs, task), T_world_cam=self._true_poses())

    def view_m(self, obs: Observation) -> Array:
        """(4, 4) the true pose of view m in camera n's frame."""
        T_world_n, T_world_m = self._true_poses()
        return np.asarray(inverse(T_world_n) @ T_world_m)

    def _true_poses(self) -> Array:
        true = simulator_of(self).true_observation(both_poses=True)
        assert true.T_world_cam_m is not None
        return np.stack([true.T_world_cam_n, true.T_world_cam_m])


class TrueParts(VideoPolicy):
    """The tracker takes for hands what the true future frames show as hands; points, colours and the openings that the
    generated labels show stay generated."""

    def labelled(self, video: Video4D, T_n_ee: Array, opening_m: Array) -> Video4D:
        true = simulator_of(self).expert_future(video.parts.shape[1], video.dt_s, video=True).video
        if true is None:
            raise PolicyError(f"{self.name}: the simulator's expert_future(video=True) gave no video")
        return replace(video, parts=true.parts)


class _TrueWaypoints(Policy):
    """As many waypoints as the policy asks for, with true values in the fields named by ``true``."""

    true: ClassVar[tuple[str, ...]]

    @classmethod
    def act_many(cls, policies: Sequence[Policy], observations: Sequence[Observation]) -> list[ActionChunk]:
        chunks = super().act_many(policies, observations)
        return [cls._mended(policy, chunk) for policy, chunk in zip(policies, chunks, strict=True)]

    @classmethod
    def _mended(cls, policy: Policy, chunk: ActionChunk) -> ActionChunk:
        waypoints = len(next(iter(chunk.T_world_ee.values())))
        future = simulator_of(policy).expert_future(waypoints, chunk.dt_s, video=False)
        return replace(chunk, **{name: getattr(future, name) for name in cls.true})


class TruePoses(_TrueWaypoints):
    true = ("T_world_ee",)


class TrueOpenings(_TrueWaypoints):
    true = ("opening_m",)


class TruePlan(_TrueWaypoints):
    true = ("T_world_ee", "opening_m")


class OtherNoise(GeneratedVideo):
    """The same policy with other samples of noise."""

    def next_seed(self) -> int:
        return super().next_seed() ^ 1


@dataclass(frozen=True)
class Stage:
    """A replacement.

    Attributes:
        words: what is put in place, as it reads in rows and tables.
        mixin: what a policy's class is combined with.
        blamed: whether it is a stage that a loss can be blamed on; else it is a control.
    """

    words: str
    mixin: type[Any]
    blamed: bool = True


STAGES: dict[Replacement, Stage] = {
    "first_frames": Stage("true first frames", TrueFirstFrames),
    "cameras": Stage("true cameras", TrueCameras),
    "parts": Stage("true parts", TrueParts),
    "poses": Stage("true poses", TruePoses),
    "openings": Stage("true openings", TrueOpenings),
    "plan": Stage("true poses and openings", TruePlan, blamed=False),
    "noise": Stage("other noise", OtherNoise, blamed=False),
}
"""In the order in which a plan is made."""


def with_truth(policy: type[Policy], replacement: Replacement) -> type[Policy]:
    """The policy with one stage replaced; it is handed the simulator."""
    mixin = STAGES[replacement].mixin
    return type(f"{policy.__name__}{mixin.__name__}", (mixin, policy), {"privileged": True})


def lacking(replacement: Replacement, factory: PolicyFactory, sees_truth: bool) -> str:
    """Why a policy has no such stage; empty where it has. ``sees_truth``: first frames have no error in this run."""
    policy = factory.policy
    if replacement == "first_frames" and not policy.needs_images:
        return "it looks at nothing"
    if replacement == "first_frames" and sees_truth:
        return "depth and the poses that are told are true already"
    tracker_finds = issubclass(policy, GeneratedVideo) and not policy.needs_both_poses
    several = policy.needs_checkpoint and policy.needs_images and not issubclass(policy, TrainedPolicy)
    if replacement in ("cameras", "parts", "noise") and several:
        return "two policies plan together, and stages of one alone are not replaced"
    if replacement == "cameras" and not (factory.finds_cameras or tracker_finds):
        return "it searches for no cameras"
    if replacement == "parts" and not issubclass(policy, VideoPolicy):
        return "it makes no video"
    if replacement == "noise" and not issubclass(policy, GeneratedVideo):
        return "it draws no noise"
    return ""
