"""Rigs: named sets of cameras split into seen and novel ones, either fixed or drawn anew for every episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, ViewSplit, look_at
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.seeding import generator

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Rig:
    """A named set of fixed cameras.

    Attributes:
        target: (3,) the point of the world that view angles are measured about, metres.
        ring_offset: 0, or how many cameras view m stands from view n where the cameras form a ring in their order.
    """

    name: str
    cameras: tuple[Camera, ...]
    target: Point
    ring_offset: int = 0

    def __post_init__(self) -> None:
        names = [c.name for c in self.cameras]
        if len(set(names)) != len(names):
            raise ConfigError(f"rig '{self.name}' has two cameras of one name")

    def views(self, split: ViewSplit) -> tuple[Camera, ...]:
        """The cameras of one split, in the rig's order."""
        return tuple(c for c in self.cameras if c.split == split)

    def camera_names(self, split: ViewSplit | None = None) -> tuple[str, ...]:
        """Names of all cameras, or of one split's, in the rig's order."""
        return tuple(c.name for c in self.cameras if split in (None, c.split))

    def episode(self, task_key: str, split: str, seed: int) -> Rig:
        """The rig itself: the same in every episode."""
        return self

    def angle_to_training_deg(self, camera: Camera) -> float:
        """Angle in degrees, about ``target``, between any camera and the rig's nearest seen one.

        Raises:
            ConfigError: the rig has no seen camera.
        """
        seen = self.views("seen")
        if not seen:
            raise ConfigError(f"rig '{self.name}' has no seen camera that an angle could be measured to; give another")
        mine = _direction(camera, self.target)
        return min(_angle_deg(float(mine @ _direction(c, self.target))) for c in seen)


@dataclass(frozen=True)
class Shell:
    """A part of a spherical shell about a target; cameras drawn from it look at the target, upright.

    Attributes:
        azimuth_deg: (low, high) about the world's z axis, 0 along its x axis; elevation_deg: (low, high) above the
            horizontal. Directions are uniform over this part of the sphere's surface.
        radius_m: (low, high) distance from the target, uniform.
        fovy_deg: vertical field of view.
    """

    azimuth_deg: tuple[float, float]
    elevation_deg: tuple[float, float]
    radius_m: tuple[float, float]
    fovy_deg: float

    def draw(self, rng: np.random.Generator, target: npt.ArrayLike) -> Array:
        """T_world_cam (4, 4) of one camera about ``target`` (3,)."""
        azimuth = rng.uniform(*self.azimuth_deg)
        # The area of a band of the sphere goes with the sine of its elevation.
        low, high = np.sin(np.radians(self.elevation_deg))
        elevation = np.degrees(np.arcsin(rng.uniform(low, high)))
        return on_sphere(target, azimuth, elevation, rng.uniform(*self.radius_m))

    def angle_deg(self, direction: npt.ArrayLike) -> float:
        """Angle in degrees between a direction (3,) from the target and the nearest one of the shell, 0 inside."""
        x, y, z = np.asarray(direction, dtype=np.float64) / np.linalg.norm(direction)
        elevation = np.arcsin(np.clip(z, -1.0, 1.0))
        lowest, highest = np.radians(self.elevation_deg)
        low, high = self.azimuth_deg
        azimuth = np.degrees(np.arctan2(y, x))
        if (azimuth - low) % 360.0 <= high - low:
            return float(np.degrees(abs(elevation - np.clip(elevation, lowest, highest))))
        # The nearest point is on the meridian at the nearer end: on its great circle, kept within the elevations.
        across = np.radians(min((low - azimuth) % 360.0, (azimuth - high) % 360.0))
        nearest = np.clip(np.arctan2(z, np.hypot(x, y) * np.cos(across)), lowest, highest)
        return _angle_deg(z * np.sin(nearest) + np.cos(elevation) * np.cos(nearest) * np.cos(across))


@dataclass(frozen=True)
class DrawnRig:
    """A rig whose cameras' poses are drawn anew for every episode; their names and splits are always the same.

    Attributes:
        shell: what places are drawn from.  target: (3,) the point that it lies about, metres in the world.
        seen, novel: numbers of cameras; the first ``seen`` of ``cam00`` ... are the seen ones.
    """

    name: str
    shell: Shell
    target: Point
    seen: int
    novel: int

    def camera_names(self, split: ViewSplit | None = None) -> tuple[str, ...]:
        """Names of all cameras, or of one split's, in the rig's order."""
        names = tuple(f"cam{i:02d}" for i in range(self.seen + self.novel))
        return {None: names, "seen": names[: self.seen], "novel": names[self.seen :]}[split]

    def episode(self, task_key: str, split: str, seed: int) -> Rig:
        """The fixed rig of one episode of the task with version (``store_cereal-v1``), a pure function of these."""
        rng = generator(task_key, split, seed, "rig")
        fovy_rad = float(np.radians(self.shell.fovy_deg))
        cameras = tuple(
            Camera(name, self.shell.draw(rng, self.target), fovy_rad, "seen" if i < self.seen else "novel")
            for i, name in enumerate(self.camera_names())
        )
        return Rig(self.name, cameras, self.target)

    def angle_to_training_deg(self, camera: Camera) -> float:
        """Angle in degrees, about ``target``, between any camera and the shell of training cameras; 0 inside.

        Raises:
            ConfigError: the rig has no seen camera.
        """
        if not self.seen:
            raise ConfigError(f"rig '{self.name}' has no seen camera that an angle could be measured to; give another")
        return self.shell.angle_deg(_direction(camera, self.target))


AnyRig = Rig | DrawnRig


def on_sphere(target: npt.ArrayLike, azimuth_deg: float, elevation_deg: float, radius_m: float) -> Array:
    """T_world_cam (4, 4) of a camera on a sphere about ``target`` (3,) that looks at it, upright.

    Azimuth is about the world's z axis from its x axis, elevation above the horizontal.
    """
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    target = np.asarray(target, dtype=np.float64)
    return look_at(target + radius_m * direction, target)


def point(values: Sequence[float]) -> Point:
    """(3,) numbers as a tuple of floats."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def _angle_deg(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _direction(camera: Camera, target: Point) -> Array:
    d = camera.T_world_cam[:3, 3] - np.asarray(target)
    return np.asarray(d / np.linalg.norm(d), dtype=np.float64)
