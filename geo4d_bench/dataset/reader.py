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
from geo4d_bench.dataset.schema import DEPTH_SCALE_M, EPISODES, HANDS, SCENES, SCHEMA_VERSION, load_codecs
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.dataset.writer import decode_depth
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.rig import AnyRig
from geo4d_bench.geometry.se3 import Array

REMAKE = "; 'geo4d-bench verify --repair' or the same datagen command makes it again"


@dataclass(frozen=True)
class ViewFrames:
    """Frames of one camera: rgb (N, H, W, 3) uint8, depth (N, H, W) float32 m with NaN, seg (N, H, W) uint8."""

    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    seg: npt.NDArray[np.uint8]


class EpisodeFile:
    """One episode's file, opened when first needed and again in every process that uses it.

    Everything but the images is checked when the file is opened: nothing outside the file is read, no size is
    believed that has no bytes behind it, and what was simulated must have the digest that it was written with. An
    image with a flipped bit is found when it is read, by its checksum (files made before these checksums: by
    ``verify`` only).

    Args:
        path: the file.
        digest: False leaves the digest unchecked, for whoever says more exactly what was changed.

    Raises:
        DatasetError: the file is missing, cut off, changed, not an episode, or of another schema version; from
            every property and method too.
    """

    def __init__(self, path: Path | str, *, digest: bool = True) -> None:
        self.path, self._digest = Path(path), digest
        self._file: Any = None
        self._process = -1
        self._views: dict[str, _View] = {}
        _require_file(self.path)

    @property
    def name(self) -> str:
        """``ep_000003``"""
        return self.path.stem

    @property
    def file(self) -> Any:
        """The open h5py file of this process."""
        if self._file is None or self._process != os.getpid():  # an HDF5 handle must not cross a fork
            self._views = {}
            self._file, self._process = _open(self.path, self._digest), os.getpid()
        return self._file

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """The file's attributes as Python values; ``arms``, ``disturbances``, ``notes`` decoded."""
        return read_attributes(self.path, self.file)

    @cached_property
    def cameras(self) -> tuple[Camera, ...]:
        """The cameras that the episode was rendered from."""
        views = self.file["views"]
        with _named(self.path, "the cameras"):
            return tuple(_camera(name, views[name]) for name in sorted(views))

    @cached_property
    def steps(self) -> npt.NDArray[np.int32]:
        """(K,) control step of every frame."""
        with _named(self.path, "frames/step"):
            steps = np.asarray(self.file["frames/step"][()], dtype=np.int32)
            count = len(self.file["time"])
        if len(steps) == 0 or np.any(np.diff(steps) <= 0) or steps[0] < 0 or steps[-1] >= count:
            raise DatasetError(f"{self.path}: frames/step does not rise from 0 to {count - 1}{REMAKE}")
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
        return self._view(camera).K

    def T_world_cam(self, camera: str) -> Array:
        """(4, 4) pose of a camera."""
        return self._view(camera).T_world_cam

    def frames(self, camera: str, indices: Sequence[int] | npt.NDArray[np.int64]) -> ViewFrames:
        """Frames ``indices`` (N,) of one camera; an index may repeat. Reads only those frames."""
        view = self._view(camera)  # outside the block below: its sentence is its own
        order, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        with _named(self.path, f"frames of {camera}"):
            arrays = [_read(images, order) for images in (view.rgb, view.depth, view.seg)]
        rgb, depth, seg = (
            arrays
            if len(order) == len(inverse) and (np.diff(inverse) > 0).all()
            else (array[inverse] for array in arrays)
        )
        return ViewFrames(rgb, decode_depth(depth, DEPTH_SCALE_M), seg)

    def close(self) -> None:
        """Close the file in this process; it opens again when needed."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file, self._views = None, {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "digest": self._digest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self._digest = state["path"], state["digest"]
        self._file, self._process, self._views = None, -1, {}

    def _view(self, camera: str) -> _View:
        file = self.file  # opens again after a fork, and forgets the parent's handles
        if camera not in self._views:
            views = file["views"]
            if camera not in views:
                raise DatasetError(f"{self.path}: there is no camera '{camera}'; it has {', '.join(sorted(views))}")
            with _named(self.path, f"views/{camera}"):
                view = views[camera]
                if view["depth"].attrs["scale"] != DEPTH_SCALE_M:
                    raise ValueError(f"depth in units of {view['depth'].attrs['scale']} m, expected {DEPTH_SCALE_M}")
                self._views[camera] = _View(
                    view["rgb"], view["depth"], view["seg"], view["K"][()], view["T_world_cam"][()]
                )
        return self._views[camera]


@dataclass(frozen=True)
class _View:
    """Open h5py datasets of one camera's images, and its calibration."""

    rgb: Any
    depth: Any
    seg: Any
    K: Array
    T_world_cam: Array


def _read(images: Any, order: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Frames at rising indices, with what lies between two of them where that is in the same or the next chunk anyway
    (HDF5 takes 30 ms for 11 frames as one strided selection)."""
    runs = np.split(order, np.flatnonzero(np.diff(order) > images.chunks[0]) + 1) if len(order) else []
    found = [images[int(run[0]) : int(run[-1]) + 1][run - run[0]] for run in runs]
    if len(found) == 1:
        return np.asarray(found[0])
    return np.concatenate(found) if found else np.empty((0, *images.shape[1:]), dtype=images.dtype)


class Dataset:
    """A dataset's folder.

    Attributes:
        path: the folder.
        manifest: its manifest.

    Raises:
        DatasetError: the folder is missing, has no manifest, or is of another schema version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
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

    @property
    def rig(self) -> AnyRig:
        """The rig that every episode was rendered from; an episode's own ``cameras`` have the poses."""
        return self.manifest.settings.rig

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of their labels in part images."""
        return self.manifest.settings.arms

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.manifest.settings.height, self.manifest.settings.width

    def scene_path(self, sha256: str) -> Path:
        """The packed scene that episodes name; load it with ``rendering.scene.load_scene``."""
        return self.path / SCENES / f"{sha256}.zip"

    def hand(self, arm: str) -> HandModel:
        """The surface model of one arm's hand, as measured when the dataset was made."""
        if arm not in self._hands:
            self._hands[arm] = load_hand(self.path / HANDS / f"{arm}.npz")
        return self._hands[arm]


def read_attributes(path: Path, file: Any) -> dict[str, Any]:
    """The attributes of an episode's file as Python values, the JSON ones decoded; DatasetError."""
    with _named(path, "the attributes"):
        found = attributes_of(file)
        for name in ("arms", "disturbances", "notes"):
            found[name] = json.loads(found[name])
        found["cameras"] = json.loads(found["cameras"]) if "cameras" in found else sorted(file["views"])
        if not re.fullmatch(r"[0-9a-f]{64}", found["scene"]):  # it becomes part of a path
            raise DatasetError(f"{path}: attribute scene is no sha256{REMAKE}")
        return found


def read_simulated(path: Path, size_bytes: int = 0) -> tuple[Trajectory, dict[str, Any]]:
    """What was simulated, and the attributes, of a file whose views may be damaged or cut off.

    Args:
        path: the file.
        size_bytes: that it was written with, 0 where that is unknown. What was simulated lies at a file's beginning,
            so a file that was cut off is read with zeros in place of what is missing.

    Raises:
        DatasetError: what was simulated is damaged too.
    """
    file = open_hdf5(path, size_bytes)
    try:
        with _named(path, "what was simulated"):
            check_trajectory(file)
            if attributes_of(file).get(DIGEST) not in (None, simulated_sha256(file)):
                raise DatasetError(f"{path}: what was simulated was changed after it was written{REMAKE}")
        attributes = read_attributes(path, file)
        return _read_trajectory(path, file, attributes), attributes
    finally:
        file.close()


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
    camera = Camera(name, view["T_world_cam"][()], float(attributes["fovy_rad"]), split)
    if not np.allclose(view["K"][()], camera.K(*view["depth"].shape[1:]), rtol=1e-9, atol=1e-9):
        raise ValueError(f"fovy_rad and K of {name} contradict each other")
    return camera


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such episode; run 'geo4d-bench verify {path.parent.parent}'")


def open_hdf5(path: Path, padded_to: int = 0) -> Any:
    """An episode's file of this schema version, its layout still to be checked; DatasetError.

    A file of less than ``padded_to`` bytes is read into memory and filled up with zeros.
    """
    import h5py

    load_codecs()
    _require_file(path)
    try:
        short = padded_to - path.stat().st_size
        source = io.BytesIO(path.read_bytes() + bytes(short)) if short > 0 else path
        file = h5py.File(source, "r", rdcc_nbytes=0)  # what is needed of a chunk is read at once
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path}: not a whole HDF5 file ({error}){REMAKE}") from error
    try:
        with _named(path, "the attributes"):
            version = file.attrs.get("schema_version")
        if version != SCHEMA_VERSION:
            found = "no schema version" if version is None else f"schema version {version}"
            raise DatasetError(f"{path}: {found}, expected {SCHEMA_VERSION}; make the dataset again with this release")
    except DatasetError:
        file.close()
        raise
    return file


def _open(path: Path, digest: bool) -> Any:
    file = open_hdf5(path)
    try:
        with _named(path, "its structure"):
            try:
                check_layout(file)
            except DatasetError as error:
                raise DatasetError(f"{path}: {error}{REMAKE}") from error
            if digest and attributes_of(file).get(DIGEST) not in (None, simulated_sha256(file)):
                raise DatasetError(f"{path}: its attributes or arrays were changed after it was written{REMAKE}")
    except DatasetError:
        file.close()
        raise
    return file


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Whatever h5py raises on damaged bytes becomes a sentence with the file's name."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError) as error:
        raise DatasetError(f"{path}: {what} cannot be read ({error}){REMAKE}") from error
