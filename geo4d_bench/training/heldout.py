"""The number to watch while training: how far the generated hand is from the true one, in centimetres.

PSNR and whole-image errors hardly tell a learning model from a useless one; this does, from the first minute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.batch import first_frames
from geo4d_bench.model.generator import Generator
from geo4d_bench.model.video import Video4D


def true_video(window: Window) -> Video4D:
    """The window's own future, view m's points moved to camera n's frame."""
    points = np.stack([window.points[0, 1:], transform(window.T_n_m, window.points[1, 1:])])
    return Video4D(rgb=window.rgb[:, 1:], points=points, parts=window.parts[:, 1:], K=window.K, dt_s=window.dt_s)


def hand_error_cm(generator: Generator, windows: Sequence[Window]) -> float:
    """Mean over windows and frames of the distance between generated and true hand, both views' points together."""
    videos = generator.generate([first_frames(w) for w in windows], range(len(windows)))
    errors = [
        np.linalg.norm(hand_centres(video, _first_centre(w)) - hand_centres(true_video(w), None), axis=-1)
        for w, video in zip(windows, videos, strict=True)
    ]
    return 100.0 * float(np.nanmean(errors))


def copy_error_cm(windows: Sequence[Window]) -> float:
    """The same for the prediction that nothing moves: what a generator must beat."""
    errors = [np.linalg.norm(_first_centre(w) - hand_centres(true_video(w), None), axis=-1) for w in windows]
    return 100.0 * float(np.nanmean(errors))


def hand_centres(video: Video4D, start: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    """(T, 3) metres, camera n's frame: the median of the points on a hand in each frame.

    Where a frame shows no hand the last centre stands in, at first ``start`` (3,), or NaN where that is None.
    """
    last = np.full(3, np.nan) if start is None else np.asarray(start, dtype=np.float64)
    centres = []
    for t in range(video.parts.shape[1]):
        points = video.points[:, t][video.parts[:, t] > 0]
        points = points[np.isfinite(points).all(-1)]
        if len(points):
            centre = np.median(points, axis=0).astype(np.float64)
            last = last if start is None else centre
        else:
            centre = last
        centres.append(centre)
    return np.stack(centres)


def _first_centre(window: Window) -> npt.NDArray[np.float64]:
    """(3,) the hand's median in the first frames of both views, camera n's frame."""
    points = np.stack([window.points[0, 0], transform(window.T_n_m, window.points[1, 0])])
    on_hand = points[(window.parts[:, 0] > 0) & np.isfinite(points).all(-1)]
    if not len(on_hand):
        return np.asarray(window.T_n_ee[0, 0, :3, 3], dtype=np.float64)
    centre: npt.NDArray[np.float64] = np.median(on_hand, axis=0).astype(np.float64)
    return centre
