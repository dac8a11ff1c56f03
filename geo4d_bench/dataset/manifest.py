"""``manifest.json``: the settings that a dataset was made with, and what came of them.

The dataclasses are the file's schema too, which pydantic checks when it is read: names become parts of paths and sizes
become memory, so both are bounded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import core_schema

from geo4d_bench.dataset.schema import MANIFEST, MAX_SIDE, SCHEMA_VERSION
from geo4d_bench.errors import ConfigError, DatasetError, explain
from geo4d_bench.geometry.camera import Camera, Lens, ViewSplit
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Rig, Shell
from geo4d_bench.geometry.room import Room, RoomsName, draw_room
from geo4d_bench.io import atomic, read_json
from geo4d_bench.registry import task_name

_LARGEST_BYTES = 2**28
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, regex_engine="python-re")


def _name(text: str) -> str:
    if not re.fullmatch(r"(?!\.{1,2}\Z)[^\x00-\x1f\x7f/\\]+", text) or len(text.encode()) > 200:
        raise ValueError(
            "a name becomes part of paths: expected 1 to 200 bytes without '/', '\\' and control characters, and not "
            f"'.' or '..', got {text!r:.80}"
        )
    return text


Name = Annotated[str, AfterValidator(_name)]
"""Of tasks, arms, objects and cameras."""
_Text = Annotated[str, Field(pattern=r"\A[^\0]*\Z")]
_Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\Z")]
_Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # of an episode: an int64 in its file
_Count = Annotated[int, Field(ge=0, le=10**9)]
_Pixels = Annotated[int, Field(ge=1, le=MAX_SIDE)]
_Hz = Annotated[float, Field(ge=1e-3, le=1e5)]
Views = Literal["all", "none"]
"""Of which cameras a dataset has images: of all of its rig's, or of none."""
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Four = tuple[Number, Number, Number, Number]


class _CameraRecord(BaseModel):
    model_config = _CONFIG

    name: Name
    T_world_cam: tuple[Four, Four, Four, Four]
    fovy_rad: Annotated[float, Field(ge=1e-3, le=3.14)] | None = None
    split: ViewSplit
    lens: Lens | None = None


class _RigRecord(BaseModel):
    """A rig in the file; with ``per_episode`` its cameras are drawn from ``shell``, else they are listed."""

    model_config = _CONFIG

    per_episode: bool = False
    name: Annotated[_Text, Field(min_length=1)]
    target: tuple[Number, Number, Number]
    cameras: Annotated[tuple[_CameraRecord, ...], Field(max_length=1000)] | None = None
    ring_offset: _Count = 0
    shell: Shell | None = None
    seen: Annotated[int, Field(ge=0, le=1000)] = 0
    novel: Annotated[int, Field(ge=0, le=1000)] = 0

    def rig(self) -> AnyRig:
        if self.per_episode and self.shell is not None:
            return DrawnRig(self.name, self.shell, self.target, self.seen, self.novel)
        if self.per_episode or self.cameras is None:
            raise ValueError("expected the rig's cameras, or the shell that they are drawn from")
        cameras = tuple(Camera(c.name, np.array(c.T_world_cam), c.fovy_rad, c.split, c.lens) for c in self.cameras)
        return Rig(self.name, cameras, self.target, self.ring_offset)


_RIG = GetPydanticSchema(
    lambda _, schema: core_schema.no_info_after_validator_function(_RigRecord.rig, schema(_RigRecord))
)


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
        views: ``none`` where the episodes have no images: what was simulated alone, to be drawn elsewhere from the rig
            and at the size that stand here, or others.
        rooms: the set that the episodes' rooms are drawn from; ``room`` gives that of an episode.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    task: Name
    version: Name
    split: Name
    language: _Text
    seed: _Seed
    arms: tuple[Name, ...]
    objects: tuple[Name, ...]
    control_hz: _Hz
    video_hz: _Hz
    rig: Annotated[AnyRig, _RIG]
    height: _Pixels
    width: _Pixels
    max_depth_m: Annotated[float, Field(ge=1e-3, le=1e3)]
    disturbed_share: Annotated[float, Field(ge=0, le=1)]
    fingerprint: _Text
    commit: _Text
    rendered_from: _Text = ""
    views: Views = "all"
    rooms: RoomsName = "fixed"

    @property
    def task_name(self) -> str:
        """What ``--task`` calls it: ``store_cereal``, ``store_cereal-v2``."""
        return task_name(self.task, self.version)

    def cameras(self, seed: int) -> tuple[Camera, ...]:
        """The cameras whose images the episode with a seed has; the same for every seed unless the rig is drawn for
        each."""
        if self.views == "none":
            return ()
        return self.rig.episode(f"{self.task}-{self.version}", self.split, seed).cameras

    def room(self, seed: int) -> Room | None:
        """The room of the episode with a seed; None where it is the scene's own."""
        return draw_room(self.rooms, f"{self.task}-{self.version}", self.split, seed)


@dataclass(frozen=True)
class EpisodeEntry:
    """One finished episode. ``failed_attempts`` are (seed, why) of the seeds tried before its own.

    ``size_bytes`` (0 where unknown) and ``simulated_sha256`` (empty where unknown, see :mod:`dataset.layout`) are
    missing in manifests of older datasets.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG

    file: Annotated[str, Field(pattern=r"\Aep_\d{6,9}\.hdf5\Z")]
    sha256: _Sha256
    seed: _Seed
    scene: _Sha256
    steps: _Count
    frames: _Count
    disturbances: tuple[_Text, ...]
    failed_attempts: tuple[tuple[_Seed, _Text], ...]
    size_bytes: Annotated[int, Field(ge=0, le=2**63)] = 0
    simulated_sha256: Literal[""] | _Sha256 = ""


@dataclass(frozen=True)
class Manifest:
    """A dataset's settings and finished episodes."""

    settings: Settings
    episodes: tuple[EpisodeEntry, ...] = ()

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
        DamagedManifestError: it is cut off or changed; paths and sizes in it are checked.
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
        content = path.read_bytes()
        version = read_json(path)["schema_version"]
        if version != SCHEMA_VERSION:
            raise DatasetError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}; make the dataset again")
        manifest = TypeAdapter(Manifest).validate_json(content, strict=True)
        if len({e.file for e in manifest.episodes}) != len(manifest.episodes):
            raise ValueError("an episode is listed twice")
        return manifest
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        why = explain(error) if isinstance(error, ValidationError) else str(error)[:200]
        raise DamagedManifestError(
            f"{path}: not a whole manifest ({why}); run the same datagen command again: it is rebuilt from the files"
        ) from error


def settings_json(settings: Settings) -> dict[str, Any]:
    """Settings as the file has them."""
    values = asdict(settings)
    values["rig"] = {"per_episode": isinstance(settings.rig, DrawnRig), **values["rig"]}
    for camera in values["rig"].get("cameras", ()):
        del camera["lens" if camera["lens"] is None else "fovy_rad"]
    plain: dict[str, Any] = json.loads(json.dumps(values, default=np.ndarray.tolist))
    return plain


def write_manifest(folder: Path, manifest: Manifest, *, checked_ns: int | None = None) -> None:
    """Write the manifest in one step: a reader sees the old one or the new one.

    ``checked_ns`` becomes the file's time: episodes that are changed after it have to be checked again.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "settings": settings_json(manifest.settings),
        "yield": {
            "episodes": len(manifest.episodes),
            "attempts": manifest.attempts,
            "failures": manifest.failures,
            "disturbed": sum(bool(e.disturbances) for e in manifest.episodes),
        },
        "episodes": [asdict(e) for e in manifest.episodes],
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
