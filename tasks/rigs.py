"""Camera rigs: named sets of cameras about a task's workspace, declared as data, or read from a user's YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, Rig, ViewSplit, look_at
from geo4d_bench.geometry.se3 import Array
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
    fovy_deg=48.0,
    # Novel cameras lie among seen ones: each has seen neighbours on either side, none is at an extreme of azimuth,
    # elevation or radius. Nothing looks from behind the robot, where the arm stands before the hand; cameras beyond
    # the shelf look from low down, where the upper board does not hide the hand.
    cameras=(
        ShellCamera(-126, 24, 0.95),
        ShellCamera(-114, 44, 1.00),
        ShellCamera(-104, 12, 0.85),
        ShellCamera(-92, 24, 0.95, "novel"),
        ShellCamera(-80, 31, 1.10),
        ShellCamera(-66, 18, 0.75),
        ShellCamera(-52, 11, 0.95, "novel"),
        ShellCamera(-38, 6, 1.20),
        ShellCamera(34, 8, 1.05),
        ShellCamera(50, 9, 0.85, "novel"),
        ShellCamera(63, 13, 1.15),
        ShellCamera(75, 16, 0.70),
        ShellCamera(89, 26, 0.90, "novel"),
        ShellCamera(100, 42, 1.05),
        ShellCamera(114, 14, 0.80),
        ShellCamera(126, 24, 1.05),
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


def load_rig(path: Path, workspace: Sequence[float]) -> Rig:
    """A user's rig. The file gives each camera's place, and what it looks at (the task's workspace where left out)::

        fovy_deg: 55
        cameras:
          - {name: left, position: [0.4, 0.8, 1.7]}
          - {name: right, position: [0.4, -0.8, 1.7], look_at: [0, 0, 1.4], fovy_deg: 40, split: novel}

    Positions are metres in the world; ``split`` is ``novel`` where left out.

    Raises:
        ConfigError: the file is missing, is not YAML, or a camera is incomplete.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as e:
        raise ConfigError(f"rig file {path} cannot be read: {e.strerror}; give the path of a YAML file") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"rig file {path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(content, dict) or not isinstance(content.get("cameras"), list) or not content["cameras"]:
        raise ConfigError(f"rig file {path}: expected a list 'cameras' with at least one camera")
    _only(f"rig file {path}", content, ("cameras", "fovy_deg"))
    cameras = tuple(
        _from_entry(f"rig file {path}, camera {i}", entry, content.get("fovy_deg"), workspace)
        for i, entry in enumerate(content["cameras"])
    )
    x, y, z = (float(v) for v in workspace)
    return Rig(path.stem, cameras, (x, y, z))


def _from_entry(where: str, entry: Any, fovy_deg: Any, workspace: Sequence[float]) -> Camera:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected 'name' and 'position', got {entry!r}")
    _only(where, entry, ("name", "position", "look_at", "fovy_deg", "split"))
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ConfigError(f"{where}: expected a 'name', got {entry.get('name')!r}")
    where = f"{where} ('{entry['name']}')"
    fovy = entry.get("fovy_deg", fovy_deg)
    if isinstance(fovy, bool) or not isinstance(fovy, (int, float)) or not 1.0 <= fovy <= 150.0:
        raise ConfigError(f"{where}: expected 'fovy_deg' between 1 and 150, got {fovy!r}")
    split = entry.get("split", "novel")
    if split not in ("seen", "novel"):
        raise ConfigError(f"{where}: expected 'split' seen or novel, got {split!r}")
    eye, target = (
        _point(where, "position", entry.get("position")),
        _point(where, "look_at", entry.get("look_at", list(workspace))),
    )
    if np.linalg.norm(eye - target) < 0.05:
        raise ConfigError(f"{where}: 'position' is where it looks at; move it away")
    return Camera(entry["name"], look_at(eye, target), float(np.radians(fovy)), split)


def _point(where: str, key: str, value: Any) -> Array:
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if not numbers or len(value) != 3 or not np.isfinite(value).all():
        raise ConfigError(f"{where}: expected '{key}' as [x, y, z] in metres, got {value!r}")
    return np.asarray(value, dtype=np.float64)


def _only(where: str, entry: dict[Any, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")


def _on_shell(name: str, camera: ShellCamera, fovy_deg: float, target: Array) -> Camera:
    azimuth, elevation = np.radians(camera.azimuth_deg), np.radians(camera.elevation_deg)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    pose = look_at(target + camera.radius_m * direction, target)
    return Camera(name, pose, float(np.radians(fovy_deg)), camera.split)
