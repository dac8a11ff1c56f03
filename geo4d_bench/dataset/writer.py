"""Writing one episode: to a temporary name first, renamed when whole, so that a file that exists is whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.layout import ARRAYS, DIGEST, arrays_of, simulated_sha256
from geo4d_bench.dataset.schema import CHUNK_FRAMES, DEPTH_SCALE_M, IMAGES, SCHEMA_VERSION, codec
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.errors import FULL, DatasetError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.io import write_atomic

Frame = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]
"""One moment from V cameras: rgb (V, H, W, 3), depth (V, H, W) metres with NaN, seg (V, H, W)."""


def write_episode(
    path: Path,
    trajectory: Trajectory,
    frames: Iterable[Frame],
    *,
    steps: npt.NDArray[np.int32],
    video_hz: float,
    cameras: Sequence[Camera],
    height: int,
    width: int,
    seg_names: Sequence[str],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write an episode frame by frame; an existing file is replaced only when the new one is whole.

    The compressed file grows in memory (about 4 MB for 16 cameras of 64 x 80 and 12 s, 45 MB at 256 x 320, where a
    chunk of frames takes up to 63 MB more) and goes to disk in one piece: HDF5 1.14 crashes the process when the disk
    fills up under an open file.

    Args:
        path: where the episode goes.  trajectory: what was simulated.
        frames: one for each of ``steps``, of all ``cameras`` in their order; none where there are no cameras.
        steps: (K,) control step of every frame.  video_hz: frames a second of the simulated time.
        height, width: pixels.  seg_names: what the labels of segmentation images mean.
        notes: further attributes of the episode (JSON values).

    Raises:
        DatasetError: the disk is full, the folder cannot be written, or ``frames`` are not as many or not as large as
            announced. Nothing is left on disk then.
    """
    frames, count, shape = iter(frames), len(steps) if cameras else 0, (len(cameras), height, width)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path.name, "w", driver="core", backing_store=False, libver="v110") as file:
            _write_trajectory(file, trajectory, steps, video_hz, cameras, notes or {})
            if not cameras:
                file.create_group("views")
            views = [_create_view(file, camera, count, height, width, seg_names) for camera in cameras]
            for first in range(0, count, CHUNK_FRAMES):  # a whole chunk at once: HDF5 would compress it anew each time
                last = min(first + CHUNK_FRAMES, count)
                chunk = [_encoded(path, frame, shape) for frame in itertools.islice(frames, last - first)]
                if len(chunk) < last - first:
                    raise DatasetError(f"{path.name}: {first + len(chunk)} frames added, frames/step has {count}")
                for name, images in zip(IMAGES, zip(*chunk, strict=True), strict=True):
                    for index, view in enumerate(views):
                        view[name][first:last] = np.stack([image[index] for image in images])
            if next(frames, None) is not None:
                raise DatasetError(f"{path.name}: frame {count + 1} added, frames/step has {count}")
            file.flush()
            write_atomic(path, file.id.get_file_image())
    except OSError as error:
        if error.errno in FULL:
            raise DatasetError(
                f"{path}: {FULL[error.errno]}; finished episodes are kept: make room and run the same command again"
            ) from error
        raise DatasetError(f"{path}: cannot be written ({error}); choose another --out") from error


def _write_trajectory(
    file: Any,
    t: Trajectory,
    steps: npt.NDArray[np.int32],
    video_hz: float,
    cameras: Sequence[Camera],
    notes: Mapping[str, Any],
) -> None:
    attributes = {
        "schema_version": SCHEMA_VERSION, "task": t.task, "version": t.version, "seed": t.seed, "split": t.split,
        "success": t.success, "phase": t.phase, "control_hz": t.control_hz, "video_hz": video_hz,
        "language": t.language, "scene": t.scene, "arms": json.dumps(list(t.T_world_ee)),
        "disturbances": json.dumps([list(d) for d in t.disturbances]), "notes": json.dumps(dict(notes)),
        "cameras": json.dumps([camera.name for camera in cameras]),
    }  # fmt: skip
    for name, value in attributes.items():
        file.attrs[name] = _guarded(value)
    arrays: dict[str, npt.ArrayLike] = {
        "states": t.states, "actions": t.actions, "time": t.time, "frames/step": steps
    }  # fmt: skip
    for arm in t.T_world_ee:
        arrays |= {f"ee/{arm}/T_world_ee": t.T_world_ee[arm], f"ee/{arm}/opening": t.opening_m[arm]}
    arrays |= {f"objects/{name}/T_world_obj": poses for name, poses in t.T_world_obj.items()}
    kinds = arrays_of(t.T_world_ee, t.T_world_obj)
    for path, values in arrays.items():
        _write_whole(file, path, np.asarray(values, dtype=kinds[path][1]))
    file.attrs[DIGEST] = _guarded(simulated_sha256(file))
    # Gives all of this its place before the images': a file that is cut off later still has what was simulated.
    file.flush()


def _create_view(
    file: Any, camera: Camera, count: int, height: int, width: int, seg_names: Sequence[str]
) -> dict[str, Any]:
    """The datasets of a camera's images, still empty."""
    view = file.create_group(f"views/{camera.name}")
    _write_whole(view, "K", camera.K(height, width))
    _write_whole(view, "T_world_cam", np.asarray(camera.T_world_cam, dtype=np.float64))
    view.attrs["split"] = _guarded(camera.split)
    if camera.lens is None:
        view.attrs["fovy_rad"] = camera.fovy_rad
    else:
        view.attrs["lens"] = astuple(camera.lens)
    images = {}
    for name in IMAGES:
        letters, dtype = ARRAYS[f"views/*/{name}"]
        shape = (height, width, *letters[3:])
        chunks = (min(CHUNK_FRAMES, count), *shape)
        images[name] = view.create_dataset(
            name, shape=(count, *shape), chunks=chunks, dtype=dtype, fletcher32=True, **codec()
        )
    images["depth"].attrs["scale"] = DEPTH_SCALE_M
    images["seg"].attrs["names"] = _guarded(json.dumps(list(seg_names)))
    return images


def _encoded(path: Path, frame: Frame, shape: tuple[int, int, int]) -> tuple[npt.NDArray[Any], ...]:
    rgb, depth, seg = frame
    if depth.shape != shape or seg.shape != shape or rgb.shape != (*shape, 3):
        raise DatasetError(f"{path.name}: a frame of shape {depth.shape}, expected {shape}")
    return rgb, encode_depth(depth), seg


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
