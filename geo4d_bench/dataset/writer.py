"""Writing one episode: to a temporary name first, renamed when whole, so that a file that exists is whole."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.layout import DIGEST, simulated_sha256
from geo4d_bench.dataset.schema import CHUNK_FRAMES, DEPTH_SCALE_M, IMAGES, SCHEMA_VERSION, codec
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.io import write_atomic


class EpisodeWriter:
    """Collects an episode frame by frame; the file appears under its name when the ``with`` block ends well.

    The compressed file grows in memory (about 4 MB for 16 cameras of 64 x 80 and 12 s, 45 MB at 256 x 320, where a
    chunk of frames that is not full yet takes up to 63 MB more) and goes to disk in one piece: HDF5 1.14 crashes the
    process when the disk fills up under an open file.

    Args:
        path: where the episode goes; an existing file is replaced only when the new one is whole.
        trajectory: what was simulated.
        steps: (K,) control step of every frame that will be added.
        video_hz: frames a second of the simulated time.
        cameras: in the order of the images that will be added.
        height, width: pixels.
        seg_names: what the labels of segmentation images mean.
        notes: further attributes of the episode (JSON values).

    Raises:
        DatasetError: the disk is full or the folder cannot be written (the temporary file is removed), or fewer
            frames were added than ``steps`` names.
    """

    def __init__(
        self,
        path: Path,
        trajectory: Trajectory,
        *,
        steps: npt.NDArray[np.int32],
        video_hz: float,
        cameras: Sequence[Camera],
        height: int,
        width: int,
        seg_names: Sequence[str],
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._cameras, self._size = tuple(cameras), (height, width)
        self._frames, self._added = len(steps), 0
        self._file: Any = None
        self._images: list[dict[str, Any]] = []
        self._waiting: list[tuple[npt.NDArray[Any], ...]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(path.name, "w", driver="core", backing_store=False, libver="v110")
            self._write_trajectory(trajectory, np.asarray(steps, dtype=np.int32), video_hz, notes or {})
            self._create_views(seg_names)
        except BaseException as error:
            self._abandon()
            raise _readable(error, self.path) from error

    def add(self, rgb: npt.NDArray[np.uint8], depth: npt.NDArray[np.float32], seg: npt.NDArray[np.uint8]) -> None:
        """Append one frame of every camera: rgb (V, H, W, 3), depth (V, H, W) metres with NaN, seg (V, H, W)."""
        expected = (len(self._cameras), *self._size)
        if depth.shape != expected or seg.shape != expected or rgb.shape != (*expected, 3):
            raise DatasetError(f"{self.path.name}: a frame of shape {depth.shape}, expected {expected}")
        if self._added >= self._frames:
            raise DatasetError(f"{self.path.name}: frame {self._added + 1} added, frames/step has {self._frames}")
        self._waiting.append((rgb, encode_depth(depth), seg))
        self._added += 1
        if len(self._waiting) == CHUNK_FRAMES or self._added == self._frames:
            self._write_waiting()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            self._abandon()
            return
        if self._added != self._frames:
            self._abandon()
            raise DatasetError(f"{self.path.name}: {self._added} frames added, frames/step has {self._frames}")
        try:
            self._file.flush()
            write_atomic(self.path, self._file.id.get_file_image())
            self._file.close()
        except BaseException as failure:
            self._abandon()
            raise _readable(failure, self.path) from failure

    def _write_trajectory(
        self, trajectory: Trajectory, steps: npt.NDArray[np.int32], video_hz: float, notes: Mapping[str, Any]
    ) -> None:
        t, file = trajectory, self._file
        attributes = {
            "schema_version": SCHEMA_VERSION, "task": t.task, "version": t.version, "seed": t.seed, "split": t.split,
            "success": t.success, "phase": t.phase, "control_hz": t.control_hz, "video_hz": video_hz,
            "language": t.language, "scene": t.scene, "arms": json.dumps(list(t.T_world_ee)),
            "disturbances": json.dumps([list(d) for d in t.disturbances]), "notes": json.dumps(dict(notes)),
            "cameras": json.dumps([camera.name for camera in self._cameras]),
        }  # fmt: skip
        for name, value in attributes.items():
            file.attrs[name] = _guarded(value)
        arrays: dict[str, npt.NDArray[Any]] = {
            "states": np.asarray(t.states, dtype=np.float64),
            "actions": np.asarray(t.actions, dtype=np.float32),
            "time": np.asarray(t.time, dtype=np.float64),
            "frames/step": steps,
        }
        for arm in t.T_world_ee:
            arrays[f"ee/{arm}/T_world_ee"] = np.asarray(t.T_world_ee[arm], dtype=np.float64)
            arrays[f"ee/{arm}/opening"] = np.asarray(t.opening_m[arm], dtype=np.float64)
        for name, poses in t.T_world_obj.items():
            arrays[f"objects/{name}/T_world_obj"] = np.asarray(poses, dtype=np.float64)
        for name, values in arrays.items():
            _write_whole(file, name, values)
        file.attrs[DIGEST] = _guarded(simulated_sha256(file))
        # Gives all of this its place before the images': a file that is cut off later still has what was simulated.
        file.flush()

    def _create_views(self, seg_names: Sequence[str]) -> None:
        height, width = self._size
        options = codec()
        kinds = {"rgb": ((3,), np.uint8), "depth": ((), np.uint16), "seg": ((), np.uint8)}
        for camera in self._cameras:
            view = self._file.create_group(f"views/{camera.name}")
            _write_whole(view, "K", camera.K(height, width))
            _write_whole(view, "T_world_cam", np.asarray(camera.T_world_cam, dtype=np.float64))
            view.attrs["split"], view.attrs["fovy_rad"] = _guarded(camera.split), camera.fovy_rad
            images = {}
            for name in IMAGES:
                channels, dtype = kinds[name]
                shape = (height, width, *channels)
                chunks = min(CHUNK_FRAMES, self._frames), *shape
                images[name] = view.create_dataset(
                    name, shape=(self._frames, *shape), chunks=chunks, dtype=dtype, fletcher32=True, **options
                )
            images["depth"].attrs["scale"] = DEPTH_SCALE_M
            images["seg"].attrs["names"] = _guarded(json.dumps(list(seg_names)))
            self._images.append(images)

    def _write_waiting(self) -> None:
        """A whole chunk at once: HDF5 would compress it anew for each frame."""
        first = self._added - len(self._waiting)
        for name, frames in zip(IMAGES, zip(*self._waiting, strict=True), strict=True):
            for view, images in enumerate(self._images):
                images[name][first : self._added] = np.stack([frame[view] for frame in frames])
        self._waiting.clear()

    def _abandon(self) -> None:
        """Forget the episode: nothing of it is on disk yet."""
        if self._file is not None:
            self._file.close()


def _guarded(value: Any) -> Any:
    """Text as UTF-8 of fixed length: HDF5 keeps text of variable length outside the headers, without a checksum."""
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def _write_whole(group: Any, name: str, values: npt.NDArray[Any]) -> None:
    """An array in one chunk with a checksum, so that a flipped bit is an error and no other number."""
    chunked = {"chunks": values.shape, "fletcher32": True} if values.size else {}
    group.create_dataset(name, data=values, **chunked)


def encode_depth(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Depth in metres to stored units; NaN, and what does not fit, becomes 0."""
    units = np.rint(depth.astype(np.float64) / DEPTH_SCALE_M)
    return np.where((units >= 1) & (units <= np.iinfo(np.uint16).max), units, 0).astype(np.uint16)


def decode_depth(units: npt.NDArray[np.uint16], scale: float = DEPTH_SCALE_M) -> npt.NDArray[np.float32]:
    """Stored units to metres, NaN where invalid."""
    depth = units.astype(np.float32)
    depth *= np.float32(scale)
    depth[units == 0] = np.nan
    return depth


def world_motion(poses: Array, dt_s: float) -> Array:
    """Speed (S,) m/s of poses (S, 4, 4) towards the next one; the last row repeats the one before it."""
    if len(poses) < 2:
        return np.zeros(len(poses))
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) / dt_s
    return np.append(speed, speed[-1])


def _readable(error: BaseException, path: Path) -> BaseException:
    """A sentence for what users can cause; other errors stay as they are."""
    if isinstance(error, DatasetError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatasetError(
            f"{path}: the disk is full; finished episodes are kept: make room and run the same command again"
        )
    if isinstance(error, OSError):
        return DatasetError(f"{path}: cannot be written ({error}); choose another --out")
    return error
