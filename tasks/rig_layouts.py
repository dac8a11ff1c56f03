"""What a rig is declared with: cameras on a sphere about a workspace, fixed, on a ring, or drawn for every episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, ViewSplit
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Point, Rig, Shell, on_sphere


class Declaration(Protocol):
    """A rig that has not been placed about a workspace yet."""

    def place(self, name: str, target: Point) -> AnyRig:
        """The rig about ``target`` (3,), metres in the world."""
        ...


@dataclass(frozen=True)
class SphereCamera:
    """A camera on a sphere about the workspace that looks at it.

    Attributes:
        azimuth_deg: about the world's z axis; 0 is beyond the workspace (facing the robot), +90 on its left.
        elevation_deg: above the horizontal.  radius_m: distance from the workspace.
        split: ``seen`` cameras may be trained on, ``novel`` ones never.
    """

    azimuth_deg: float
    elevation_deg: float
    radius_m: float
    split: ViewSplit = "seen"


@dataclass(frozen=True)
class Fixed:
    """Cameras ``cam00`` ... that stand where they are declared, all with one vertical field of view."""

    cameras: tuple[SphereCamera, ...]
    fovy_deg: float

    def place(self, name: str, target: Point) -> Rig:
        """See :class:`Declaration`."""
        fovy_rad = float(np.radians(self.fovy_deg))
        cameras = tuple(
            Camera(f"cam{i:02d}", on_sphere(target, c.azimuth_deg, c.elevation_deg, c.radius_m), fovy_rad, c.split)
            for i, c in enumerate(self.cameras)
        )
        return Rig(name, cameras, target)


@dataclass(frozen=True)
class Drawn:
    """Cameras ``cam00`` ... drawn from a shell anew for every episode; the first ``seen`` of them are seen ones."""

    shell: Shell
    seen: int
    novel: int

    def place(self, name: str, target: Point) -> DrawnRig:
        """See :class:`Declaration`."""
        return DrawnRig(name, self.shell, target, self.seen, self.novel)


@dataclass(frozen=True)
class Ring:
    """Novel cameras at one elevation and radius, for curves of success against the view's angle.

    They are named by their azimuth: ``az-130`` ... ``az+000`` ... ``az+130``.

    Attributes:
        azimuth_deg: (first, last) camera's azimuth, whole degrees.  step_deg: between neighbours, whole degrees.
        pair_deg: between view n and view m of an episode, a multiple of ``step_deg``.
    """

    azimuth_deg: tuple[int, int]
    step_deg: int
    elevation_deg: float
    radius_m: float
    fovy_deg: float
    pair_deg: int

    def place(self, name: str, target: Point) -> Rig:
        """See :class:`Declaration`; ConfigError where ``pair_deg`` fits no pair of the ring's cameras."""
        first, last = self.azimuth_deg
        azimuths = range(first, last + 1, self.step_deg)
        offset, rest = divmod(self.pair_deg, self.step_deg)
        if rest or not 1 <= offset <= len(azimuths) // 2:
            raise ConfigError(
                f"ring '{name}': expected 'pair_deg' as a multiple of its step, {self.step_deg} degrees, and at most "
                f"half the ring, {len(azimuths) // 2 * self.step_deg} degrees, got {self.pair_deg}"
            )
        fovy_rad = float(np.radians(self.fovy_deg))
        cameras = tuple(
            Camera(f"az{a:+04d}", on_sphere(target, a, self.elevation_deg, self.radius_m), fovy_rad, "novel")
            for a in azimuths
        )
        return Rig(name, cameras, target, offset)
