"""Which two cameras an episode is seen from: drawn from its seed among the cameras that ``--views`` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry import Camera, Rig
from geo4d_bench.seeding import generator


@dataclass(frozen=True)
class Views:
    """What ``--views`` means for a task.

    Attributes:
        name: ``seen``, ``novel`` or the rig's name, as it stands in every row.
        cameras: the cameras that pairs are drawn from, at least two.
        training: the rig whose seen cameras were trained on; view angles are measured to them.
    """

    name: str
    cameras: tuple[Camera, ...]
    training: Rig

    def __post_init__(self) -> None:
        if len(self.cameras) < 2:
            raise ConfigError(f"views '{self.name}' has {len(self.cameras)} camera(s); a pair needs at least 2")

    def pair(self, task_key: str, split: str, seed: int) -> tuple[Camera, Camera]:
        """Cameras n and m of an episode, distinct, a pure function of the arguments."""
        rng = generator(task_key, split, seed, "views")
        n, m = rng.choice(len(self.cameras), size=2, replace=False)
        return self.cameras[int(n)], self.cameras[int(m)]

    def angle_deg(self, pair: tuple[Camera, Camera]) -> float:
        """The larger of the two cameras' angles, about the training rig's target, to the nearest training camera."""
        return max(self._angle_deg(camera) for camera in pair)

    def _angle_deg(self, camera: Camera) -> float:
        target = np.asarray(self.training.target)

        def direction(c: Camera) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
            d = c.T_world_cam[:3, 3] - target
            return np.asarray(d / np.linalg.norm(d))

        mine = direction(camera)
        cosine = max(float(mine @ direction(c)) for c in self.training.views("seen"))
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def resolve(views: str, training: Rig) -> Views:
    """The cameras that ``seen``, ``novel`` or a rig file stand for.

    A rig file's novel cameras are used where it has at least two of them, else all of its cameras.

    Args:
        views: ``seen``, ``novel`` or the path of a rig's YAML file.
        training: the task's own rig.

    Raises:
        ConfigError: ``views`` is none of these, or there are fewer than two cameras.
    """
    if views in ("seen", "novel"):
        return Views(views, training.views("seen" if views == "seen" else "novel"), training)
    path = Path(views)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"views '{views}': expected seen, novel or the path of a rig's .yaml file")
    from geo4d_bench.tasks.rigs import make_rig

    rig = make_rig(views, training.target)
    novel = rig.views("novel")
    return Views(rig.name, novel if len(novel) >= 2 else rig.cameras, training)
