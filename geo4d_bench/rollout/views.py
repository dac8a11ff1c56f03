"""Which two cameras an episode is seen from: a function of its seed and of the cameras that ``--views`` names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, ViewSplit
from geo4d_bench.geometry.rig import AnyRig, PlayedRig, Rig
from geo4d_bench.registry import unknown_name
from geo4d_bench.seeding import generator


@dataclass(frozen=True)
class Views:
    """What ``--views`` means for a task.

    Attributes:
        name: ``seen``, ``novel`` or the rig's name, as it stands in every row.
        rig: where the cameras of a pair stand, at least two of them.
        split: the rig's cameras that pairs are taken from; None: all.
        training: the rig whose seen cameras were trained on; view angles are measured to them.
    """

    name: str
    rig: PlayedRig
    split: ViewSplit | None
    training: AnyRig

    def __post_init__(self) -> None:
        number = len(self.rig.camera_names(self.split))
        if number < 2:
            raise ConfigError(f"views '{self.name}' has {number} camera(s); a pair needs at least 2")
        if not self.training.camera_names("seen"):
            raise ConfigError(
                f"rig '{self.training.name}' has no seen camera, so nothing was trained on it; give the rig that the "
                f"policy was trained on (hemisphere16, for example), and this one with --views"
            )

    def cameras(self, task_key: str, split: str, seed: int) -> tuple[Camera, ...]:
        """Those that the pair of an episode is taken from."""
        rig = self.rig.episode(task_key, split, seed)
        return rig.cameras if self.split is None else rig.views(self.split)

    def pair(self, task_key: str, split: str, seed: int) -> tuple[Camera, Camera]:
        """Cameras n and m of an episode, distinct, a pure function of the arguments.

        Drawn from the seed, but for a ring: there any run of consecutive seeds spreads view n evenly over the ring
        (after as many seeds as it has cameras, each was n once), and view m stands a fixed angle from n, on the side
        of the ring's middle. A rig that is drawn for every episode gives the episode's own cameras.
        """
        rig, cameras = self.rig.episode(task_key, split, seed), self.cameras(task_key, split, seed)
        if rig.ring_offset:
            return _ring_pair(rig, seed)
        rng = generator(task_key, split, seed, "views")
        n, m = rng.choice(len(cameras), size=2, replace=False)
        return cameras[int(n)], cameras[int(m)]

    def angle_deg(self, pair: tuple[Camera, Camera]) -> float:
        """The larger of the two cameras' angles, about the training rig's target, to the nearest training camera (or
        to the shell that training cameras are drawn from)."""
        return max(self.training.angle_to_training_deg(camera) for camera in pair)


def resolve(views: str, training: AnyRig) -> Views:
    """The cameras that ``seen``, ``novel``, a registered rig, a published protocol or a rig file stand for.

    ``seen`` and ``novel`` are those of the training rig. Of another rig the novel cameras are used where it has at
    least two of them, else all of its cameras.

    Args:
        views: ``seen``, ``novel``, a rig's or protocol's name, or the path of a rig's file.
        training: the rig that the policy was trained on.

    Raises:
        UnknownNameError: there are no such views.
        ConfigError: a faulty rig file, fewer than two cameras, or a training rig without seen cameras.
    """
    from geo4d_bench.tasks.protocols import PROTOCOLS
    from geo4d_bench.tasks.rigs import RIGS, is_rig_file, played_rig

    known = sorted(["seen", "novel", *RIGS, *PROTOCOLS])
    if views not in known and not is_rig_file(views):
        raise unknown_name("choice of views", views, known)
    if views in ("seen", "novel"):
        return Views(views, training, cast(ViewSplit, views), training)
    rig = played_rig(views, training.target)
    return Views(rig.name, rig, "novel" if len(rig.camera_names("novel")) >= 2 else None, training)


def _ring_pair(ring: Rig, seed: int) -> tuple[Camera, Camera]:
    number = len(ring.cameras)
    n = seed * _stride(number) % number
    return ring.cameras[n], ring.cameras[ring.partner(n)]


def _stride(number: int) -> int:
    """About the golden section of ``number`` and without a common divisor, so that the first few of the multiples
    spread over 0 .. number - 1 and all of them meet each once."""
    golden = 0.381966 * number
    return min((k for k in range(1, number + 1) if math.gcd(k, number) == 1), key=lambda k: abs(k - golden))
