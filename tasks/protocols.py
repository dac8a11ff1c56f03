"""Camera protocols of other benchmarks as rigs to play from (``rollout --views``): their sources and their numbers.

What differs from the sources is said in docs/rigs.md: two cameras are moved where they have one or three, about the
task's workspace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from geo4d_bench.geometry.rig import Perturbation

LEVELS = 5


@dataclass(frozen=True)
class Protocol:
    """A published protocol.

    Attributes:
        source: where its numbers stand, at a commit.
        base: the cameras that are moved: ``trained``, the seen ones of hemisphere16, of which an episode has the pair
            that it has with ``--views seen``; or ``front``, the pair of ``orbit`` on both sides of the azimuth that
            faces the robot, where these benchmarks' camera stands.
        perturbation: its numbers.
    """

    source: str
    base: Literal["trained", "front"]
    perturbation: Perturbation


# Of 1,599 tasks with a moved camera, 992 differ in its direction (549 of them raised), 313 in its distance and 294 in
# its orientation. Their own levels rank tasks by how well four models did, and each spans nearly all sizes; here a
# level is a size, a fifth of the way each, and level 5 is all of theirs.
_LIBERO_PLUS = Protocol(
    "https://github.com/sylvestf/LIBERO-plus/blob/4976dc30028e805ff8094b55501d532c48fec182/libero/libero/benchmark/"
    "task_classification.json",
    "front",
    Perturbation(
        azimuth_deg=75.0, elevation_deg=15.0, distance=2.0, angles_deg=(10.0, 10.0, 0.0), shares=(992, 313, 294)
    ),
)
_VISTA = (
    "https://github.com/s-tian/VISTA/blob/82ed7055702af35cceffe0ae850d81e7f290cb2b/vipl/vipl/utils/"
    "camera_pose_sampler.py"
)
PROTOCOLS: dict[str, Protocol] = {
    **{
        f"libero_plus_{level}": replace(_LIBERO_PLUS, perturbation=_LIBERO_PLUS.perturbation.scaled(level / LEVELS))
        for level in range(1, LEVELS + 1)
    },
    "vista_small": Protocol(
        _VISTA, "trained", Perturbation(position_m=0.03, turn_deg=float(np.degrees(0.075)), normal=True)
    ),
    "vista_arc90": Protocol(_VISTA, "front", Perturbation(azimuth_deg=45.0, radius_m=0.05)),
    "colosseum": Protocol(
        "https://github.com/robot-colosseum/robot-colosseum/blob/098a910ae1d490524adb49b8d50735b00a1a62de/colosseum/"
        "assets/configs/close_box.yaml",
        "trained",
        Perturbation(position_m=0.1, angles_deg=(float(np.degrees(0.05)),) * 3),
    ),
    "robocasa": Protocol(
        "https://github.com/robocasa/robocasa/blob/be22d659b02db8f6d7f3a3c3edc742934fdcbaae/robocasa/utils/"
        "camera_utils.py",
        "trained",
        Perturbation(position_m=0.1, angles_deg=(6.0, 6.0, 6.0), normal=True),
    ),
}
