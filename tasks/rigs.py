"""Camera rigs: named sets of cameras about a task's workspace, declared as data, or read from a user's YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, Rig, ViewSplit, look_at
from geo4d_bench.registry import Registry


@dataclass(frozen=True)
class ShellCamera:
    """A camera on a hemispherical shell that looks at the workspace.

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
class Shell:
    """Cameras on a shell, all with one vertical field of view."""

    cameras: tuple[ShellCamera, ...]
    fovy_deg: float


HEMISPHERE16 = Shell(
    fovy_deg=55.0,
    # Novel cameras lie among seen ones: each has a seen neighbour on either side, none is at an extreme of azimuth,
    # elevation or radius. Nothing looks from behind the robot, where the arm would stand before the hand.
    cameras=(
        ShellCamera(-120, 20, 1.10),
        ShellCamera(-105, 45, 0.95),
        ShellCamera(-90, 12, 0.85),
        ShellCamera(-78, 30, 1.00, "novel"),
        ShellCamera(-65, 48, 1.15),
        ShellCamera(-50, 18, 0.75),
        ShellCamera(-36, 34, 0.90, "novel"),
        ShellCamera(-22, 8, 1.20),
        ShellCamera(12, 36, 0.70),
        ShellCamera(28, 16, 0.95),
        ShellCamera(40, 28, 1.05, "novel"),
        ShellCamera(54, 44, 0.85),
        ShellCamera(66, 12, 1.10),
        ShellCamera(80, 26, 0.80, "novel"),
        ShellCamera(95, 40, 1.00),
        ShellCamera(118, 18, 0.90),
    ),
)

RIGS: Registry[Shell] = Registry("rig")
RIGS.register("hemisphere16", HEMISPHERE16)


def rig_names() -> list[str]:
    """The names of all rigs, sorted."""
    return list(RIGS)


def make_rig(name: str, workspace: Sequence[float]) -> Rig:
    """The rig called ``name`` about ``workspace`` (3,) metres in the world, or the one in a ``.yaml`` file.

    Raises:
        UnknownNameError: no such rig.  ConfigError: a file that cannot be read or is not a rig.
    """
    if name.endswith((".yaml", ".yml")):
        return load_rig(Path(name), workspace)
    shell = RIGS.get(name)
    cameras = tuple(
        _on_shell(f"cam{i:02d}", c, shell.fovy_deg, np.asarray(workspace, dtype=np.float64))
        for i, c in enumerate(shell.cameras)
    )
    x, y, z = (float(v) for v in workspace)
    return Rig(name, cameras, (x, y, z))


def _on_shell(name: str, camera: ShellCamera, fovy_deg: float, target: np.ndarray[Any, Any]) -> Camera:
    azimuth, elevation = np.radians(camera.azimuth_deg), np.radians(camera.elevation_deg)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return Camera(
        name, look_at(target + camera.radius_m * direction, target), float(np.radians(fovy_deg)), camera.split
    )


def load_rig(path: Path, workspace: Sequence[float]) -> Rig:
    raise ConfigError(f"{path}: not yet")
