"""``manifest.json``: the settings that a dataset was made with, and what came of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.dataset.schema import EPISODES, MANIFEST, SCHEMA_VERSION
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Rig, Shell, point


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
    """One finished episode. ``failed_attempts`` are (seed, why) of the seeds tried before its own."""

    file: str
    sha256: str
    seed: int
    scene: str
    steps: int
    frames: int
    disturbances: tuple[str, ...]
    failed_attempts: tuple[tuple[int, str], ...]


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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset; DatasetError where the folder or file is missing, cut off or of another schema."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise DatasetError(f"{folder}: there is no such dataset; make one with 'geo4d-bench datagen --out {folder}'")
    if not path.is_file():
        raise DatasetError(f"{folder}: no {MANIFEST}, so this is not a dataset; give the folder that datagen wrote")
    try:
        found = json.loads(path.read_text())
        if found["schema_version"] != SCHEMA_VERSION:
            raise DatasetError(
                f"{path}: schema version {found['schema_version']}, expected {SCHEMA_VERSION}; make the dataset again"
            )
        return Manifest(_settings(found["settings"]), tuple(_entry(e) for e in found["episodes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a whole manifest ({error!r}); run the datagen command again") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one step: a reader sees the old one or the new one."""
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
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{MANIFEST}.{os.getpid()}.part"
    try:
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(folder / MANIFEST)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DatasetError(
            f"{folder / MANIFEST}: cannot be written ({error}); free some space and try again"
        ) from error


def rebuild_entries(folder: Path, known: tuple[EpisodeEntry, ...] = ()) -> tuple[EpisodeEntry, ...]:
    """Entries of the episode files that are there; hashes of ``known`` ones are taken over, others computed."""
    from geo4d_bench.dataset.reader import EpisodeFile

    before = {e.file: e for e in known}
    entries = []
    for path in sorted((folder / EPISODES).glob("ep_*.hdf5")):
        if path.name in before:
            entries.append(before[path.name])
            continue
        episode = EpisodeFile(path)
        a = episode.attrs
        entries.append(
            EpisodeEntry(
                file=path.name,
                sha256=file_sha256(path),
                seed=int(a["seed"]),
                scene=a["scene"],
                steps=len(episode.file["time"]),
                frames=len(episode.steps),
                disturbances=tuple(str(name) for _, name in a["disturbances"]),
                failed_attempts=tuple((int(s), str(w)) for s, w in a["notes"].get("failed_attempts", [])),
            )
        )
        episode.close()
    return tuple(entries)


def file_sha256(path: Path) -> str:
    """sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settings(found: dict[str, Any]) -> Settings:
    values = dict(found) | {
        "rig": _rig(found["rig"]),
        "arms": tuple(found["arms"]),
        "objects": tuple(found["objects"]),
    }
    return Settings(**values)


def _rig_record(rig: AnyRig) -> dict[str, Any]:
    """A rig for JSON; ``per_episode`` tells whether cameras are drawn from ``shell`` or are those listed."""
    return {"per_episode": isinstance(rig, DrawnRig), **asdict(rig)}


def _rig(found: dict[str, Any]) -> AnyRig:
    name, target = str(found["name"]), point(found["target"])
    if found.get("per_episode", False):
        shell = found["shell"]
        azimuth, elevation, radius = (
            (float(low), float(high))
            for low, high in (shell[key] for key in ("azimuth_deg", "elevation_deg", "radius_m"))
        )
        drawn_from = Shell(azimuth, elevation, radius, float(shell["fovy_deg"]))
        return DrawnRig(name, drawn_from, target, int(found["seen"]), int(found["novel"]))
    cameras = tuple(
        Camera(c["name"], np.asarray(c["T_world_cam"], dtype=np.float64), float(c["fovy_rad"]), c["split"])
        for c in found["cameras"]
    )
    return Rig(name, cameras, target, int(found.get("ring_offset", 0)))


def _entry(found: dict[str, Any]) -> EpisodeEntry:
    values = dict(found) | {
        "disturbances": tuple(found["disturbances"]),
        "failed_attempts": tuple((int(s), str(w)) for s, w in found["failed_attempts"]),
    }
    return EpisodeEntry(**values)


def _plain(value: Any) -> Any:
    """Arrays and tuples as lists, recursively, for JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
