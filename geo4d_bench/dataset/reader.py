"""Reading a dataset: the folder, its episodes, and single frames of single cameras."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.hands import load_hand
from geo4d_bench.dataset.layout import DIGEST, attributes_of, check_layout, check_trajectory, simulated_sha256
from geo4d_bench.dataset.manifest import Manifest, read_manifest
from geo4d_bench.dataset.schema import DEPTH_SCALE_M, EPISODES, HANDS, IMAGES, SCENES, SCHEMA_VERSION, load_codecs
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.dataset.writer import decode_depth
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.camera import Camera, Lens
from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.rig import AnyRig
from geo4d_bench.geometry.se3 import Array

REMAKE = "; 'geo4d-bench verify --repair' or the same datagen command makes it again"

NO_IMAGES = "has no images, only what was simulated; 'geo4d-bench render DATASET --out FOLDER' draws them"


@dataclass(frozen=True)
class ViewFrames:
    """Frames of one camera: rgb (N, H, W, 3) uint8, depth (N, H, W) float32 m with NaN, seg (N, H, W) uint8."""

    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    seg: npt.NDArray[np.uint8]


class EpisodeFile:
    """One episode's file, opened when first needed and again in every process that uses it.

    Opening checks everything but the images: layout, sizes, and (unless ``digest`` is False) the digest of what was
    simulated. An image with a flipped bit is found when it is read, by its checksum (in files made before these
    checksums: by ``verify`` only).

    Raises:
        DatasetError: the file is missing, cut off, changed, not an episode, or of another schema version; from
            every property and method too.
    """

    def __init__(self, path: Path | str, digest: bool = True) -> None:
        self.path, self._digest = Path(path), digest
        self._file: Any = None
        self._process = -1
        self._views: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            raise DatasetError(f"{path}: there is no such episode; run 'geo4d-bench verify {self.path.parent.parent}'")

    def __reduce__(self) -> tuple[Any, ...]:
        return EpisodeFile, (self.path, self._digest)

    @property
    def name(self) -> str:
        """``ep_000003``"""
        return self.path.stem

    @property
    def file(self) -> Any:
        """The open h5py file of this process."""
        if self._file is None or self._process != os.getpid():  # an HDF5 handle must not cross a fork
            self._file, self._process, self._views = _open(self.path, digest=self._digest), os.getpid(), {}
        return self._file

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """The file's attributes as Python values; ``arms``, ``disturbances``, ``notes`` decoded."""
        return _read_attributes(self.path, self.file)

    @cached_property
    def cameras(self) -> tuple[Camera, ...]:
        """The cameras that the episode was rendered from."""
        views = self.file["views"]
        with _named(self.path, "the cameras"):
            return tuple(_camera(name, views[name]) for name in sorted(views))

    @cached_property
    def steps(self) -> npt.NDArray[np.int32]:
        """(K,) control step of every frame."""
        file = self.file
        with _named(self.path, "frames/step"):
            steps, count = np.asarray(file["frames/step"][()], dtype=np.int32), len(file["time"])
            if len(steps) == 0 or np.any(np.diff(steps) <= 0) or steps[0] < 0 or steps[-1] >= count:
                raise DatasetError(f"frames/step does not rise from 0 to {count - 1}")
        return steps

    @cached_property
    def seg_names(self) -> tuple[str, ...]:
        """What the labels of segmentation images mean."""
        views = self.file["views"]
        with _named(self.path, "the names of the labels"):
            return tuple(str(name) for name in json.loads(attributes_of(views[min(views)]["seg"])["names"]))

    @cached_property
    def trajectory(self) -> Trajectory:
        """Everything that was simulated."""
        return _read_trajectory(self.path, self.file, self.attrs)

    def K(self, camera: str) -> Array:
        """(3, 3) intrinsics of a camera at the stored resolution."""
        return np.asarray(self._view(camera)["K"])

    def T_world_cam(self, camera: str) -> Array:
        """(4, 4) pose of a camera."""
        return np.asarray(self._view(camera)["T_world_cam"])

    def frames(self, camera: str, indices: Sequence[int] | npt.NDArray[np.int64]) -> ViewFrames:
        """Frames ``indices`` (N,) of one camera; an index may repeat. Reads only those frames."""
        view = self._view(camera)
        order, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        with _named(self.path, f"frames of {camera}"):
            rgb, depth, seg = (_read(view[name], order) for name in IMAGES)
        if len(order) < len(inverse) or not (np.diff(inverse) > 0).all():
            rgb, depth, seg = rgb[inverse], depth[inverse], seg[inverse]
        return ViewFrames(rgb, decode_depth(depth), seg)

    def close(self) -> None:
        """Close the file in this process; it opens again when needed."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    def _view(self, camera: str) -> dict[str, Any]:
        """The open datasets of a camera's images, its K and T_world_cam."""
        file = self.file  # opens again after a fork, and forgets the parent's handles
        if camera not in self._views:
            views = file["views"]
            if camera not in views:
                raise DatasetError(f"{self.path}: there is no camera '{camera}'; it has {', '.join(sorted(views))}")
            with _named(self.path, f"views/{camera}"):
                view = views[camera]
                if view["depth"].attrs["scale"] != DEPTH_SCALE_M:
                    raise ValueError(f"depth in units of {view['depth'].attrs['scale']} m, expected {DEPTH_SCALE_M}")
                calibration = {name: view[name][()] for name in ("K", "T_world_cam")}
                self._views[camera] = {name: view[name] for name in IMAGES} | calibration
        return self._views[camera]


def _read(images: Any, order: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Frames at rising indices, with what lies between two of them where that is in the same or the next chunk anyway
    (HDF5 takes 30 ms for 11 frames as one strided selection)."""
    runs = np.split(order, np.flatnonzero(np.diff(order) > images.chunks[0]) + 1)
    return np.concatenate([images[int(run[0]) : int(run[-1]) + 1][run - run[0]] for run in runs])


class Dataset:
    """A dataset's folder.

    Attributes:
        path: the folder.
        manifest: its manifest.
        rig: that every episode was rendered from; an episode's own ``cameras`` have the poses.
        arms: their names, in the order of their labels in part images.
        size: (height, width) of the images.

    Raises:
        DatasetError: the folder is missing, has no manifest, or is of another schema version; has no images, unless
            ``images`` is False.
    """

    def __init__(self, path: Path | str, images: bool = True) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        s = self.manifest.settings
        if images and s.views == "none":
            raise DatasetError(f"{path}: {NO_IMAGES}")
        self.rig: AnyRig = s.rig
        self.arms, self.size = s.arms, (s.height, s.width)
        self._hands: dict[str, HandModel] = {}

    @cached_property
    def episodes(self) -> tuple[EpisodeFile, ...]:
        """The episodes in their order; DatasetError where there is none or the manifest names a missing file."""
        if not self.manifest.episodes:
            raise DatasetError(f"{self.path}: no finished episodes; run the datagen command that began it again")
        return tuple(EpisodeFile(self.path / EPISODES / entry.file) for entry in self.manifest.episodes)

    @property
    def identity(self) -> str:
        """64 hex digits over the contents of every episode: what a dataset is, wherever it lies."""
        return hashlib.sha256("".join(entry.sha256 for entry in self.manifest.episodes).encode()).hexdigest()

    def known_cameras(self, names: Sequence[str]) -> tuple[str, ...]:
        """``names``; ConfigError where the rig has no such camera."""
        known = self.rig.camera_names()
        for name in names:
            if name not in known:
                raise ConfigError(f"rig '{self.rig.name}' has no camera '{name}'; it has {', '.join(known)}")
        return tuple(names)

    def scene_path(self, sha256: str) -> Path:
        """The packed scene that episodes name; load it with ``rendering.scene.load_scene``."""
        return self.path / SCENES / f"{sha256}.zip"

    def hand(self, arm: str) -> HandModel:
        """The surface model of one arm's hand, as measured when the dataset was made."""
        if arm not in self._hands:
            self._hands[arm] = load_hand(self.path / HANDS / f"{arm}.npz")
        return self._hands[arm]


def read_simulated(path: Path, size_bytes: int = 0) -> tuple[Trajectory, dict[str, Any]]:
    """What was simulated, and the attributes, of a file whose views may be damaged or cut off.

    What was simulated lies at a file's beginning: one that was written with more bytes (``size_bytes``) is read with
    zeros in place of what is missing. DatasetError where what was simulated is damaged too.
    """
    with _open(path, views=False, padded_to=size_bytes) as file:
        attributes = _read_attributes(path, file)
        return _read_trajectory(path, file, attributes), attributes


def _read_attributes(path: Path, file: Any) -> dict[str, Any]:
    """Attributes as Python values, the JSON ones decoded."""
    with _named(path, "the attributes"):
        found = attributes_of(file)
        for name in ("arms", "disturbances", "notes"):
            found[name] = json.loads(found[name])
        found["cameras"] = json.loads(found["cameras"]) if "cameras" in found else sorted(file["views"])
        if not re.fullmatch(r"[0-9a-f]{64}", found["scene"]):  # it becomes part of a path
            raise DatasetError("attribute scene is no sha256")
        return found


def _read_trajectory(path: Path, file: Any, attributes: dict[str, Any]) -> Trajectory:
    a = attributes
    with _named(path, "what was simulated"):
        return Trajectory(
            task=a["task"], version=a["version"], seed=int(a["seed"]), split=a["split"], language=a["language"],
            success=bool(a["success"]), phase=a["phase"], control_hz=float(a["control_hz"]),
            states=file["states"][()], actions=file["actions"][()], time=file["time"][()],
            T_world_ee={arm: file[f"ee/{arm}/T_world_ee"][()] for arm in a["arms"]},
            opening_m={arm: file[f"ee/{arm}/opening"][()] for arm in a["arms"]},
            T_world_obj={name: file[f"objects/{name}/T_world_obj"][()] for name in sorted(file.get("objects", {}))},
            scene=a["scene"], disturbances=tuple((int(s), str(n)) for s, n in a["disturbances"]),
        )  # fmt: skip


def _camera(name: str, view: Any) -> Camera:
    attributes = attributes_of(view)
    split = attributes["split"]
    if split not in ("seen", "novel"):
        raise ValueError(f"the split of {name} is {split!r}")
    lens = Lens(*map(float, attributes["lens"])) if "lens" in attributes else None
    fovy_rad = float(attributes["fovy_rad"]) if lens is None else None
    camera = Camera(name, view["T_world_cam"][()], fovy_rad, split, lens)
    if not np.allclose(view["K"][()], camera.K(*view["depth"].shape[1:]), rtol=1e-9, atol=1e-9):
        raise ValueError(f"{'fovy_rad' if lens is None else 'lens'} and K of {name} contradict each other")
    return camera


def _open(path: Path, *, digest: bool = True, views: bool = True, padded_to: int = 0) -> Any:
    """An episode's open file, checked with or without its digest and views; DatasetError.

    A file of less than ``padded_to`` bytes is read into memory and filled up with zeros.
    """
    import h5py

    load_codecs()
    try:
        short = padded_to - path.stat().st_size
        source = io.BytesIO(path.read_bytes() + bytes(short)) if short > 0 else path
        file = h5py.File(source, "r", rdcc_nbytes=0)  # what is needed of a chunk is read at once
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path}: not a whole HDF5 file ({error}){REMAKE}") from error
    try:
        with _named(path, "the attributes"):
            version = file.attrs.get("schema_version")
        if not np.array_equal(version, SCHEMA_VERSION):
            found = "no schema version" if version is None else f"schema version {version}"
            raise DatasetError(f"{path}: {found}, expected {SCHEMA_VERSION}; make the dataset again with this release")
        with _named(path, "its structure"):
            (check_layout if views else check_trajectory)(file)
            if digest and attributes_of(file).get(DIGEST) not in (None, simulated_sha256(file)):
                raise DatasetError("what was simulated was changed after it was written")
    except DatasetError:
        file.close()
        raise
    return file


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Completes the sentence of a DatasetError, and makes one of whatever h5py raises on damaged bytes."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}{REMAKE}") from error
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError) as error:
        raise DatasetError(f"{path}: {what} cannot be read ({error}){REMAKE}") from error
