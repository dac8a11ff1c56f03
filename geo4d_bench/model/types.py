"""What a generator reads and writes: the first RGB-D frames of several views, and the 4D video that follows them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.se3 import Array


@dataclass(frozen=True)
class FirstFrames:
    """One RGB-D frame of V views: n (index 0, the reference) and m (index 1), or several such.

    Attributes:
        rgb: (V, H, W, 3) uint8.
        points: (V, H, W, 3) float32 metres, each view's in its own camera frame, NaN where depth is invalid.
        K: (V, 3, 3) float64.
        hand_mask: (H, W) bool, pixels of view n on a hand, from proprioception; None where it is not known.
        p_n_ee: (arms, 3) metres, where the end effectors are in camera n's frame, from proprioception. A place, no
            pose: it says nothing of how the camera is turned.
        opening_m: (arms,) metres between the fingers.
        T_world_cam: (V, 4, 4) poses of the cameras, which a calibrated generator needs and others do not look at;
            None where they are not known.
    """

    rgb: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    K: Array
    hand_mask: npt.NDArray[np.bool_] | None
    p_n_ee: Array
    opening_m: Array
    T_world_cam: Array | None = None

    def with_view_m_of(self, other: FirstFrames) -> FirstFrames:
        """These views and, after them, view m of another pair with the same view n at the same time."""
        poses = (self.T_world_cam, other.T_world_cam)
        return replace(
            self,
            rgb=np.concatenate([self.rgb, other.rgb[1:2]]),
            points=np.concatenate([self.points, other.points[1:2]]),
            K=np.concatenate([self.K, other.K[1:2]]),
            T_world_cam=None if poses[0] is None or poses[1] is None else np.concatenate([poses[0], poses[1][1:2]]),
        )


@dataclass(frozen=True)
class Video4D:
    """T future frames of views n and m (or several such), as generated, or the true ones from an oracle.

    Attributes:
        rgb: (V, T, H, W, 3) uint8.
        points: (V, T, H, W, 3) float32 metres, ALL views' in camera n's frame, NaN where invalid.
        parts: (V, T, H, W) uint8, 0 or ``geometry.hand.part_label(arm, part)``: where the hands are seen.
        K: (V, 3, 3) float64.
        dt_s: seconds between frames; frame 0 is dt_s after the first frames.
        opening_m: (arms, T) float64 metres between the fingers, where the labels themselves show it (see
            :mod:`geo4d_bench.model.video.labels`), NaN in frames without a hand; None where fingers alone tell.
        first_points: (V, H, W, 3) float32 metres, what the views saw dt_s before frame 0, each in its OWN camera frame,
            NaN where invalid; None where it is not known.
        T_n_m: (4, 4) view m's pose in camera n's frame, where it is known; None where a tracker has to find it.
    """

    rgb: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    parts: npt.NDArray[np.uint8]
    K: Array
    dt_s: float
    opening_m: Array | None = None
    first_points: npt.NDArray[np.float32] | None = None
    T_n_m: Array | None = None

    def pair(self, view: int) -> Video4D:
        """View n and another view as a video of two."""
        both = [0, view]
        first = None if self.first_points is None else self.first_points[both]
        return replace(
            self,
            rgb=self.rgb[both],
            points=self.points[both],
            parts=self.parts[both],
            K=self.K[both],
            first_points=first,
        )

    def relabelled(self, parts: npt.NDArray[np.uint8]) -> Video4D:
        """With other labels, whose fingers alone tell how far a hand is open."""
        return replace(self, parts=parts, opening_m=None)


@dataclass(frozen=True)
class EETrajectory:
    """Where the hands will be in T future frames.

    Attributes:
        T_n_ee: (arms, T, 4, 4) float64, camera n's frame.  opening_m: (arms, T) metres between the fingers.
    """

    T_n_ee: Array
    opening_m: Array
