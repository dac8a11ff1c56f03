"""The number to watch while training: how far the generated hand is from the true one, in centimetres.

PSNR and whole-image errors hardly distinguish a learning model from a useless one; this does, from the first minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.hand import HAND, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import Array, to_camera_n
from geo4d_bench.model.base import Generator
from geo4d_bench.model.batch import frames_of_window, true_video
from geo4d_bench.model.types import Video4D


def hand_error_cm(generator: Generator[Any], windows: Sequence[Window]) -> float:
    """Mean over windows, hands and frames of the distance between generated and true hand, both views' points
    together; frames that truly show nothing of a hand are left out. Of a generator that makes no video, the distance
    between predicted and true end effector; NaN of one of RGB alone."""
    if generator.config.rgb_only:
        return math.nan
    first = [frames_of_window(w) for w in windows]
    if not generator.config.generates_video:
        hands = generator.predict_trajectory(first)
        return _mean_cm([(h.T_n_ee - w.T_n_ee[:, 1:])[..., :3, 3] for h, w in zip(hands, windows, strict=True)])
    off = []
    for video, w in zip(generator.generate(first, range(len(windows))), windows, strict=True):
        centres = [hand_centres(video, arm, start) for arm, start in enumerate(_first_centres(w))]
        off.append(np.stack(centres) - _true_centres(w))
    return _mean_cm(off)


def copy_error_cm(windows: Sequence[Window]) -> float:
    """The same for the prediction that nothing moves: what a generator must beat."""
    return _mean_cm([_first_centres(w)[:, None] - _true_centres(w) for w in windows])


def hand_centres(video: Video4D, arm: int, start: Array | None) -> Array:
    """(T, 3) metres, camera n's frame: the median of the points on one arm's hand in each frame.

    Where a frame shows no such hand it is the last centre, at first ``start`` (3,); NaN where ``start`` is None.
    """
    centres = np.stack([_median(video.points[:, t], video.parts[:, t], arm) for t in range(video.parts.shape[1])])
    return centres if start is None else pd.DataFrame(np.vstack([start, centres])).ffill().to_numpy()[1:]


def _true_centres(window: Window) -> Array:
    """(arms, T, 3), NaN where a frame shows nothing of a hand."""
    return np.stack([hand_centres(true_video(window), arm, None) for arm in range(len(window.T_n_ee))])


def _first_centres(window: Window) -> Array:
    """(arms, 3) each hand's median in the first frames of both views, camera n's frame; where nothing of a hand is
    seen, its end effector."""
    points = to_camera_n(window.points[:, 0], window.T_n_m)
    centres = np.stack([_median(points, window.parts[:, 0], arm) for arm in range(len(window.T_n_ee))])
    return np.where(np.isnan(centres), window.T_n_ee[:, 0, :3, 3], centres)


def _median(points: npt.NDArray[np.float32], parts: npt.NDArray[np.uint8], arm: int) -> Array:
    """(3,) of the valid points (..., 3) that ``parts`` (...) gives to an arm's hand; NaN where there are none."""
    first, last = part_label(arm, HAND), part_label(arm, RIGHT_FINGER)
    on_hand = points[(parts >= first) & (parts <= last) & np.isfinite(points).all(-1)]
    return np.median(on_hand, axis=0).astype(np.float64) if len(on_hand) else np.full(3, np.nan)


def _mean_cm(differences: Sequence[Array]) -> float:
    return 100.0 * float(np.nanmean([np.linalg.norm(d, axis=-1) for d in differences]))
