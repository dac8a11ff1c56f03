"""A user's rig from a YAML file: cameras one by one, a shell that they are drawn from, or a ring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, look_at
from geo4d_bench.geometry.rig import AnyRig, Rig, Shell, point
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.rig_layouts import Drawn, Ring

KINDS = ("cameras", "shell", "ring")


def load_rig(path: Path, workspace: Sequence[float]) -> AnyRig:
    """A user's rig about ``workspace`` (3,), named after the file. It has one of three forms. Cameras one by one, each
    with its place, and what it looks at (the task's workspace where left out)::

        fovy_deg: 55
        cameras:
          - {name: left, position: [0.4, 0.8, 1.7]}
          - {name: right, position: [0.4, -0.8, 1.7], look_at: [0, 0, 1.4], fovy_deg: 40, split: novel}

    Positions are metres in the world; ``split`` is ``novel`` where left out. Or a shell about the workspace that
    cameras are drawn from anew for every episode, as ``random16``; or a ring of novel cameras, as ``orbit``::

        fovy_deg: 48
        shell: {azimuth_deg: [-60, 60], elevation_deg: [10, 40], radius_m: [0.8, 1.0], seen: 12, novel: 4}

        fovy_deg: 48
        ring: {azimuth_deg: [-130, 130], step_deg: 5, elevation_deg: 30, radius_m: 1.0, pair_deg: 60}

    Raises:
        ConfigError: the file is missing, is not YAML, or something in it is missing, unknown or out of range.
    """
    where = f"rig file {path}"
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as e:
        raise ConfigError(f"{where} cannot be read: {e.strerror}; give the path of a YAML file") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(e).split())}") from e
    kinds = [kind for kind in KINDS if isinstance(content, dict) and kind in content]
    if len(kinds) != 1:
        raise ConfigError(
            f"{where}: expected one of 'cameras', 'shell' and 'ring', got {' and '.join(kinds) or 'none'}"
        )
    _only(where, content, (kinds[0], "fovy_deg"))
    if kinds[0] == "cameras":
        return _cameras(where, path.stem, content, workspace)
    if not isinstance(content[kinds[0]], dict):
        raise ConfigError(f"{where}: expected '{kinds[0]}' with its ranges, got {content[kinds[0]]!r}")
    read = _shell if kinds[0] == "shell" else _ring
    declared = read(f"{where}, {kinds[0]}", content[kinds[0]], _fovy(where, content.get("fovy_deg")))
    return declared.place(path.stem, point(workspace))


def _cameras(where: str, name: str, content: dict[str, Any], workspace: Sequence[float]) -> Rig:
    entries = content["cameras"]
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: expected a list 'cameras' with at least one camera")
    cameras = tuple(
        _camera(f"{where}, camera {i}", entry, content.get("fovy_deg"), workspace) for i, entry in enumerate(entries)
    )
    return Rig(name, cameras, point(workspace))


def _camera(where: str, entry: Any, fovy_deg: Any, workspace: Sequence[float]) -> Camera:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected 'name' and 'position', got {entry!r}")
    _only(where, entry, ("name", "position", "look_at", "fovy_deg", "split"))
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ConfigError(f"{where}: expected a 'name', got {entry.get('name')!r}")
    where = f"{where} ('{entry['name']}')"
    fovy = _fovy(where, entry.get("fovy_deg", fovy_deg))
    split = entry.get("split", "novel")
    if split not in ("seen", "novel"):
        raise ConfigError(f"{where}: expected 'split' seen or novel, got {split!r}")
    eye, target = (
        _position(where, "position", entry.get("position")),
        _position(where, "look_at", entry.get("look_at", list(workspace))),
    )
    if np.linalg.norm(eye - target) < 0.05:
        raise ConfigError(f"{where}: 'position' is where it looks at; move it away")
    return Camera(entry["name"], look_at(eye, target), float(np.radians(fovy)), split)


def _shell(where: str, entry: dict[str, Any], fovy_deg: float) -> Drawn:
    _only(where, entry, ("azimuth_deg", "elevation_deg", "radius_m", "seen", "novel"))
    azimuth = _range(where, "azimuth_deg", entry.get("azimuth_deg"), -360.0, 360.0)
    if azimuth[1] - azimuth[0] > 360.0:
        raise ConfigError(f"{where}: expected 'azimuth_deg' to span at most 360 degrees, got {list(azimuth)}")
    shell = Shell(
        azimuth,
        _range(where, "elevation_deg", entry.get("elevation_deg"), -89.0, 89.0),
        _range(where, "radius_m", entry.get("radius_m"), 0.05, 10.0),
        fovy_deg,
    )
    seen = _whole(where, "seen", entry.get("seen", 0), 0, 100)
    novel = _whole(where, "novel", entry.get("novel", 0), 0, 100)
    if seen + novel < 1:
        raise ConfigError(f"{where}: expected the numbers of cameras, 'seen' and 'novel', got 0 of each")
    return Drawn(shell, seen, novel)


def _ring(where: str, entry: dict[str, Any], fovy_deg: float) -> Ring:
    _only(where, entry, ("azimuth_deg", "step_deg", "elevation_deg", "radius_m", "pair_deg"))
    ends = _range(where, "azimuth_deg", entry.get("azimuth_deg"), -360.0, 360.0)
    if ends[1] - ends[0] >= 360.0 or any(end != round(end) for end in ends):
        raise ConfigError(f"{where}: expected 'azimuth_deg' in whole degrees, less than a full turn, got {list(ends)}")
    return Ring(
        (round(ends[0]), round(ends[1])),
        _whole(where, "step_deg", entry.get("step_deg"), 1, 180),
        _number(where, "elevation_deg", entry.get("elevation_deg"), -89.0, 89.0),
        _number(where, "radius_m", entry.get("radius_m"), 0.05, 10.0),
        fovy_deg,
        _whole(where, "pair_deg", entry.get("pair_deg"), 1, 180),
    )


def _fovy(where: str, value: Any) -> float:
    return _number(where, "fovy_deg", value, 1.0, 150.0)


def _number(where: str, key: str, value: Any, low: float, high: float) -> float:
    if not _is_number(value) or not low <= value <= high:
        raise ConfigError(f"{where}: expected '{key}' between {low:g} and {high:g}, got {value!r}")
    return float(value)


def _whole(where: str, key: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{where}: expected '{key}' as a whole number from {low} to {high}, got {value!r}")
    return value


def _range(where: str, key: str, value: Any, low: float, high: float) -> tuple[float, float]:
    fits = isinstance(value, list) and len(value) == 2 and all(_is_number(v) and low <= v <= high for v in value)
    if not fits or value[0] > value[1]:
        raise ConfigError(f"{where}: expected '{key}' as [low, high] between {low:g} and {high:g}, got {value!r}")
    return float(value[0]), float(value[1])


def _position(where: str, key: str, value: Any) -> Array:
    fits = isinstance(value, list) and len(value) == 3 and all(_is_number(v) for v in value)
    if not fits or not np.isfinite(value).all():
        raise ConfigError(f"{where}: expected '{key}' as [x, y, z] in metres, got {value!r}")
    return np.asarray(value, dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _only(where: str, entry: dict[Any, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
