"""Physical disturbances: an outside force on a body for a while, as if somebody bumped into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Push:
    """Drives a body towards a velocity with a limited force; nothing is ever placed anywhere.

    Attributes:
        name: the disturbance, as recorded.
        body: id of the pushed body.
        velocity_m_s: (vx, vy, vz) in the world.
        gain_n_s_m: force per missing velocity.  max_force_n: the most it pushes.
        at_height_m: the force's line of action above (below where negative) the body's centre of mass.
        steps: control steps still to go.
    """

    name: str
    body: int
    velocity_m_s: tuple[float, float, float]
    gain_n_s_m: float
    max_force_n: float
    at_height_m: float
    steps: int

    def apply(self, model: Any, data: Any) -> None:
        """Set ``xfrc_applied`` of the body for the next physics step (2 ms)."""
        import mujoco

        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, self.body, velocity, 0)
        force = self.gain_n_s_m * (np.array(self.velocity_m_s) - velocity[3:])
        force *= min(1.0, self.max_force_n / max(float(np.linalg.norm(force)), 1e-9))
        data.xfrc_applied[self.body, :3] = force
        data.xfrc_applied[self.body, 3:] = np.cross((0.0, 0.0, self.at_height_m), force)
