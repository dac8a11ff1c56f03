"""The metrics of a window: a 4D video and the hands tracked through it, against what really happened.

:data:`METRICS` has an entry for each; the columns of tables, reports and the closing summary follow from it. Another
package adds one as an entry point of the group ``geo4d_bench.metrics`` (docs/adding_a_metric.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import PluginError
from geo4d_bench.evaluation import metrics
from geo4d_bench.geometry.se3 import Array, inverse, pose_error, to_camera_n, transform
from geo4d_bench.model.batch import true_video
from geo4d_bench.model.types import EETrajectory, Video4D
from geo4d_bench.registry import Registry
from geo4d_bench.trackers.protocol import HandTrack, tracks

NEAR_FRAMES = 4
"""The first frames, those that a policy carries out before it plans again."""


@dataclass(frozen=True)
class Metric:
    """A number of each scored window. The name that it is registered under is its column in every table.

    Attributes:
        value: NaN where it does not apply; also where it reads ``video`` and tracks alone are predicted.
        title: heading in reports and in the closing summary of ``evaluate``; None leaves it out there.
        decimals: shown there.
    """

    value: Callable[[ScoredWindow], float]
    title: str | None = None
    decimals: int = 3


METRICS: dict[str, Metric] = {
    # Frames where a tracker is lost keep the pose that it extrapolates.
    "gripper_cm": Metric(lambda s: s.position_error_cm.mean(), "gripper, cm", 1),
    "gripper_cm_frames_1_4": Metric(lambda s: s.position_error_cm[:, :NEAR_FRAMES].mean(), "frames 1 to 4, cm", 1),
    # Nobody could predict a disturbance.
    "gripper_cm_undisturbed": Metric(
        lambda s: math.nan if s.window.disturbed else s.position_error_cm.mean(), "undisturbed, cm", 1
    ),
    "rotation_deg": Metric(lambda s: math.degrees(s.pose_errors[1].mean()), "rotation, °", 1),
    "opening_cm": Metric(lambda s: 100.0 * s.opening_error_m.mean(), "opening, cm", 2),
    "lost_share": Metric(lambda s: float(np.mean([t.lost for t in s.tracks])), "lost", 2),
    "abs_rel_n": Metric(lambda s: s.depth[0].abs_rel, "AbsRel n"),
    "abs_rel_m": Metric(lambda s: s.depth[1].abs_rel, "AbsRel m"),
    "abs_rel_m_paper_compat": Metric(lambda s: s.depth_m_paper_compat.abs_rel, "AbsRel m, paper_compat"),
    "d1_n": Metric(lambda s: s.depth[0].d1, "d1 n"),
    "d1_m": Metric(lambda s: s.depth[1].d1, "d1 m"),
    "d1_m_paper_compat": Metric(lambda s: s.depth_m_paper_compat.d1),
    "missing_n": Metric(lambda s: s.depth[0].missing, "missing n"),
    "missing_m": Metric(lambda s: s.depth[1].missing, "missing m"),
    "extra_n": Metric(lambda s: s.depth[0].extra, "extra n"),
    "extra_m": Metric(lambda s: s.depth[1].extra, "extra m"),
    "abs_rel_n_moved": Metric(lambda s: s.depth_moved[0].abs_rel, "AbsRel n, moved"),
    "abs_rel_m_moved": Metric(lambda s: s.depth_moved[1].abs_rel, "AbsRel m, moved"),
    "psnr_n_db": Metric(lambda s: metrics.psnr_db(*s.rgb(0)), "PSNR n, dB", 1),
    "psnr_m_db": Metric(lambda s: metrics.psnr_db(*s.rgb(1)), "PSNR m, dB", 1),
    "psnr_n_moved_db": Metric(lambda s: metrics.psnr_moved_db(*s.rgb(0), s.moved[0]), "PSNR n, moved, dB", 1),
    "psnr_m_moved_db": Metric(lambda s: metrics.psnr_moved_db(*s.rgb(1), s.moved[1]), "PSNR m, moved, dB", 1),
    "ssim_n": Metric(lambda s: metrics.ssim(*s.rgb(0)), "SSIM n"),
    "ssim_m": Metric(lambda s: metrics.ssim(*s.rgb(1)), "SSIM m"),
    "miou": Metric(lambda s: s.miou(), "mIoU", 2),
    "view_gap_cm": Metric(lambda s: s.view_gap_cm(s.seen_by_both), "view gap, cm", 1),
    "hand_view_gap_cm": Metric(lambda s: s.view_gap_cm(s.seen_by_both & (s.truth.parts[1] > 0)), "on the hand, cm", 1),
    "off_ray_n": Metric(lambda s: s.off_ray(0), "hand off its rays n", 2),
    "off_ray_m": Metric(lambda s: s.off_ray(1), "hand off its rays m", 2),
}
"""Ours, by column; docs/metrics.md says what each is."""

_PLUGINS: Registry[Metric] = Registry("metric", group="geo4d_bench.metrics")


def all_metrics() -> dict[str, Metric]:
    """Ours, then those of other packages by name; PluginError where one cannot be imported or has the name of ours."""
    others = dict(_PLUGINS.items())
    if taken := METRICS.keys() & others:
        raise PluginError(f"another package's metrics have names of ours: {', '.join(sorted(taken))}; rename them")
    for name, metric in others.items():
        if not isinstance(metric, Metric):
            raise PluginError(f"the metric '{name}' is a {type(metric).__name__}, expected a Metric: Metric(function)")
    return METRICS | others


@dataclass(frozen=True)
class ScoredWindow:
    """What a metric may look at.

    Attributes:
        window: the truth, its first frame and T future ones.
        prediction: the scored video; None where tracks alone are predicted. Metrics read ``video``.
        tracks: of each arm through the video, in the order of ``window.T_n_ee``.
    """

    window: Window
    prediction: Video4D | None
    tracks: Sequence[HandTrack]

    def numbers(self) -> dict[str, float]:
        """Every metric by its column; NaN where it does not apply."""
        found = {}
        for name, metric in all_metrics().items():
            try:
                found[name] = float(metric.value(self))
            except NoVideoError:
                found[name] = math.nan
            except Exception as error:
                raise PluginError(
                    f"the metric '{name}' failed on {self.window.episode} from frame {self.window.start}, expected one "
                    f"number: {type(error).__name__}: {error}"
                ) from error
        return found

    @property
    def video(self) -> Video4D:
        """The scored video; its ``parts`` are its own segmentation of the hands."""
        if self.prediction is None:
            raise NoVideoError
        return self.prediction

    @cached_property
    def truth(self) -> Video4D:
        """The true video, view m's points in camera n's frame as in ``video``."""
        return true_video(self.window)

    @cached_property
    def pose_errors(self) -> Array:
        """(2, arms, T) metres and radians between tracked and true grippers."""
        errors = [pose_error(t.T_n_ee, self.window.T_n_ee[a, 1:]) for a, t in enumerate(self.tracks)]
        return np.stack(errors, axis=1)

    @property
    def position_error_cm(self) -> Array:
        """(arms, T) centimetres between tracked and true grippers."""
        return np.asarray(100.0 * self.pose_errors[0])

    @property
    def opening_error_m(self) -> Array:
        """(arms, T) metres between tracked and true openings."""
        return np.asarray(np.abs(np.stack([t.opening_m for t in self.tracks]) - self.window.opening_m[:, 1:]))

    def rgb(self, view: int) -> tuple[metrics.Images, metrics.Images]:
        """(T, H, W, 3) scored and true frames of a view."""
        return self.video.rgb[view], self.truth.rgb[view]

    @cached_property
    def depth(self) -> list[metrics.DepthScore]:
        """Of each view."""
        return [metrics.depth_score(self.video.points[v], self.truth.points[v]) for v in (0, 1)]

    @cached_property
    def depth_moved(self) -> list[metrics.DepthScore]:
        """Of each view's ``moved`` pixels."""
        return [metrics.depth_score(self.video.points[v], self.truth.points[v], self.moved[v]) for v in (0, 1)]

    @cached_property
    def depth_m_paper_compat(self) -> metrics.DepthScore:
        w = self.window
        return metrics.depth_score_paper_compat(self.video.points[1], w.points[1, 1:], w.T_n_m)

    @cached_property
    def moved(self) -> list[metrics.Mask]:
        """(T, H, W) of each view: pixels that show another surface than in the first frame."""
        first = first_points(self.window)
        return [metrics.moved_pixels(self.truth.points[v], first[v]) for v in (0, 1)]

    @cached_property
    def seen_by_both(self) -> metrics.Mask:
        """(T, H, W) pixels of view m whose true surface camera n sees, too."""
        return metrics.seen_by_both(self.truth.points[0], self.truth.points[1], self.window.K[0])

    def miou(self) -> float:
        """Cross-view overlap of the grippers, mean over the frames that show or should show one."""
        hand, points, w = self.video.parts > 0, self.video.points[0], self.window
        expected = np.asarray((self.truth.parts > 0).any((0, 2, 3)))
        iou = metrics.cross_view_iou(points, hand[0], hand[1], inverse(w.T_n_m), w.K[1], expected)
        there = iou[np.isfinite(iou)]
        return float(there.mean()) if len(there) else math.nan

    def view_gap_cm(self, where: metrics.Mask) -> float:
        """Distance of the two views' points at pixels (T, H, W) of view m."""
        (n, m), K_n = self.video.points, self.window.K[0]
        return 100.0 * metrics.view_gap_m(n, m, self.truth.points[1], where, K_n)

    def off_ray(self, view: int) -> float:
        """Share of the pixels of hands in a view's frames whose points are not where the pixel looks; NaN for none."""
        T_cam_n = np.eye(4) if view == 0 else inverse(self.window.T_n_m)
        points, hand = transform(T_cam_n, self.video.points[view]), self.video.parts[view] > 0
        return metrics.off_ray_share(points, hand, self.window.K[view])


class NoVideoError(Exception):
    """A metric asked for the video where tracks alone are predicted."""


def first_points(window: Window) -> npt.NDArray[np.float32]:
    """(2, H, W, 3) metres in camera n's frame: both views' first pointmaps, view m's moved by the true pose."""
    return to_camera_n(window.points[:, 0], window.T_n_m)


def copied_first_frame(window: Window) -> Video4D:
    """The floor for images: the first frame of both views at every future time, with the simulator's hand labels."""

    def repeat(first: Any) -> Any:
        return np.repeat(first[:, None], window.rgb.shape[1] - 1, axis=1)

    rgb, points, parts = window.rgb[:, 0], first_points(window), window.parts[:, 0]
    return Video4D(repeat(rgb), repeat(points), repeat(parts), window.K, window.dt_s)


def zero_motion(window: Window) -> list[HandTrack]:
    """The floor for actions: every hand keeps its true first pose and opening."""
    T_n_ee, opening_m = (np.repeat(a[:, :1], a.shape[1] - 1, axis=1) for a in (window.T_n_ee, window.opening_m))
    return tracks(EETrajectory(T_n_ee, opening_m))
