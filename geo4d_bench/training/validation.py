"""The number to watch while training: how far the generated hand is from the true one, in centimetres.

PSNR and whole-image errors hardly tell a learning model from a useless one; this does, from the first minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.hand import HAND, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import Array, transform
from geo4d_bench.model.base import Generator
from geo4d_bench.model.batch import first_frames, true_video
from geo4d_bench.model.types import Video4D


def hand_error_cm(generator: Generator[Any], windows: Sequence[Window]) -> float:
    """Mean over windows, hands and frames of the distance between generated and true hand, both views' points
    together; frames that truly show nothing of a hand are left out. Of a generator that makes no video, the distance
    between predicted and true end effector; NaN of one that knows no places."""
    if generator.config.rgb_only:
        return math.nan
    if not generator.config.generates_video:
        hands = generator.predict_trajectory([first_frames(w) for w in windows])
        return _mean_cm([(h.T_n_ee - w.T_n_ee[:, 1:])[..., :3, 3] for h, w in zip(hands, windows, strict=True)])
    videos = generator.generate([first_frames(w) for w in windows], range(len(windows)))
    return _mean_cm([_centres(video, w) - _true_centres(w) for w, video in zip(windows, videos, strict=True)])


def copy_error_cm(windows: Sequence[Window]) -> float:
    """The same for the prediction that nothing moves: what a generator must beat."""
    return _mean_cm([_first_centres(w)[:, None] - _true_centres(w) for w in windows])


def hand_centres(video: Video4D, arm: int, start: Array | None) -> Array:
    """(T, 3) metres, camera n's frame: the median of the points on one arm's hand in each frame.

    Where a frame shows no such hand the last centre stands in, at first ``start`` (3,), or NaN where that is None.
    """
    last = np.full(3, np.nan) if start is None else np.asarray(start, dtype=np.float64)
    centres = []
    for t in range(video.parts.shape[1]):
        centre = _median(video.points[:, t], video.parts[:, t], arm)
        if centre is None:
            centre = last
        elif start is not None:
            last = centre
        centres.append(centre)
    return np.stack(centres)


def _centres(video: Video4D, window: Window) -> Array:
    """(arms, T, 3) of a video that goes on from the window's first frames."""
    return np.stack([hand_centres(video, arm, first) for arm, first in enumerate(_first_centres(window))])


def _true_centres(window: Window) -> Array:
    """(arms, T, 3), NaN where a frame shows nothing of a hand."""
    return np.stack([hand_centres(true_video(window), arm, None) for arm in range(len(window.T_n_ee))])


def _first_centres(window: Window) -> Array:
    """(arms, 3) each hand's median in the first frames of both views, camera n's frame; where nothing of a hand is
    seen, its end effector."""
    points = np.stack([window.points[0, 0], transform(window.T_n_m, window.points[1, 0])])
    centres = []
    for arm, T_n_ee in enumerate(window.T_n_ee[:, 0]):
        centre = _median(points, window.parts[:, 0], arm)
        centres.append(T_n_ee[:3, 3] if centre is None else centre)
    return np.stack(centres)


def _median(points: npt.NDArray[np.float32], parts: npt.NDArray[np.uint8], arm: int) -> Array | None:
    """(3,) of the valid points (..., 3) that ``parts`` (...) gives to an arm's hand; None where there are none."""
    first = part_label(arm, HAND)
    on_hand = points[(parts >= first) & (parts <= part_label(arm, RIGHT_FINGER)) & np.isfinite(points).all(-1)]
    return np.median(on_hand, axis=0).astype(np.float64) if len(on_hand) else None


def _mean_cm(differences: Sequence[Array]) -> float:
    return 100.0 * float(np.nanmean([np.linalg.norm(d, axis=-1) for d in differences]))
