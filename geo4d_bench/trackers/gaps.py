"""What a hand did while it was out of sight, from how it went and how it came back.

A plan is tracked as a whole, so what happens behind something can be told from both ends of the gap.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.se3 import Array, interpolate_poses

MAX_GAP_SPEED_M = 0.08
"""Velocities at the ends of a gap are taken to be at most this, in metres a frame."""


def bridge_poses(T: Array, lost: npt.NDArray[np.bool_]) -> None:
    """Replace the poses (N, 4, 4) of lost frames between two found ones, in place; frame 0 must be found.

    Positions follow the cubic that leaves with the velocity that the hand had and arrives with the one that it has
    afterwards: a hand that goes in and comes out again has been further in meanwhile. Rotations go the short way.
    """
    found = np.flatnonzero(~lost).tolist()
    for before, after in itertools.pairwise(found):
        between = np.arange(before + 1, after)
        if len(between) == 0:
            continue
        span = float(after - before)
        leaving = _velocity(T, lost, before - 1, before)
        arriving = _velocity(T, lost, after, after + 1)
        chord = (T[after, :3, 3] - T[before, :3, 3]) / span
        leaving = chord if leaving is None else leaving
        arriving = chord if arriving is None else arriving
        T[between] = interpolate_poses([before, after], T[[before, after]], between)
        s = ((between - before) / span)[:, None]
        T[between, :3, 3] = (
            (2 * s**3 - 3 * s**2 + 1) * T[before, :3, 3]
            + (s**3 - 2 * s**2 + s) * span * leaving
            + (-2 * s**3 + 3 * s**2) * T[after, :3, 3]
            + (s**3 - s**2) * span * arriving
        )


def place_opening_changes(opening_m: Array, measured: npt.NDArray[np.bool_], T: Array) -> None:
    """Fill the openings (N,) of frames where they were not measured, in place; frame 0 must be measured.

    Between two measured frames the change is put where the hand stands stillest: hands grasp and let go at rest.
    Behind the last measured frame the opening stays what it was.
    """
    found = np.flatnonzero(measured)
    for before, after in itertools.pairwise(found):
        if after - before < 2:
            continue
        speed = np.linalg.norm(np.diff(T[before : after + 1, :3, 3], axis=0), axis=1)
        change = before + 1 + int(np.argmin(speed))
        opening_m[before + 1 : change] = opening_m[before]
        opening_m[change:after] = opening_m[after]
    opening_m[found[-1] + 1 :] = opening_m[found[-1]]


def _velocity(T: Array, lost: npt.NDArray[np.bool_], first: int, second: int) -> Array | None:
    """(3,) metres a frame between two frames that exist and were found, limited; None elsewhere."""
    if first < 0 or second >= len(T) or lost[first] or lost[second]:
        return None
    velocity: Array = T[second, :3, 3] - T[first, :3, 3]
    return velocity * min(1.0, MAX_GAP_SPEED_M / max(float(np.linalg.norm(velocity)), 1e-9))
