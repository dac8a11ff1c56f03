"""Fills the frames in which a hand was out of sight from both ends of the gap: a plan is tracked as a whole."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicHermiteSpline

from geo4d_bench.geometry.se3 import Array, interpolate_poses

MAX_GAP_SPEED_M = 0.08
"""Velocities at the ends of a gap are limited to this, in metres a frame."""


def bridge_poses(T: Array, lost: npt.NDArray[np.bool_]) -> None:
    """Replace the poses (N, 4, 4) of lost frames between two found ones, in place; frame 0 must be found.

    Positions follow the cubic with the hand's velocities before and after the gap (the mean velocity where a
    neighbouring frame is missing or lost); rotations are interpolated spherically.
    """
    for before, after in itertools.pairwise(np.flatnonzero(~lost)):
        if after - before < 2:
            continue
        ends, between = T[[before, after]], np.arange(before + 1, after)
        velocities = np.tile((ends[1, :3, 3] - ends[0, :3, 3]) / (after - before), (2, 1))
        for end, first in ((0, before - 1), (1, after)):  # frames ``first`` and the next one give the velocity
            if first >= 0 and first + 1 < len(T) and not lost[first : first + 2].any():
                step = T[first + 1, :3, 3] - T[first, :3, 3]
                velocities[end] = step * min(1.0, MAX_GAP_SPEED_M / max(float(np.linalg.norm(step)), 1e-9))
        T[between] = interpolate_poses([before, after], ends, between)
        T[between, :3, 3] = CubicHermiteSpline([before, after], ends[:, :3, 3], velocities)(between)


def place_opening_changes(opening_m: Array, measured: npt.NDArray[np.bool_], T: Array) -> None:
    """Fill the openings (N,) of frames where they were not measured, in place; frame 0 must be measured.

    Between two measured frames the opening changes where the hand moves least: hands grasp and let go at rest.
    Behind the last measured frame it stays what it was.
    """
    found = np.flatnonzero(measured)
    for before, after in itertools.pairwise(found):
        speed = np.linalg.norm(np.diff(T[before : after + 1, :3, 3], axis=0), axis=1)
        change = before + 1 + np.argmin(speed)
        opening_m[before + 1 : change] = opening_m[before]
        opening_m[change:after] = opening_m[after]
    opening_m[found[-1] + 1 :] = opening_m[found[-1]]
