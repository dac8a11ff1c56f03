"""Training windows: one condition frame and the T frames that follow it, from two cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.reader import Dataset, EpisodeFile, ViewFrames
from geo4d_bench.dataset.sensors import SENSORS, SensorName
from geo4d_bench.dataset.types import Window
from geo4d_bench.dataset.writer import decode_depth, encode_depth
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.camera import ViewSplit, depth_to_points
from geo4d_bench.geometry.hand import NO_PART, hand_mask, part_image, scale_to_hands
from geo4d_bench.geometry.rig import Rig
from geo4d_bench.geometry.se3 import Array, inverse
from geo4d_bench.seeding import generator

REMEMBER_BYTES = 8 * 1024**3
"""Of unpacked images; 240 episodes of 16 cameras at 64 x 80 take 6.9 GiB."""


@dataclass(frozen=True)
class _Images:
    """Frames of one camera as windows need them: ``ViewFrames.rgb``, what ``Sensor.geometry`` leaves of its depth (of
    perfect depth, which is as it is stored, the stored units), ``part_image``, and for a sensor that is not metric the
    true depth of each frame's hand pixels."""

    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[Any]
    parts: npt.NDArray[np.uint8]
    hand_depth: list[npt.NDArray[np.float32]] | None

    def at(self, frames: npt.NDArray[np.int64]) -> _Images:
        """A copy of those frames, with their depth in metres."""
        hand_depth = None if self.hand_depth is None else [self.hand_depth[i] for i in frames]
        depth = self.depth[frames]
        metres = decode_depth(depth) if depth.dtype == np.uint16 else depth
        return _Images(self.rgb[frames], metres, self.parts[frames], hand_depth)


@dataclass(frozen=True)
class Place:
    """What of a window is no image: the file's ``frames`` (1 + T,), and else the fields of :class:`Window`."""

    frames: npt.NDArray[np.int64]
    K: Array
    T_world_n: Array
    T_world_m: Array
    T_world_ee: Array
    opening_m: Array

    @property
    def T_n_m(self) -> Array:
        return inverse(self.T_world_n) @ self.T_world_m

    @property
    def T_n_ee(self) -> Array:
        T: Array = inverse(self.T_world_n) @ self.T_world_ee
        return T


class Windows:
    """All windows of one or several datasets that share their task, image size and frame rate.

    Which starts are kept: those where something happens. An arm moves faster than ``MOVING_M_S`` at the start, or a
    gripper's opening changes by more than ``GRIPPING_M`` within the first second: the hand stands still while it
    grasps or lets go, and a model that never saw these moments cannot act in them. ``moving=False`` keeps all.

    Towards the end of an episode, future frames that do not exist repeat the last one (a policy must learn to stop),
    as long as no more than ``pad_share`` of the T future frames are such.

    Args:
        datasets: a dataset, a folder, or several of them.
        cameras: ``seen`` or ``novel`` (by the rig's split), or names of cameras, two at least.
        horizon: T, number of future frames.
        dt_s: seconds between frames of a window; a multiple of the dataset's 1 / video_hz.
        moving: whether to leave out starts where nothing happens.
        pad_share: largest share of repeated future frames, 0 to 1.
        remember_bytes: of unpacked images that each process keeps in memory; cameras of episodes that do not fit are
            read from the file each time.
        sensor: how the cameras measure the depth of all frames; each window is a video of its own. One that is not
            metric is scaled by the hands in its first frame; hands of future frames, the targets, have true depth.
        both_poses: whether view m's pose is given too: only then is its first frame scaled.

    Raises:
        DatasetError: a dataset or episode cannot be read, or (from its windows) has a camera without any depth.
        ConfigError: fewer than two cameras, a dt_s that frames do not fall on, or no window is left.
    """

    MOVING_M_S = 0.02
    GRIPPING_M = 0.004

    def __init__(
        self,
        datasets: Dataset | Path | str | Sequence[Dataset | Path | str],
        cameras: ViewSplit | Sequence[str] = "seen",
        *,
        horizon: int = 10,
        dt_s: float = 0.4,
        moving: bool = True,
        pad_share: float = 0.5,
        remember_bytes: int = REMEMBER_BYTES,
        sensor: SensorName = "perfect",
        both_poses: bool = False,
    ) -> None:
        several = [datasets] if isinstance(datasets, Dataset | Path | str) else list(datasets)
        self.datasets = tuple(d if isinstance(d, Dataset) else Dataset(d) for d in several)
        if not self.datasets:
            raise ConfigError("no dataset was given; give at least one folder that datagen wrote")
        self.horizon, self.dt_s, self.pad_share = int(horizon), float(dt_s), float(pad_share)
        self.stride = _stride(self.datasets, self.dt_s)
        self.cameras = _camera_names(self.datasets, cameras)
        self.arms = self.datasets[0].arms
        self.remember_bytes = remember_bytes
        self.sensor, self.both_poses = SENSORS.get(sensor), both_poses
        self._remembered: dict[tuple[int, str], _Images] = {}
        self._remembered_bytes = 0
        self.episodes = tuple((dataset, episode) for dataset in self.datasets for episode in dataset.episodes)
        self.starts = tuple(
            (index, frame)
            for index, (_, episode) in enumerate(self.episodes)
            for frame in self._frames_to_start(episode, moving)
        )  # an episode (index over all datasets) and one of its frames
        if not self.starts:
            raise ConfigError(
                f"no window of {self.horizon} frames, {self.dt_s} s apart, fits into {len(self.episodes)} episodes; "
                "use a shorter horizon or more pad_share"
            )

    def __len__(self) -> int:
        """Number of starts; each can be seen from every pair of cameras."""
        return len(self.starts)

    def sample(self, rng: np.random.Generator) -> Window:
        """A random start seen from a random ordered pair of two distinct cameras, on a ring from two that are a pair
        there (``Rig.partner``), with the sensor's noise.

        Start and pair do not depend on the sensor: one ``rng`` shows the same window to each.
        """
        return self.window(*self.draw(rng), rng)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, str, str]:
        """Episode, start, view n and view m of :meth:`sample`."""
        episode, start = self.starts[int(rng.integers(len(self.starts)))]
        n, m = map(int, rng.choice(len(self.cameras), size=2, replace=False))
        rig = self.datasets[0].rig
        if isinstance(rig, Rig) and rig.ring_offset and self.cameras == rig.camera_names():
            m = rig.partner(n)
        return episode, start, self.cameras[n], self.cameras[m]

    def place(self, episode: int, start: int, camera_n: str, camera_m: str) -> Place:
        """What is no image of the :meth:`window` of that key."""
        file = self.episodes[episode][1]
        steps, trajectory = file.steps, file.trajectory
        if not 0 <= start < len(steps):
            raise ConfigError(
                f"{file.name}: a window at frame {start}, but the episode has frames 0 to {len(steps) - 1}"
            )
        frames = np.minimum(start + self.stride * np.arange(self.horizon + 1), len(steps) - 1)
        at = steps[frames]
        return Place(
            frames=frames,
            K=np.stack([file.K(name) for name in (camera_n, camera_m)]),
            T_world_n=file.T_world_cam(camera_n),
            T_world_m=file.T_world_cam(camera_m),
            T_world_ee=np.stack([trajectory.T_world_ee[arm][at] for arm in self.arms]),
            opening_m=np.stack([trajectory.opening_m[arm][at] for arm in self.arms]),
        )

    def hand_mask(self, episode: int, place: Place, points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """(H, W) ``Window.hand_mask`` of view n's first points (H, W, 3)."""
        models = [self.episodes[episode][0].hand(arm) for arm in self.arms]
        return hand_mask(points, list(zip(models, place.T_n_ee[:, 0], place.opening_m[:, 0], strict=True)))

    def window(
        self, episode: int, start: int, camera_n: str, camera_m: str, rng: np.random.Generator | None = None
    ) -> Window:
        """The window that starts at a frame of an episode, with view n ``camera_n`` and view m ``camera_m``.

        ``start`` may be any frame of the episode, also one that is not in ``starts``. ``rng`` draws the sensor's
        noise; without it, each window has its own noise and always the same.
        """
        dataset, file = self.episodes[episode]
        place = self.place(episode, start, camera_n, camera_m)
        trajectory, names, at = file.trajectory, (camera_n, camera_m), file.steps[place.frames]
        views = [self._images(episode, name, place.frames) for name in names]
        K, T_world_ee, opening = place.K, place.T_world_ee, place.opening_m
        models = [dataset.hand(arm) for arm in self.arms]
        points = np.empty((len(views), *views[0].depth.shape, 3), dtype=np.float32)
        rng = rng or generator(file.name, "train", start, f"sensor/{camera_n}/{camera_m}")
        for i, (view, T_world_cam) in enumerate(zip(views, (place.T_world_n, place.T_world_m), strict=True)):
            depth = self.sensor.noise(view.depth.shape[1], view.depth.shape[2], rng)(view.depth)
            if view.hand_depth is not None:
                T_cam_ee = inverse(T_world_cam) @ T_world_ee[:, 0]
                scale = scale_to_hands(depth[0], K[i], list(zip(models, T_cam_ee, opening[:, 0].tolist(), strict=True)))
                # Targets are made with all cameras' poses known.
                depth[0 if i == 0 or self.both_poses else 1 :] *= np.float32(scale)
                for t in range(1, len(depth)):
                    depth[t][view.parts[t] != NO_PART] = view.hand_depth[t]
            depth_to_points(depth, K[i], out=points[i])
        return Window(
            rgb=np.stack([view.rgb for view in views]),
            points=points,
            parts=np.stack([view.parts for view in views]),
            hand_mask=self.hand_mask(episode, place, points[0, 0]),
            K=K,
            T_n_m=place.T_n_m,
            T_world_n=place.T_world_n,
            T_n_ee=place.T_n_ee,
            opening_m=opening,
            dt_s=self.dt_s,
            episode=file.name,
            start=int(start),
            cameras=names,
            disturbed=any(at[0] <= step < at[-1] for step, _ in trajectory.disturbances),
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_remembered": {}, "_remembered_bytes": 0}

    def read(
        self, episode: int, camera: str, frames: npt.NDArray[np.int64] | None = None
    ) -> tuple[ViewFrames, npt.NDArray[np.uint8]]:
        """Frames of a camera, all by default, from the file: as they are stored, and (F, H, W) ``part_image``.

        Raises:
            DatasetError: they cannot be read, or no frame of the camera has any depth.
        """
        file = self.episodes[episode][1]
        everything = np.arange(len(file.steps))
        read = file.frames(camera, everything if frames is None else frames)
        if not np.isfinite(read.depth).any() and not np.isfinite(file.frames(camera, everything).depth).any():
            raise DatasetError(
                f"{file.path}: no pixel of camera '{camera}' has valid depth in any frame, so that it shows nothing; "
                "draw the dataset from a rig without it: 'geo4d-bench render'"
            )
        return read, part_image(read.seg, file.seg_names, self.arms)

    def _images(self, episode: int, camera: str, frames: npt.NDArray[np.int64]) -> _Images:
        """Frames of a camera, from memory where there is room for all of its."""
        images = self._remembered.get((episode, camera))
        if images is not None:
            return images.at(frames)
        file = self.episodes[episode][1]
        everything = np.arange(len(file.steps))
        perfect = self.sensor is SENSORS.get("perfect")
        size = len(everything) * (6 if perfect else 8) * math.prod(self.datasets[0].size)
        room = self.remember_bytes - self._remembered_bytes
        read, parts = self.read(episode, camera, everything if size <= room else frames)
        depth = encode_depth(read.depth) if perfect else self.sensor.geometry(read.depth, file.K(camera))
        hand_depth = None if self.sensor.metric else [d[p != NO_PART] for d, p in zip(read.depth, parts, strict=True)]
        images = _Images(read.rgb, depth, parts, hand_depth)
        if size > room:
            return images.at(np.arange(len(frames)))
        self._remembered[episode, camera] = images
        self._remembered_bytes += size
        return images.at(frames)

    def _frames_to_start(self, episode: EpisodeFile, moving: bool) -> list[int]:
        steps = episode.steps
        must_exist = int(np.ceil(self.horizon * (1.0 - self.pad_share)))
        count = len(steps) - self.stride * must_exist
        if count <= 0:
            return []
        if not moving:
            return list(range(count))
        trajectory = episode.trajectory
        second = round(trajectory.control_hz)
        happens = np.zeros(len(steps), dtype=bool)
        for arm in self.arms:
            if len(steps) > 1:
                # Speed over the time to the next frame: over one control step it would measure the controller's ripple.
                frame_s = float(np.diff(steps).mean()) / trajectory.control_hz
                position = trajectory.T_world_ee[arm][steps, :3, 3]
                speed = np.linalg.norm(np.diff(position, axis=0), axis=1) / frame_s
                happens |= np.append(speed, speed[-1]) > self.MOVING_M_S
            opening = trajectory.opening_m[arm]
            happens |= np.array([np.ptp(opening[s : s + second + 1]) > self.GRIPPING_M for s in steps])
        return [int(k) for k in np.flatnonzero(happens[:count])]


def _stride(datasets: Sequence[Dataset], dt_s: float) -> int:
    rates = {d.manifest.settings.video_hz for d in datasets}
    sizes = {d.size for d in datasets}
    arms = {d.arms for d in datasets}
    if len(rates) > 1 or len(sizes) > 1 or len(arms) > 1:
        raise ConfigError(f"datasets differ in frame rate {rates}, image size {sizes} or arms {arms}; use alike ones")
    frames = dt_s * rates.pop()
    if frames < 0.5 or abs(frames - round(frames)) > 1e-6:
        raise ConfigError(f"dt_s={dt_s} is {frames:g} frames of the dataset; give a multiple of one frame's time")
    return round(frames)


def _camera_names(datasets: Sequence[Dataset], cameras: ViewSplit | Sequence[str]) -> tuple[str, ...]:
    rig = datasets[0].rig
    if not isinstance(cameras, str):
        names = datasets[0].known_cameras(cameras)
    elif cameras in ("seen", "novel"):
        names = rig.camera_names("seen" if cameras == "seen" else "novel")
    else:
        raise ConfigError(f"cameras='{cameras}': give 'seen', 'novel' or a list of camera names")
    if len(names) < 2:
        other: ViewSplit = "novel" if cameras == "seen" else "seen"
        there = len(rig.camera_names(other)) if isinstance(cameras, str) else 0
        instead = f"; take '{other}', which has {there}" if there > 1 else ""
        raise ConfigError(f"windows need two cameras, but '{cameras}' of rig '{rig.name}' has {len(names)}{instead}")
    return names
