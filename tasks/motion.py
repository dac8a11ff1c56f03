"""Motion of a hand: a commanded pose that follows targets smoothly, and the rotations that hands are asked for."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.se3 import Array, pose

ACCELERATION_M_S2, ACCELERATION_RAD_S2 = 0.5, 3.0
DOWN = np.array([0.0, 0.0, -1.0])  # the approach of a hand from above


class SmoothPose:
    """A commanded end-effector pose that moves towards whatever target it is given.

    Args:
        T: (4, 4) pose to start from.  velocity: (3,) m/s it starts with.
        dt_s: seconds between commands.
    """

    def __init__(self, T: Array, velocity: Array, dt_s: float) -> None:
        self._p, self._v = T[:3, 3].copy(), np.array(velocity, dtype=np.float64)
        self._R, self._w = Rotation.from_matrix(T[:3, :3]), np.zeros(3)
        self._dt = dt_s

    def towards(self, T_target: Array, speed: float, angular_speed: float) -> Array:
        """The next commanded pose (4, 4); it brakes in time to stop at the target."""
        self._v = _steer(self._v, T_target[:3, 3] - self._p, speed, ACCELERATION_M_S2, self._dt)
        self._p = self._p + self._v * self._dt
        turn = (Rotation.from_matrix(T_target[:3, :3]) * self._R.inv()).as_rotvec()
        self._w = _steer(self._w, turn, angular_speed, ACCELERATION_RAD_S2, self._dt)
        self._R = Rotation.from_rotvec(self._w * self._dt) * self._R
        return pose(self._R.as_matrix(), self._p)

    def leash(self, p_reached: Array, length_m: float) -> None:
        """Keep the command within ``length_m`` of where the hand is, so that nothing winds up against an obstacle."""
        offset = self._p - p_reached
        distance = float(np.linalg.norm(offset))
        if distance > length_m:
            self._p = p_reached + offset * (length_m / distance)
            self._v = np.zeros(3)


def within(angle: float, period: float) -> float:
    """The equivalent angle in [-period / 2, period / 2), for what looks the same after ``period`` radians."""
    return float((angle + period / 2) % period - period / 2)


def turn_z(yaw: float) -> Array:
    """(3, 3) turn about the world's vertical, radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def hand_rotation(pitch_rad: float, yaw_rad: float = 0.0) -> Array:
    """(3, 3) of the grip site: approach ``pitch_rad`` below the horizontal, fingers' axis (x) horizontal.

    At yaw 0 the approach is in the plane of the world's x and z, and the fingers' axis is the world's y; a hand that
    points straight down has pitch pi / 2.
    """
    c, s = np.cos(pitch_rad), np.sin(pitch_rad)
    z, x = np.array([c, 0.0, -s]), np.array([0.0, 1.0, 0.0])
    pitched: Array = np.stack([x, np.cross(z, x), z], axis=1)
    return turn_z(yaw_rad) @ pitched


def _steer(velocity: Array, remaining: Array, speed: float, acceleration: float, dt: float) -> Array:
    """The next velocity (3,) towards a point ``remaining`` (3,) away: trapezoidal along the way, never too abrupt."""
    distance = float(np.linalg.norm(remaining))
    if distance < 1e-9:
        wanted = np.zeros(3)
    else:
        # Discrete braking: the speed from which equal steps of deceleration end at the target.
        brake = acceleration * dt * (np.sqrt(0.25 + 2.0 * distance / (acceleration * dt * dt)) - 0.5)
        wanted = remaining / distance * min(speed, brake, distance / dt)
    change = wanted - velocity
    return velocity + change * min(1.0, acceleration * dt / max(float(np.linalg.norm(change)), 1e-12))
