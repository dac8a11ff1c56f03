"""robosuite's operational space controller for absolute poses in the world, without its Python overhead.

The law and the numerics are robosuite's (``OSC_POSE``, fixed impedance, position and rotation uncoupled, posture
in the null space; a test compares the torques), except where a joint's torque saturates. Reading MuJoCo directly makes
a control step three times as fast.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.se3 import Array

POSTURE_KP = 10.0
POSTURE_KD = 2.0 * float(np.sqrt(POSTURE_KP))


class WorldFrameOSC:
    """Torques that drive a site to an absolute pose.

    Args:
        model, data: MuJoCo's own.
        site: id of the controlled site.
        dofs, qpos: indices of the arm's joints in velocities and positions.
        posture: (7,) joints that the null space is pulled to.
        limit: (7,) largest torque of each joint, N m.
        kp: stiffness over apparent inertia, 1/s^2, for translation and rotation; damping is critical.
    """

    def __init__(
        self, model: Any, data: Any, site: int, dofs: Array, qpos: Array, posture: Array, limit: Array, kp: float
    ) -> None:
        self._model, self._data, self._site = model, data, site
        self._dofs, self._qpos, self._posture, self._limit = dofs, qpos, posture, limit
        self._kp, self._kd = kp, 2.0 * np.sqrt(kp)
        self._block = np.ix_(dofs, dofs)
        self._jac = np.zeros((6, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        self.hold()

    def hold(self) -> None:
        """Make the present pose the goal."""
        self.goal_pos = self._data.site_xpos[self._site].copy()
        self.goal_ori = self._data.site_xmat[self._site].reshape(3, 3).copy()

    def set_goal(self, target: Array) -> None:
        """The goal from position (3,) and rotation vector (3,) in the world."""
        self.goal_pos, self.goal_ori = target[:3].copy(), Rotation.from_rotvec(target[3:6]).as_matrix()

    def torques(self) -> Array:
        """(7,) joint torques for the present state, which must be up to date (``mj_step1``)."""
        model, data, dofs = self._model, self._data, self._dofs
        mujoco.mj_jacSite(model, data, self._jac[:3], self._jac[3:], self._site)
        mujoco.mj_fullM(model, self._mass, data.qM)
        jacobian, mass = self._jac[:, dofs], self._mass[self._block]
        qvel = data.qvel[dofs]
        twist = jacobian @ qvel
        current = data.site_xmat[self._site].reshape(3, 3)
        error_pos = self.goal_pos - data.site_xpos[self._site]
        # Half the sum of crossed axes = the skew part of R_goal R_current^T: robosuite's orientation_error.
        skew = self.goal_ori @ current.T
        error_ori = 0.5 * np.array([skew[2, 1] - skew[1, 2], skew[0, 2] - skew[2, 0], skew[1, 0] - skew[0, 1]])
        mass_inv = np.linalg.inv(mass)
        jacobian_mass_inv = jacobian @ mass_inv
        mobility = jacobian_mass_inv @ jacobian.T  # (6, 6) inverse inertia as felt at the site
        force = np.linalg.solve(mobility[:3, :3], self._kp * error_pos - self._kd * twist[:3])
        torque = np.linalg.solve(mobility[3:, 3:], self._kp * error_ori - self._kd * twist[3:])
        posture = mass @ (POSTURE_KP * (self._posture - data.qpos[self._qpos]) - POSTURE_KD * qvel)
        felt = np.linalg.solve(mobility, jacobian_mass_inv @ posture)  # what the posture would do to the site
        wrench = np.concatenate([force, torque]) - felt
        return _within(jacobian.T @ wrench + posture, data.qfrc_bias[dofs], self._limit)


def _within(task: Array, bias: Array, limit: Array) -> Array:
    """``task + bias`` with the task's part scaled down as a whole where a joint would exceed its limit.

    robosuite clips joint by joint: once joint 6 saturates (12 N m, a firm push on the hand is enough) the other
    joints go on alone, and the hand turns over instead of giving way.
    """
    room = np.where(task > 0, limit - bias, limit + bias)
    scale = float(np.min(room / np.maximum(np.abs(task), 1e-9)))
    return np.clip(task * min(1.0, max(scale, 0.0)) + bias, -limit, limit)
