"""``manifest.json``: the settings that a dataset was made with, and what came of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.dataset.schema import MANIFEST, SCHEMA_VERSION
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Rig, Shell, point
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.io import atomic


@dataclass(frozen=True)
class Settings:
    """What a dataset is made with; two calls that differ here do not make the same dataset.

    Attributes:
        task, version, split, language: what is simulated.
        seed: where the episodes' seeds start.
        arms, objects: their names.
        control_hz, video_hz: control steps and rendered frames a second.
        rig: the cameras; ``cameras`` gives those of an episode.
        height, width: pixels.
        max_depth_m: depth beyond this is invalid.
        disturbed_share: share of the episodes with a disturbance.
        fingerprint, commit: of the source that began the dataset.
        rendered_from: ``fingerprint`` of the dataset whose states and scenes were rendered anew; empty where the
            episodes were simulated for this one.
    """

    task: str
    version: str
    split: str
    language: str
    seed: int
    arms: tuple[str, ...]
    objects: tuple[str, ...]
    control_hz: float
    video_hz: float
    rig: AnyRig
    height: int
    width: int
    max_depth_m: float
    disturbed_share: float
    fingerprint: str
    commit: str
    rendered_from: str = ""

    def cameras(self, seed: int) -> tuple[Camera, ...]:
        """The cameras of the episode with a seed; the same for every seed unless the rig is drawn for each."""
        return self.rig.episode(f"{self.task}-{self.version}", self.split, seed).cameras


@dataclass(frozen=True)
class EpisodeEntry:
    """One finished episode. ``failed_attempts`` are (seed, why) of the seeds tried before its own.

    ``size_bytes`` (0 where unknown) and ``simulated_sha256`` (empty where unknown, see :mod:`dataset.layout`) are
    missing in manifests of older datasets.
    """

    file: str
    sha256: str
    seed: int
    scene: str
    steps: int
    frames: int
    disturbances: tuple[str, ...]
    failed_attempts: tuple[tuple[int, str], ...]
    size_bytes: int = 0
    simulated_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """A dataset's settings and finished episodes."""

    settings: Settings
    episodes: tuple[EpisodeEntry, ...] = field(default=())

    @property
    def attempts(self) -> int:
        """Simulated episodes, failed ones included."""
        return sum(1 + len(e.failed_attempts) for e in self.episodes)

    @property
    def failures(self) -> dict[str, int]:
        """How often the expert failed, by the phase it had reached."""
        return dict(sorted(Counter(why for e in self.episodes for _, why in e.failed_attempts).items()))


class DamagedManifestError(DatasetError):
    """A manifest that is cut off or changed; it can be rebuilt from the episodes' files."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset.

    Raises:
        DamagedManifestError: it is cut off or changed; paths and sizes in it are checked, not believed.
        DatasetError: the folder or file is missing, or of another schema.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise DatasetError(f"{folder}: there is no such dataset; make one with 'geo4d-bench datagen --out {folder}'")
    if not path.is_file():
        raise DatasetError(f"{folder}: no {MANIFEST}, so this is not a dataset; give the folder that datagen wrote")
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = json.loads(path.read_text())
        if found["schema_version"] != SCHEMA_VERSION:
            raise DatasetError(
                f"{path}: schema version {found['schema_version']}, expected {SCHEMA_VERSION}; make the dataset again"
            )
        manifest = Manifest(_settings(found["settings"]), tuple(_entry(e) for e in found["episodes"]))
        if len({e.file for e in manifest.episodes}) != len(manifest.episodes):
            raise ValueError("an episode is listed twice")
        return manifest
    except _DAMAGE as error:
        raise DamagedManifestError(
            f"{path}: not a whole manifest ({str(error)[:200] or type(error).__name__}); "
            "run the same datagen command again: it is rebuilt from the files"
        ) from error


def write_manifest(folder: Path, manifest: Manifest, *, checked_ns: int | None = None) -> None:
    """Write the manifest in one step: a reader sees the old one or the new one.

    ``checked_ns`` becomes the file's time: episodes that are changed after it have to be checked again.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "settings": _plain(asdict(manifest.settings) | {"rig": _rig_record(manifest.settings.rig)}),
        "yield": {
            "episodes": len(manifest.episodes),
            "attempts": manifest.attempts,
            "failures": manifest.failures,
            "disturbed": sum(bool(e.disturbances) for e in manifest.episodes),
        },
        "episodes": [_plain(asdict(e)) for e in manifest.episodes],
    }
    try:
        with atomic(folder / MANIFEST) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            if checked_ns is not None:
                os.utime(part, ns=(checked_ns, checked_ns))
    except OSError as error:
        raise DatasetError(
            f"{folder / MANIFEST}: cannot be written ({error}); free some space and try again"
        ) from error


def file_sha256(path: Path) -> str:
    """sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_LARGEST_BYTES = 2**28
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, ConfigError)
_NAME, _SHA256, _EPISODE = r"(?!\.{1,2}$)[^\0/\\]{1,200}", r"[0-9a-f]{64}", r"ep_\d{6,9}\.hdf5"
_COUNT = (0, 10**9)


def _settings(found: dict[str, Any]) -> Settings:
    """Names become parts of paths and sizes become memory, so both are checked."""
    values = dict(found) | {
        "rig": _rig(found["rig"]),
        "arms": tuple(_text(name, _NAME) for name in _list(found["arms"])),
        "objects": tuple(_text(name, _NAME) for name in _list(found["objects"])),
    }
    for key in ("task", "version", "split"):
        _text(values[key], _NAME)
    for key in ("language", "fingerprint", "commit"):
        _text(values[key], r"[^\0]*")
    _text(values.get("rendered_from", ""), r"[^\0]*")
    for key, low, high in (("height", 1, 2**14), ("width", 1, 2**14), ("seed", 0, 2**63)):
        _whole(values[key], low, high)
    for key, least, most in (("control_hz", 1e-3, 1e5), ("video_hz", 1e-3, 1e5), ("max_depth_m", 1e-3, 1e3)):
        _real(values[key], least, most)
    _real(values["disturbed_share"], 0.0, 1.0)
    return Settings(**values)


def _rig_record(rig: AnyRig) -> dict[str, Any]:
    """A rig for JSON; ``per_episode`` tells whether cameras are drawn from ``shell`` or are those listed."""
    return {"per_episode": isinstance(rig, DrawnRig), **asdict(rig)}


def _rig(found: dict[str, Any]) -> AnyRig:
    name, target = _text(found["name"], r"[^\0]+"), point([_real(x, -1e3, 1e3) for x in _list(found["target"])])
    if found.get("per_episode", False):
        shell = found["shell"]
        azimuth, elevation, radius = (
            (_real(low, -1e3, 1e3), _real(high, -1e3, 1e3))
            for low, high in (shell[key] for key in ("azimuth_deg", "elevation_deg", "radius_m"))
        )
        drawn_from = Shell(azimuth, elevation, radius, _real(shell["fovy_deg"], 0.1, 179.9))
        return DrawnRig(name, drawn_from, target, _whole(found["seen"], 0, 1000), _whole(found["novel"], 0, 1000))
    cameras = tuple(
        Camera(
            _text(c["name"], _NAME), _pose(c["T_world_cam"]), _real(c["fovy_rad"], 1e-3, 3.14),
            "seen" if _text(c["split"], "seen|novel") == "seen" else "novel",
        )
        for c in _list(found["cameras"])
    )  # fmt: skip
    return Rig(name, cameras, target, _whole(found.get("ring_offset", 0), *_COUNT))


def _entry(found: dict[str, Any]) -> EpisodeEntry:
    values = dict(found) | {
        "file": _text(found["file"], _EPISODE),
        "sha256": _text(found["sha256"], _SHA256),
        "scene": _text(found["scene"], _SHA256),
        "seed": _whole(found["seed"], 0, 2**63),
        "steps": _whole(found["steps"], *_COUNT),
        "frames": _whole(found["frames"], *_COUNT),
        "disturbances": tuple(_text(name, r"[^\0]*") for name in _list(found["disturbances"])),
        "failed_attempts": tuple(
            (_whole(s, 0, 2**63), _text(w, r"[^\0]*")) for s, w in _list(found["failed_attempts"])
        ),
        "size_bytes": _whole(found.get("size_bytes", 0), 0, 2**63),
        "simulated_sha256": _text(found.get("simulated_sha256", ""), f"({_SHA256})?"),
    }
    return EpisodeEntry(**values)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80}: expected a list")
    return value


def _text(value: Any, pattern: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, flags=re.DOTALL):
        raise ValueError(f"{value!r:.80}: expected text that fits {pattern}")
    return value


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{str(value)[:80]}: expected a whole number from {low} to {high}")
    return value


def _real(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{str(value)[:80]}: expected a number from {low:g} to {high:g}")
    return float(value)


def _pose(value: Any) -> Array:
    pose = np.array([[_real(x, -1e6, 1e6) for x in _list(row)] for row in _list(value)], dtype=np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"a pose of shape {pose.shape}")
    return pose


def _plain(value: Any) -> Any:
    """Arrays and tuples as lists, recursively, for JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
