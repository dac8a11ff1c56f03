"""A parallel-jaw hand as a surface point cloud in the end-effector's frame, for trackers and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from geo4d_bench.geometry.camera import project
from geo4d_bench.geometry.se3 import Array, inverse, transform

HAND, LEFT_FINGER, RIGHT_FINGER = 0, 1, 2
PART_NAMES = ("hand", "finger_left", "finger_right")
NO_PART = 0
_OPENING_SIGN = np.array([0.0, 1.0, -1.0])  # by part
_SCALE_RANGE, _SCALE_WIDTH, _SCALE_PIXELS = 0.25, 0.06, 6  # of a scale's logarithm; pixels that agree on one
_SCALE_BEYOND = 0.3  # weight of a pixel against a scale that puts it behind the hand
_SCALE_SURE = 0.3  # share of a hand's pixels that have to agree


def part_label(arm: int, part: int) -> int:
    """The label in part images of a part (HAND, LEFT_FINGER, RIGHT_FINGER) of the arm with that index; 0 is none."""
    return 1 + 3 * arm + part


@dataclass(frozen=True)
class HandModel:
    """Surface samples of a hand and its two fingers.

    Attributes:
        points: (P, 3) float64 metres, end-effector frame, fingers closed (opening 0).
        normals: (P, 3) float64 outward unit normals.
        part: (P,) uint8, one of HAND, LEFT_FINGER, RIGHT_FINGER.
        finger_axis: (3,) unit vector along which the left finger moves when the hand opens; the right one
            moves the other way. At opening o metres each finger has moved by o / 2.
        max_opening_m: the opening of the open hand.
    """

    points: Array
    normals: Array
    part: npt.NDArray[np.uint8]
    finger_axis: Array
    max_opening_m: float

    @property
    def opening_sign(self) -> Array:
        """(P,) the direction along ``finger_axis`` in which each point moves when the hand opens: 1, -1, or 0."""
        return _OPENING_SIGN[self.part]

    def at_opening(self, opening_m: float) -> Array:
        """(P, 3) points in the end-effector's frame with the fingers ``opening_m`` apart."""
        return self.points + 0.5 * opening_m * self.opening_sign[:, None] * self.finger_axis

    def nearest_part(
        self,
        points: npt.NDArray[np.floating[Any]],
        T_a_ee: npt.ArrayLike,
        opening_m: float,
        tolerance_m: float = 0.012,
    ) -> npt.NDArray[np.int8]:
        """The part on whose surface a point (..., 3) of frame a lies; -1 where none within ``tolerance_m``."""
        flat = points.reshape(-1, 3)
        T_a_ee = np.asarray(T_a_ee, dtype=np.float64)
        reach = np.linalg.norm(self.points, axis=1).max() + 0.5 * opening_m + tolerance_m + 0.001  # and float32's error
        from_ee = flat - T_a_ee[:3, 3].astype(flat.dtype)
        near = np.flatnonzero(np.einsum("ij,ij->i", from_ee, from_ee) <= reach**2)  # NaN compares false
        p_ee = transform(inverse(T_a_ee), flat[near].astype(np.float64))
        part, nearest = np.full(len(flat), -1, dtype=np.int8), np.full(len(near), np.inf)
        for each, sign, tree in self._trees:
            p_part = p_ee - 0.5 * opening_m * sign * self.finger_axis  # where the part is when the hand is closed
            distance, _ = tree.query(p_part, distance_upper_bound=tolerance_m)
            part[near[distance < nearest]] = each
            nearest = np.minimum(nearest, distance)
        return part.reshape(points.shape[:-1])

    @cached_property
    def _trees(self) -> list[tuple[int, float, Any]]:
        """Each part, its opening sign, and its points when closed."""
        return [(p, _OPENING_SIGN[p], cKDTree(self.points[self.part == p])) for p in np.unique(self.part)]


Hand = tuple[HandModel, Array, float]
"""A hand in some frame: its model, T_a_ee (4, 4) and the metres between its fingers."""


def hand_mask(points: npt.NDArray[np.floating[Any]], hands: Sequence[Hand]) -> npt.NDArray[np.bool_]:
    """Which points (..., 3) of a pointmap in frame a lie on one of the hands, from proprioception alone."""
    mask = np.zeros(points.shape[:-1], dtype=bool)
    for hand, T_a_ee, opening_m in hands:
        mask |= hand.nearest_part(points, T_a_ee, opening_m) >= 0
    return mask


def scale_to_hands(
    depth: npt.NDArray[np.floating[Any]],
    K: npt.ArrayLike,
    hands: Sequence[Hand],
) -> float:
    """The factor that takes depth of unknown scale to metres, from hands whose place is known.

    Where a hand should be seen, its true distance is known. The factor is one on which many of those pixels agree
    within 6 %; what is nearer may hide the hand, but what would lie behind it could not be seen. If fewer than 30 %
    agree, the factor is moved towards 1 in proportion.

    Args:
        depth: (H, W) along z, NaN where invalid.  K: (3, 3).
        hands: model, T_cam_ee (4, 4) and opening in metres of each; one at least.

    Returns:
        About 0.78 to 1.36; 1 where fewer than six pixels agree on a factor in this range.
    """
    nearest = np.full(depth.shape, np.inf)  # distance along z of the hands' surface, inf where there is none
    for hand, T_cam_ee, opening_m in hands:
        points = transform(T_cam_ee, hand.at_opening(opening_m))
        normals = hand.normals @ T_cam_ee[:3, :3].T
        points = points[((points * normals).sum(-1) < 0) & (points[:, 2] > 0.05)]  # what faces the camera
        pixel = np.rint(project(points, np.asarray(K, dtype=np.float64))).astype(np.int64)
        inside = ((pixel >= 0) & (pixel < depth.shape[::-1])).all(axis=1)
        column, row = pixel[inside].T
        np.minimum.at(nearest, (row, column), points[inside, 2])
    ratio = nearest / depth
    log = np.sort(np.log(ratio[(depth > 0) & np.isfinite(ratio)]))  # NaN compares false
    before = np.arange(len(log))
    agree = np.searchsorted(log, log + _SCALE_WIDTH, side="right") - before
    possible = np.flatnonzero((np.abs(log) < _SCALE_RANGE) & (agree >= _SCALE_PIXELS))
    if len(possible) == 0:
        return 1.0
    first = possible[np.argmax((agree - _SCALE_BEYOND * before)[possible])]
    sure = min(1.0, agree[first] / len(log) / _SCALE_SURE)
    return float(np.exp(sure * np.median(log[first : first + agree[first]])))


def part_image(seg: npt.NDArray[np.uint8], seg_names: Sequence[str], arms: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Parts (..., H, W) uint8, 0 or ``part_label(arm index, part)``, from labels (..., H, W) that index ``seg_names``.

    Parts are the labels ``hand/<arm>``, ``finger_left/<arm>``, ``finger_right/<arm>``; an arm without them gives none.
    """
    parts = {f"{n}/{arm}": part_label(i, part) for i, arm in enumerate(arms) for part, n in enumerate(PART_NAMES)}
    table = np.zeros(256, dtype=np.uint8)
    table[: len(seg_names)] = [parts.get(name, NO_PART) for name in seg_names]
    return table[seg]
