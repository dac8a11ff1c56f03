"""From a 4D video to actions: the one path that generated and true videos share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import tyro

from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.se3 import Array, inverse
from geo4d_bench.model.types import Video4D
from geo4d_bench.options import listing
from geo4d_bench.policies.protocol import ActionChunk, Observation, PlanOptions, Policy, TaskInfo
from geo4d_bench.trackers import SEGMENTERS, TRACKERS
from geo4d_bench.trackers.protocol import HandTrack


@dataclass(frozen=True)
class VideoOptions(PlanOptions):
    """Options of a policy whose plan is a video."""

    tracker: Annotated[str, tyro.conf.arg(help=listing("What follows the grippers through the video", TRACKERS))] = (
        "point_cloud"
    )
    segmenter: Annotated[
        str | None, tyro.conf.arg(help=listing("What labels the grippers in a video, in place of its own", SEGMENTERS))
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        TRACKERS.get(self.tracker)
        if self.segmenter is not None:
            SEGMENTERS.get(self.segmenter)


class VideoPolicy(Policy):
    """A policy whose plan is a Video4D: tracks every arm's hand through it and returns the first waypoints.

    Waypoints are the poses that the video shows, thus poses reached; they are commanded as they are, and the
    controller's lag is made good by planning again from where the hand is.

    Attributes:
        last_video, last_tracks: the latest plan and each arm's track through it; None before the first.
        timings: milliseconds of the latest plan, ``generate_ms`` (where it generates) and ``track_ms``.

    ``execute`` waypoints of each plan are carried out before the next one, as long as the hand is in sight.
    """

    Options: ClassVar[type] = VideoOptions

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.task, self.seed = task, seed
        self.tracker = TRACKERS.get(self.options.tracker)(task.hand)
        name = self.options.segmenter
        self.segmenter = None if name is None else SEGMENTERS.get(name)(task.hand, task.id)
        self.last_video: Video4D | None = None
        self.last_tracks: dict[str, HandTrack] | None = None
        self.timings: dict[str, float] = {}

    def chunk_from_video(self, video: Video4D, obs: Observation) -> ActionChunk:
        """Track from the hands' poses by forward kinematics, then transform the poses to the world."""
        began = time.perf_counter()
        T_n_ee = np.stack([inverse(obs.T_world_cam_n) @ obs.T_world_ee[arm] for arm in self.task.arms])
        opening = np.array([obs.opening_m[arm] for arm in self.task.arms])
        seen = np.stack([depth_to_points(depth, K) for depth, K in zip(obs.depth, obs.K, strict=True)])
        video = replace(self.labelled(video, T_n_ee, opening), first_points=seen, T_n_m=self.view_m(obs))
        tracks = {
            arm: self.tracker.track(video, T_n_ee[index], float(opening[index]), index)
            for index, arm in enumerate(self.task.arms)
        }
        self.last_video, self.last_tracks = video, tracks
        self.timings["track_ms"] = 1e3 * (time.perf_counter() - began)
        count = waypoints_to_execute(out_of_sight([track.lost for track in tracks.values()]), self.options.execute)
        return ActionChunk(
            {arm: obs.T_world_cam_n @ track.T_n_ee[:count] for arm, track in tracks.items()},
            {arm: track.opening_m[:count] for arm, track in tracks.items()},
            video.dt_s,
        )

    def view_m(self, obs: Observation) -> Array | None:
        """(4, 4) view m's pose in camera n's frame; None where the policy is not told."""
        return None if obs.T_world_cam_m is None else inverse(obs.T_world_cam_n) @ obs.T_world_cam_m

    def labelled(self, video: Video4D, T_n_ee: Array, opening_m: Array) -> Video4D:
        """The video with what the tracker takes for hands: its own labels, or the segmenter's.

        Args:
            video: the plan.  T_n_ee: (arms, 4, 4), opening_m: (arms,) metres, the hands before its first frame.
        """
        if self.segmenter is None:
            return video
        return video.relabelled(self.segmenter.segment(video, T_n_ee, opening_m))


def out_of_sight(lost: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Frames (T,) in which some hand is lost, ``lost`` (T,) being each hand's own.

    A hand that the whole plan never shows is left out, as long as it shows another: no choice of the next plan's
    start would bring it into sight, and the start matters to the others.
    """
    shown = [frames for frames in lost if not frames.all()]
    return np.asarray(np.any(shown or lost, axis=0))


def waypoints_to_execute(lost: npt.NDArray[np.bool_], execute: int) -> int:
    """How many of a plan's waypoints to carry out, so that the next plan does not begin with a hand out of sight.

    A plan made out of sight knows neither where the hand was going nor whether it still holds something. So a
    stretch out of sight (lost: (T,) bool) that the plan leads out of again is carried out to its end, and a stretch
    that it doesn't lead out of is not begun, unless it begins at once.
    """
    frames = len(lost)
    count = min(execute, frames)
    if not lost[count - 1]:
        return count
    seen = np.flatnonzero(~lost)
    after, before = seen[seen >= count], seen[seen < count]
    if len(after):
        return int(after[0]) + 1
    return int(before[-1]) + 1 if len(before) else count
