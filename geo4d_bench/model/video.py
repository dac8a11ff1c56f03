"""What a generator reads and writes: the first RGB-D frames of two views, and the 4D video that follows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.se3 import Array


@dataclass(frozen=True)
class FirstFrames:
    """One RGB-D frame of views n (index 0, the reference) and m (index 1).

    Attributes:
        rgb: (2, H, W, 3) uint8.
        points: (2, H, W, 3) float32 metres, each view's in its own camera frame, NaN where depth is invalid.
        K: (2, 3, 3) float64.
        hand_mask: (H, W) bool, pixels of view n on a hand, from proprioception; None where it is not known.
        p_n_ee: (arms, 3) metres, where the end effectors are in camera n's frame, from proprioception. A place, no
            pose: it says nothing of how the camera is turned.
        opening_m: (arms,) metres between the fingers.
        T_world_cam: (2, 4, 4) poses of both cameras, which a generator of the setting ``geo4d_calibrated`` needs and
            others do not look at; None where they are not known.
    """

    rgb: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    K: Array
    hand_mask: npt.NDArray[np.bool_] | None
    p_n_ee: Array
    opening_m: Array
    T_world_cam: Array | None = None


@dataclass(frozen=True)
class Video4D:
    """T future frames of views n and m, as generated, or the true ones from an oracle.

    Attributes:
        rgb: (2, T, H, W, 3) uint8.
        points: (2, T, H, W, 3) float32 metres, BOTH views' in camera n's frame, NaN where invalid.
        parts: (2, T, H, W) uint8, 0 or ``geometry.hand.part_label(arm, part)``: where the hands are seen.
        K: (2, 3, 3) float64.
        dt_s: seconds between frames; frame 0 is dt_s after the first frames.
    """

    rgb: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    parts: npt.NDArray[np.uint8]
    K: Array
    dt_s: float
