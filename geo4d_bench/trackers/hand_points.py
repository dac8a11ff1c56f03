"""From a frame of a 4D video to the points of one hand: labels, removal of flying pixels, finger distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.hand import LEFT_FINGER, RIGHT_FINGER, HandModel, part_label
from geo4d_bench.geometry.se3 import Array

NEIGHBOUR_RADIUS_M = 0.05
"""A hand is one connected surface: a point without neighbours this near is a flying pixel."""
MIN_NEIGHBOURS = 1
MAX_REACH_M = 0.2
"""No point of a hand lies further than this from the median of its points."""
MIN_FINGER_POINTS, MIN_SINGLE_FINGER_POINTS = 3, 2
OPENING_FLOOR_M, FINGER_SPREAD_M, HIDDEN_SIDE_M = 0.008, 0.01, 0.012
"""Standard deviations: of an opening read from many points, of one point about its finger's centre across the
finger, and of an opening read from one side of a finger."""


@dataclass(frozen=True)
class HandPoints:
    """The points of one hand in one frame, of both views, in camera n's frame.

    Attributes:
        points: (N, 3) float64 metres.  part: (N,) uint8, HAND, LEFT_FINGER or RIGHT_FINGER.
        view: (N,) uint8, 0 for n and 1 for m.
    """

    points: Array
    part: npt.NDArray[np.uint8]
    view: npt.NDArray[np.uint8]

    def displacement_from(self, earlier: HandPoints) -> Array | None:
        """(3,) how far the points have moved, by views that see the hand in both frames; None where none does.

        View by view, because a hand that leaves one view moves the centroid of both.
        """
        total, weight = np.zeros(3), 0.0
        for view in (0, 1):
            now, then = self.points[self.view == view], earlier.points[earlier.view == view]
            w = float(min(len(now), len(then)))
            if w >= MIN_FINGER_POINTS:
                total += w * (np.median(now, axis=0) - np.median(then, axis=0))
                weight += w
        return total / weight if weight else None


def hand_points(
    points_n: npt.NDArray[np.float32], parts: npt.NDArray[np.uint8], arm: int, clean: bool = True
) -> HandPoints:
    """Points of arm ``arm`` in pointmaps (2, H, W, 3) labelled by ``parts`` (2, H, W); NaN points are left out.

    With ``clean``, flying pixels (blends of hand and background at the hand's edges) are left out too.
    """
    part = parts.astype(np.int64) - part_label(arm, 0)
    chosen = (part >= 0) & (part <= RIGHT_FINGER) & np.isfinite(points_n).all(axis=-1)
    view = np.nonzero(chosen)[0].astype(np.uint8)
    hand = HandPoints(points_n[chosen].astype(np.float64), part[chosen].astype(np.uint8), view)
    if not clean or len(hand.points) == 0:
        return hand
    keep = _dense(hand.points)
    return HandPoints(hand.points[keep], hand.part[keep], hand.view[keep])


@dataclass(frozen=True)
class Opening:
    """What is known of the distance between the fingers: mean and standard deviation, metres."""

    mean_m: float
    sigma_m: float

    def with_measured(self, measured: Opening) -> Opening:
        """Both pieces of knowledge together, each weighed by its certainty."""
        a, b = self.sigma_m**-2, measured.sigma_m**-2
        return Opening((a * self.mean_m + b * measured.mean_m) / (a + b), (a + b) ** -0.5)


def finger_distance(hand: HandModel, seen: HandPoints, R_n_ee: Array) -> Opening | None:
    """The opening from the distance between the fingers' points along the finger axis; None where unseen.

    Each view's two fingers are seen from nearly the same side, so what the side hides of a finger's thickness
    cancels in their difference. It does not depend on where the hand is.
    """
    axis = R_n_ee @ hand.finger_axis
    closed = _mean_along(hand, LEFT_FINGER) - _mean_along(hand, RIGHT_FINGER)
    total, weight = 0.0, 0.0
    for view in (0, 1):
        left, right = (seen.points[(seen.view == view) & (seen.part == p)] for p in (LEFT_FINGER, RIGHT_FINGER))
        w = float(min(len(left), len(right)))
        if w >= MIN_FINGER_POINTS:
            total += w * float(np.median(left @ axis) - np.median(right @ axis) - closed)
            weight += w
    return _believable(hand, total / weight, 2 * FINGER_SPREAD_M**2 / weight) if weight else None


def single_fingers(hand: HandModel, seen: HandPoints, T_n_ee: Array) -> Opening | None:
    """The opening from how far out each finger's points lie in a known hand frame, where fingers are seen alone.

    Rougher than :func:`finger_distance`: the side that is hidden shifts a finger's centre, and the hand's own error
    goes in twice.
    """
    across = (seen.points - T_n_ee[:3, 3]) @ T_n_ee[:3, :3] @ hand.finger_axis
    total, weight = 0.0, 0.0
    for part, sign in ((LEFT_FINGER, 1.0), (RIGHT_FINGER, -1.0)):
        mine = across[seen.part == part]
        if len(mine) >= MIN_SINGLE_FINGER_POINTS:
            total += len(mine) * 2.0 * sign * (float(np.median(mine)) - _mean_along(hand, part))
            weight += len(mine)
    return _believable(hand, total / weight, HIDDEN_SIDE_M**2 + 4 * FINGER_SPREAD_M**2 / weight) if weight else None


def _believable(hand: HandModel, opening_m: float, variance: float) -> Opening | None:
    sigma = (OPENING_FLOOR_M**2 + variance) ** 0.5
    if not -3 * sigma <= opening_m <= hand.max_opening_m + 3 * sigma:
        return None
    return Opening(float(np.clip(opening_m, 0.0, hand.max_opening_m)), sigma)


def _mean_along(hand: HandModel, part: int) -> float:
    return float((hand.points[hand.part == part] @ hand.finger_axis).mean())


def _dense(points: Array) -> npt.NDArray[np.bool_]:
    from scipy.spatial import cKDTree

    near_median = np.linalg.norm(points - np.median(points, axis=0), axis=1) < MAX_REACH_M
    neighbours = cKDTree(points).query_ball_point(points, NEIGHBOUR_RADIUS_M, return_length=True) - 1
    dense: npt.NDArray[np.bool_] = near_median & (neighbours >= MIN_NEIGHBOURS)
    return dense
