"""The points of one hand in a frame of a 4D video: labels, removal of flying pixels, distance between the fingers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from geo4d_bench.geometry.hand import LEFT_FINGER, RIGHT_FINGER, HandModel, part_label
from geo4d_bench.geometry.se3 import Array

NEIGHBOUR_RADIUS_M = 0.05
"""A hand is one connected surface: a point without a neighbour this near is a flying pixel."""
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

        Of their means, which are less noisy than medians where there are few; view by view, because a hand that leaves
        one view moves the centroid of both.
        """
        pairs = ((self.points[self.view == v], earlier.points[earlier.view == v]) for v in (0, 1))
        moved, weight = _difference(np.mean, pairs)
        return moved if weight else None


def hand_points(points_n: npt.NDArray[np.float32], parts: npt.NDArray[np.uint8], arm: int) -> HandPoints:
    """Points of arm ``arm`` in pointmaps (2, H, W, 3) labelled by ``parts`` (2, H, W).

    NaN points and flying pixels (blends of hand and background at the hand's edges) are left out.
    """
    part = parts.astype(np.int64) - part_label(arm, 0)
    chosen = (part >= 0) & (part <= RIGHT_FINGER) & np.isfinite(points_n).all(axis=-1)
    view, points = np.nonzero(chosen)[0], points_n[chosen].astype(np.float64)
    keep = np.zeros(len(points), dtype=bool)
    if len(points):
        neighbours = cKDTree(points).query_ball_point(points, NEIGHBOUR_RADIUS_M, return_length=True)  # and itself
        off_median = np.linalg.norm(points - np.median(points, axis=0), axis=1)
        keep[:] = (neighbours > 1) & (off_median < MAX_REACH_M)
    return HandPoints(points[keep], part[chosen][keep].astype(np.uint8), view[keep].astype(np.uint8))


@dataclass(frozen=True)
class Opening:
    """An estimate of the distance between the fingers: mean and standard deviation, metres."""

    mean_m: float
    sigma_m: float

    def with_measured(self, measured: Opening | None) -> Opening:
        """Combined with an independent estimate, each weighted by its inverse variance."""
        if measured is None:
            return self
        a, b = self.sigma_m**-2, measured.sigma_m**-2
        return Opening((a * self.mean_m + b * measured.mean_m) / (a + b), (a + b) ** -0.5)


def finger_distance(hand: HandModel, seen: HandPoints, R_n_ee: Array) -> Opening | None:
    """The opening from the distance between the fingers' points along the finger axis; None where unseen.

    Each view's two fingers are seen from nearly the same side, so what the side hides of a finger's thickness
    cancels in their difference. It does not depend on where the hand is.
    """
    across = seen.points @ (R_n_ee @ hand.finger_axis)
    left, right = ([across[(seen.view == v) & (seen.part == p)] for v in (0, 1)] for p in (LEFT_FINGER, RIGHT_FINGER))
    distance, weight = _difference(np.median, zip(left, right, strict=True))
    if not weight:
        return None
    closed = _mean_along(hand, LEFT_FINGER) - _mean_along(hand, RIGHT_FINGER)
    return _plausible(hand, float(distance) - closed, 2 * FINGER_SPREAD_M**2 / weight)


def single_fingers(hand: HandModel, seen: HandPoints, T_n_ee: Array) -> Opening | None:
    """The opening from how far out each finger's points lie in a known hand frame, where fingers are seen alone.

    Rougher than :func:`finger_distance`: the side that is hidden shifts a finger's centre, and the hand's own error
    counts twice.
    """
    across = (seen.points - T_n_ee[:3, 3]) @ T_n_ee[:3, :3] @ hand.finger_axis
    total, weight = 0.0, 0
    for part, sign in ((LEFT_FINGER, 1.0), (RIGHT_FINGER, -1.0)):
        mine = across[seen.part == part]
        if len(mine) >= MIN_SINGLE_FINGER_POINTS:
            total += len(mine) * 2.0 * sign * (np.median(mine) - _mean_along(hand, part))
            weight += len(mine)
    return _plausible(hand, total / weight, HIDDEN_SIDE_M**2 + 4 * FINGER_SPREAD_M**2 / weight) if weight else None


def _difference(centre: Callable[..., Any], pairs: Iterable[tuple[Array, Array]]) -> tuple[Array, int]:
    """Mean difference of the centres of pairs of point sets, each weighted by its smaller set, and the weights' sum.

    Sets with fewer than MIN_FINGER_POINTS don't count; the sum is 0 where none is left.
    """
    enough = [(a, b) for a, b in pairs if min(len(a), len(b)) >= MIN_FINGER_POINTS]
    if not enough:
        return np.zeros(3), 0
    weights = [min(len(a), len(b)) for a, b in enough]
    differences = [centre(a, axis=0) - centre(b, axis=0) for a, b in enough]
    return np.asarray(np.average(differences, axis=0, weights=weights)), sum(weights)


def _plausible(hand: HandModel, opening_m: float, variance: float) -> Opening | None:
    sigma = (OPENING_FLOOR_M**2 + variance) ** 0.5
    if not -3 * sigma <= opening_m <= hand.max_opening_m + 3 * sigma:
        return None
    return Opening(float(np.clip(opening_m, 0.0, hand.max_opening_m)), sigma)


def _mean_along(hand: HandModel, part: int) -> float:
    return float((hand.points[hand.part == part] @ hand.finger_axis).mean())
