"""Scores of one window: a 4D video and the hand tracked through it, against what really happened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from geo4d_bench.dataset.types import Window
from geo4d_bench.evaluation import metrics
from geo4d_bench.geometry.se3 import Array, inverse, pose_error, transform
from geo4d_bench.model.batch import true_video
from geo4d_bench.model.types import Video4D
from geo4d_bench.trackers.protocol import HandTrack

NEAR_FRAMES = 4
"""The first frames, those that a policy carries out before it plans again."""


@dataclass(frozen=True)
class Scores:
    """One window's numbers; NaN where a metric does not apply.

    Attributes:
        gripper_cm: distance of the tracked to the true gripper, mean over frames and arms; frames where the tracker
            is lost keep the pose that it extrapolates.  gripper_cm_frames_1_4: over the first four frames.
            gripper_cm_undisturbed: NaN where the window is disturbed, since nobody could predict_trajectory that.
        rotation_deg: angle between tracked and true orientation.  opening_cm: error of the fingers' distance.
        lost_share: share of frames where the tracker is lost.
        abs_rel_*, d1_*: depth errors, see ``evaluation.metrics.depth_score``.  missing_*: share of the pixels with a
            true surface that the video leaves invalid.  extra_*: share of those without one at which it shows one.
        psnr_*_db, ssim_*: of RGB.
        abs_rel_*_moved, psnr_*_moved_db: over the pixels that show another surface than in the first frame, the small
            part of a video in which anything happens.
        miou: cross-view overlap of the gripper.  view_gap_cm: distance of the two views' pointmaps where they see
            the same surface, hand_view_gap_cm: the same on the hand alone.
    """

    gripper_cm: float
    gripper_cm_frames_1_4: float
    gripper_cm_undisturbed: float
    rotation_deg: float
    opening_cm: float
    lost_share: float
    abs_rel_n: float
    abs_rel_m: float
    abs_rel_m_paper_compat: float
    d1_n: float
    d1_m: float
    d1_m_paper_compat: float
    missing_n: float
    missing_m: float
    extra_n: float
    extra_m: float
    abs_rel_n_moved: float
    abs_rel_m_moved: float
    psnr_n_db: float
    psnr_m_db: float
    psnr_n_moved_db: float
    psnr_m_moved_db: float
    ssim_n: float
    ssim_m: float
    miou: float
    view_gap_cm: float
    hand_view_gap_cm: float


METRICS = tuple(f.name for f in fields(Scores))


def copied_first_frame(window: Window) -> Video4D:
    """The floor for images: the first frame of both views, unchanged, at every future time.

    It is a floor of *motion* and is told the rest: view m's points are taken to camera n's frame by the true pose,
    and the hand is labelled by the simulator.
    """
    future = window.rgb.shape[1] - 1
    first = np.stack([window.points[0, 0], transform(window.T_n_m, window.points[1, 0])])

    def repeat(images: np.ndarray) -> np.ndarray:
        return np.repeat(images[:, None], future, axis=1)

    return Video4D(repeat(window.rgb[:, 0]), repeat(first), repeat(window.parts[:, 0]), window.K, window.dt_s)


def zero_motion(window: Window) -> list[HandTrack]:
    """The floor for actions: every hand keeps its true first pose and opening; no tracker takes part."""
    arms, frames = window.T_n_ee.shape[0], window.T_n_ee.shape[1] - 1
    nothing = np.zeros(frames, dtype=bool)
    return [
        HandTrack(
            np.repeat(window.T_n_ee[a, :1], frames, axis=0),
            np.repeat(window.opening_m[a, :1], frames),
            np.full(frames, np.nan),
            nothing,
        )
        for a in range(arms)
    ]


def position_errors_cm(window: Window, tracks: Sequence[HandTrack]) -> Array:
    """(arms, T) centimetres between each tracked and true gripper in each frame."""
    return np.stack([100.0 * pose_error(t.T_n_ee, window.T_n_ee[a, 1:])[0] for a, t in enumerate(tracks)])


def score(window: Window, video: Video4D | None, tracks: Sequence[HandTrack]) -> Scores:
    """Every metric of one window.

    Args:
        window: the truth.
        video: what is scored; ``parts`` are its own segmentation of the hands. None where only hands are told: what is
            asked of a video is NaN then.
        tracks: each arm's track through ``video``, in the order of ``window.T_n_ee``.
    """
    position = position_errors_cm(window, tracks)
    rotation = [pose_error(t.T_n_ee, window.T_n_ee[a, 1:])[1] for a, t in enumerate(tracks)]
    opening = [np.abs(t.opening_m - window.opening_m[a, 1:]) for a, t in enumerate(tracks)]
    hands = {
        "gripper_cm": float(position.mean()),
        "gripper_cm_frames_1_4": float(position[:, :NEAR_FRAMES].mean()),
        "gripper_cm_undisturbed": math.nan if window.disturbed else float(position.mean()),
        "rotation_deg": math.degrees(float(np.mean(rotation))),
        "opening_cm": 100.0 * float(np.mean(opening)),
        "lost_share": float(np.mean([t.lost for t in tracks])),
    }
    if video is None:
        return Scores(**(dict.fromkeys(METRICS, math.nan) | hands))
    truth = true_video(window)
    n, m = (metrics.depth_score(video.points[v], truth.points[v]) for v in (0, 1))
    compat = metrics.depth_score_paper_compat(video.points[1], window.points[1, 1:], window.T_n_m)
    first = [window.points[0, 0], transform(window.T_n_m, window.points[1, 0])]
    moved = [metrics.moved_pixels(truth.points[v], first[v]) for v in (0, 1)]
    moved_n, moved_m = (metrics.depth_score(video.points[v], truth.points[v], moved[v]) for v in (0, 1))
    hand = video.parts > 0
    both = metrics.seen_by_both(truth.points[0], truth.points[1], window.K[0])
    gaps = [
        100.0 * metrics.view_gap_m(video.points[0], video.points[1], truth.points[1], where, window.K[0])
        for where in (both, both & (truth.parts[1] > 0))
    ]
    shown = np.asarray((truth.parts > 0).any((0, 2, 3)))
    miou, _ = metrics.cross_view_miou(
        video.points[0], hand[0], hand[1], inverse(window.T_n_m), window.K[1], expected=shown
    )
    return Scores(
        **hands,
        abs_rel_n=n.abs_rel,
        abs_rel_m=m.abs_rel,
        abs_rel_m_paper_compat=compat.abs_rel,
        d1_n=n.d1,
        d1_m=m.d1,
        d1_m_paper_compat=compat.d1,
        missing_n=n.missing,
        missing_m=m.missing,
        extra_n=n.extra,
        extra_m=m.extra,
        abs_rel_n_moved=moved_n.abs_rel,
        abs_rel_m_moved=moved_m.abs_rel,
        psnr_n_db=metrics.psnr_db(video.rgb[0], truth.rgb[0]),
        psnr_m_db=metrics.psnr_db(video.rgb[1], truth.rgb[1]),
        psnr_n_moved_db=metrics.psnr_moved_db(video.rgb[0], truth.rgb[0], moved[0]),
        psnr_m_moved_db=metrics.psnr_moved_db(video.rgb[1], truth.rgb[1], moved[1]),
        ssim_n=metrics.ssim(video.rgb[0], truth.rgb[0]),
        ssim_m=metrics.ssim(video.rgb[1], truth.rgb[1]),
        miou=miou,
        view_gap_cm=gaps[0],
        hand_view_gap_cm=gaps[1],
    )
