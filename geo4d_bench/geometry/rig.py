"""Rigs: named sets of cameras split into seen and novel ones, fixed, drawn anew or moved anew for every episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, ViewSplit, look_at, project
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.seeding import generator

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Rig:
    """A named set of fixed cameras.

    Attributes:
        target: (3,) the point of the world that view angles are measured about, metres.
        ring_offset: 0, or how many cameras view m stands from view n in their order, as round a ring.
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

    def partner(self, n: int) -> int:
        """On a ring, the index of the camera that is view m where camera ``n`` is view n: a fixed way along the ring,
        on the side of its middle."""
        return n + self.ring_offset if n < len(self.cameras) / 2 else n - self.ring_offset

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


@dataclass(frozen=True)
class Perturbation:
    """How far a published protocol moves cameras, drawn anew for every episode; a size of 0 (a factor of 1) moves none.

    Attributes:
        azimuth_deg: all cameras together turn about the vertical through the target, uniform within +- this.
        elevation_deg: all are raised about the target by 0 or this, equally often.
        distance: all stand farther from the target by one factor, uniform from 1 to this.
        radius_m: standard deviation of each camera's distance from the target.
        position_m: of each camera, along each axis of the world.
        angles_deg: of each camera, about its own axes: x (right), y (down), z (its view).
        turn_deg: standard deviation of a turn of each camera about an axis of any direction.
        normal: whether ``position_m`` and ``angles_deg`` are standard deviations; else they are uniform within +-.
        shares: an episode is moved in one way alone, with these shares: direction (azimuth and elevation), distance,
            the rest. None: in all ways.
    """

    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    distance: float = 1.0
    radius_m: float = 0.0
    position_m: float = 0.0
    angles_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_deg: float = 0.0
    normal: bool = False
    shares: tuple[float, float, float] | None = None

    def scaled(self, share: float) -> Perturbation:
        """The same draws, this share of the way."""
        x, y, z = (share * angle for angle in self.angles_deg)
        return replace(
            self,
            azimuth_deg=share * self.azimuth_deg,
            elevation_deg=share * self.elevation_deg,
            distance=1.0 + share * (self.distance - 1.0),
            radius_m=share * self.radius_m,
            position_m=share * self.position_m,
            angles_deg=(x, y, z),
            turn_deg=share * self.turn_deg,
        )

    def move(self, cameras: Sequence[Camera], target: npt.ArrayLike, rng: np.random.Generator) -> list[Camera]:
        """The cameras, moved. One that would not have ``target`` (3,) in the square middle of its image is drawn anew:
        it would not see the work."""
        target = np.asarray(target, dtype=np.float64)
        way = None if self.shares is None else int(rng.choice(3, p=np.divide(self.shares, sum(self.shares))))
        directed, farther, rest = (way in (None, kind) for kind in range(3))
        azimuth, raised, factor = rng.uniform(-1, 1), rng.uniform() < 0.5, rng.uniform()
        azimuth, elevation = azimuth * directed * self.azimuth_deg, raised * directed * self.elevation_deg
        factor = 1.0 + factor * farther * (self.distance - 1.0)
        moved = []
        for camera in cameras:
            T = _about(camera.T_world_cam, target, azimuth, elevation, factor)
            while True:
                T_moved = self._jitter(T, target, rng) if rest else T
                pixel = project(transform(inverse(T_moved), target), camera.K(1, 1))
                if np.abs(pixel).max() <= 0.5:  # NaN behind the camera
                    break
            moved.append(replace(camera, T_world_cam=T_moved))
        return moved

    def _jitter(self, T_world_cam: Array, target: Array, rng: np.random.Generator) -> Array:
        radial, turn, axis = rng.standard_normal(), rng.standard_normal(), rng.standard_normal(3)
        shift, angles = rng.standard_normal((2, 3)) if self.normal else rng.uniform(-1.0, 1.0, (2, 3))
        offset = T_world_cam[:3, 3] - target
        position = T_world_cam[:3, 3] + self.radius_m * radial * offset / np.linalg.norm(offset)
        own = Rotation.from_euler("XYZ", angles * self.angles_deg, degrees=True)
        own *= Rotation.from_rotvec(self.turn_deg * turn * axis / np.linalg.norm(axis), degrees=True)
        return pose(T_world_cam[:3, :3] @ own.as_matrix(), position + self.position_m * shift)


@dataclass(frozen=True)
class PerturbedRig:
    """Cameras to play from that a published protocol moves anew for every episode; all of them are novel.

    Attributes:
        base: where the cameras stand before they are moved.  target: (3,) the point they are moved about, metres.
    """

    name: str
    base: tuple[Camera, ...]
    target: Point
    perturbation: Perturbation

    def camera_names(self, split: ViewSplit | None = None) -> tuple[str, ...]:
        """Names of all cameras, or of one split's, in the rig's order."""
        return () if split == "seen" else tuple(camera.name for camera in self.base)

    def episode(self, task_key: str, split: str, seed: int) -> Rig:
        """The fixed rig of one episode of the task with version (``store_cereal-v1``), a pure function of these."""
        moved = self.perturbation.move(self.base, self.target, generator(task_key, split, seed, "rig"))
        return Rig(self.name, tuple(replace(camera, split="novel") for camera in moved), self.target)


PlayedRig = AnyRig | PerturbedRig
"""What episodes may be seen from; datasets are made of the others alone."""


def _about(T_world_cam: Array, target: Array, azimuth_deg: float, elevation_deg: float, factor: float) -> Array:
    """A camera (4, 4) turned about the vertical through ``target`` (3,), raised about it, and farther from it."""
    turn = Rotation.from_euler("z", azimuth_deg, degrees=True)
    x, y, _ = turn.apply(T_world_cam[:3, 3] - target)
    raised = Rotation.from_rotvec(np.radians(elevation_deg) * np.array([y, -x, 0.0]) / np.hypot(x, y)) * turn
    return pose(raised.as_matrix() @ T_world_cam[:3, :3], target + factor * raised.apply(T_world_cam[:3, 3] - target))


def on_sphere(target: npt.ArrayLike, azimuth_deg: float, elevation_deg: float, radius_m: float) -> Array:
    """T_world_cam (4, 4) of a camera on a sphere about ``target`` (3,) that looks at it, upright.

    Azimuth is about the world's z axis from its x axis, elevation above the horizontal.
    """
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    target = np.asarray(target, dtype=np.float64)
    return look_at(target + radius_m * direction, target)


class PairGeometry(NamedTuple):
    """Where cameras stand that look at a scene together.

    Attributes:
        elevation_deg: above the horizontal, as seen from the work, mean of the cameras.  distance_m: from it, mean.
        fovy_deg: vertical field of view, mean.  baseline_m: from view n to a view m, mean.
    """

    elevation_deg: float
    distance_m: float
    fovy_deg: float
    baseline_m: float


def pair_geometry(T_world_cam: Sequence[Array], K: Sequence[Array], height: int, target: npt.ArrayLike) -> PairGeometry:
    """Of view n and one or more views m.

    Args:
        T_world_cam: (4, 4) each, view n's first.  K: (3, 3) each, for images of ``height`` pixels.
        target: (3,) the point of the work, metres in the world.
    """
    places = np.array([T[:3, 3] for T in T_world_cam])
    offsets = places - np.asarray(target)
    distances = np.linalg.norm(offsets, axis=1)
    return PairGeometry(
        elevation_deg=float(np.degrees(np.arcsin(offsets[:, 2] / distances)).mean()),
        distance_m=float(distances.mean()),
        fovy_deg=float(np.degrees([2 * np.arctan2(height / 2, k[1, 1]) for k in K]).mean()),
        baseline_m=float(np.linalg.norm(places[1:] - places[0], axis=1).mean()),
    )


def off_pose(T_world_cam: Array, turn_deg: float, shift_m: float, rng: np.random.Generator) -> Array:
    """A pose (4, 4) as a faulty calibration has it: turned by exactly ``turn_deg`` and shifted by ``shift_m``, each in
    a direction that ``rng`` draws, the same one whatever the sizes."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    if not turn_deg and not shift_m:
        return T_world_cam.copy()
    turn = Rotation.from_rotvec(turn_deg * axis, degrees=True).as_matrix()
    return pose(T_world_cam[:3, :3] @ turn, T_world_cam[:3, 3] + shift_m * direction)


def point(values: Sequence[float]) -> Point:
    """(3,) numbers as a tuple of floats."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def _angle_deg(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _direction(camera: Camera, target: Point) -> Array:
    d = camera.T_world_cam[:3, 3] - np.asarray(target)
    return np.asarray(d / np.linalg.norm(d), dtype=np.float64)
