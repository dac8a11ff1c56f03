"""A parallel-jaw hand as a surface point cloud in the end-effector's frame: what trackers register and masks test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.camera import project
from geo4d_bench.geometry.se3 import Array, inverse, transform

HAND, LEFT_FINGER, RIGHT_FINGER = 0, 1, 2
PART_NAMES = ("hand", "finger_left", "finger_right")
NO_PART = 0
_SCALE_RANGE, _SCALE_WIDTH, _SCALE_PIXELS = 0.25, 0.06, 6  # of a scale's logarithm; pixels that agree on one
_SCALE_BEYOND = 0.3  # what a pixel counts against a scale that puts it behind the hand
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

    def at_opening(self, opening_m: float) -> Array:
        """(P, 3) points in the end-effector's frame with the fingers ``opening_m`` apart."""
        sign = np.where(self.part == LEFT_FINGER, 1.0, np.where(self.part == RIGHT_FINGER, -1.0, 0.0))
        return self.points + 0.5 * opening_m * sign[:, None] * self.finger_axis

    def visible_mask(
        self,
        points_world: npt.NDArray[np.floating[Any]],
        T_world_ee: npt.ArrayLike,
        opening_m: float,
        tolerance_m: float = 0.012,
    ) -> npt.NDArray[np.bool_]:
        """Which points (..., 3) of a pointmap lie on the hand, from proprioception alone.

        A point counts when it is within ``tolerance_m`` of a surface sample; NaN points never count.
        """
        flat = points_world.reshape(-1, 3)
        mask = np.zeros(len(flat), dtype=bool)
        T_world_ee = np.asarray(T_world_ee, dtype=np.float64)
        reach = np.linalg.norm(self.points, axis=1).max() + 0.5 * opening_m + tolerance_m + 0.001  # and float32's error
        from_ee = flat - T_world_ee[:3, 3].astype(flat.dtype)
        near = np.flatnonzero(np.einsum("ij,ij->i", from_ee, from_ee) <= reach**2)  # NaN compares false
        p_ee = transform(inverse(T_world_ee), flat[near].astype(np.float64))
        for sign, tree in self._trees:
            p_part = p_ee - 0.5 * opening_m * sign * self.finger_axis  # where the part is when the hand is closed
            distance, _ = tree.query(p_part, distance_upper_bound=tolerance_m)
            mask[near[np.isfinite(distance)]] = True
        return mask.reshape(points_world.shape[:-1])

    @cached_property
    def _trees(self) -> list[tuple[float, Any]]:
        """Of each part: the direction in which it opens along ``finger_axis``, and its points when closed."""
        from scipy.spatial import cKDTree

        parts = ((0.0, HAND), (1.0, LEFT_FINGER), (-1.0, RIGHT_FINGER))
        return [(sign, cKDTree(self.points[self.part == part])) for sign, part in parts if (self.part == part).any()]


def scale_to_hands(
    depth: npt.NDArray[np.floating[Any]],
    K: npt.ArrayLike,
    hands: Sequence[tuple[HandModel, Array, float]],
) -> float:
    """The factor that takes depth of unknown scale to metres, from hands whose place is known.

    Where a hand should be seen, its true distance is known. The factor is one on which many of those pixels agree
    within 6 %; what is nearer may hide the hand, but what would lie behind it could not be seen. If fewer than 30 %
    agree, the factor is taken in part, the less the fewer they are.

    Args:
        depth: (H, W) along z, NaN where invalid.  K: (3, 3).
        hands: model, T_cam_ee (4, 4) and opening in metres of each; one at least.

    Returns:
        About 0.78 to 1.36; 1 where fewer than six pixels agree on a factor in this range.
    """
    ratio = _distance(depth.shape, np.asarray(K, dtype=np.float64), hands) / depth
    log = np.sort(np.log(ratio[(depth > 0) & np.isfinite(ratio)]))  # NaN compares false
    before = np.arange(len(log))
    agree = np.searchsorted(log, log + _SCALE_WIDTH, side="right") - before
    possible = np.flatnonzero((np.abs(log) < _SCALE_RANGE) & (agree >= _SCALE_PIXELS))
    if len(possible) == 0:
        return 1.0
    first = possible[np.argmax((agree - _SCALE_BEYOND * before)[possible])]
    sure = min(1.0, agree[first] / len(log) / _SCALE_SURE)
    return float(np.exp(sure * np.median(log[first : first + agree[first]])))


def _distance(shape: tuple[int, ...], K: Array, hands: Sequence[tuple[HandModel, Array, float]]) -> Array:
    """(H, W) along z, of the hands' surface in the pixels in which their models lie; inf elsewhere."""
    height, width = shape
    nearest = np.full(shape, np.inf)
    for hand, T_cam_ee, opening_m in hands:
        points = transform(T_cam_ee, hand.at_opening(opening_m))
        normals = hand.normals @ T_cam_ee[:3, :3].T
        points = points[((points * normals).sum(-1) < 0) & (points[:, 2] > 0.05)]  # what faces the camera
        column, row = np.rint(project(points, K)).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        np.minimum.at(nearest, (row[inside], column[inside]), points[inside, 2])
    return nearest


def part_image(seg: npt.NDArray[np.uint8], seg_names: Sequence[str], arms: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Parts (..., H, W) uint8, 0 or ``part_label(arm index, part)``, from labels (..., H, W) that index ``seg_names``.

    Parts are the labels ``hand/<arm>``, ``finger_left/<arm>``, ``finger_right/<arm>``; an arm without them gives none.
    """
    table = np.zeros(256, dtype=np.uint8)
    for index, arm in enumerate(arms):
        for part, name in enumerate(PART_NAMES):
            if f"{name}/{arm}" in seg_names:
                table[list(seg_names).index(f"{name}/{arm}")] = part_label(index, part)
    return table[seg]
