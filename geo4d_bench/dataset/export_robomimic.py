"""The HDF5 file of robomimic 0.3.0: https://robomimic.github.io/docs/v0.3/datasets/overview.html"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.export_rows import PER_ARM, Rows, calibration, dataset_rows
from geo4d_bench.dataset.reader import Dataset, EpisodeFile
from geo4d_bench.errors import FULL, DatasetError
from geo4d_bench.io import atomic

GYM_TYPE = 2
"""robomimic's ``EnvType.GYM_TYPE``."""
VALID_EVERY = 10
"""Every tenth demonstration is kept for validation."""


def write(dataset: Dataset, cameras: tuple[str, ...], out: Path) -> int:
    """Write ``data/demo_0`` ... and the filter keys ``train`` and ``valid``; returns the number of rows.

    Actions are (K, 7 x arms) float32 in [-1, 1], as robomimic expects them: the change of position and the rotation
    that lead to the command's target, divided by the attributes ``position_scale_m`` and ``rotation_scale_rad`` of
    ``data`` (the largest in the dataset), and the gripper. ``actions_abs`` are the commands as stored.

    Raises:
        DatasetError: the dataset is damaged, or ``out`` cannot be written.
    """
    import h5py
    from tqdm import tqdm

    rows = dataset_rows(dataset)
    scales = tuple(max(float(np.abs(r.relative[..., part]).max()) for r in rows) for part in (slice(3), slice(3, 6)))
    try:
        with atomic(out) as part, _Disk(part) as disk, h5py.File(disk, "w") as file:
            data = file.create_group("data")
            data.attrs["total"] = sum(len(r) for r in rows)
            data.attrs["env_args"] = json.dumps(_env_args(dataset, cameras))
            data.attrs["position_scale_m"], data.attrs["rotation_scale_rad"] = scales
            for index, (episode, r) in enumerate(zip(tqdm(dataset.episodes, desc="export"), rows, strict=True)):
                _demonstration(data.create_group(f"demo_{index}"), episode, r, cameras, scales)
                episode.close()
                disk.check()
            # Filter keys: disjoint, and both non-empty where there are two demonstrations.
            valid = np.arange(len(rows)) % VALID_EVERY == VALID_EVERY - 1
            if 2 <= len(rows) < VALID_EVERY:
                valid[-1] = True
            for name, chosen in (("train", ~valid), ("valid", valid)):
                file[f"mask/{name}"] = np.array([f"demo_{i}" for i in np.flatnonzero(chosen)], dtype="S")
    except OSError as error:
        reason = FULL.get(error.errno or 0, str(error))
        raise DatasetError(f"{out}: cannot be written ({reason}); free some space or choose another --out") from error
    return sum(len(r) for r in rows)


class _Disk(io.FileIO):
    """A new file that HDF5 writes to and that never tells it of a full disk, on which HDF5 1.14 crashes the process.

    After the first error nothing is written any more; :meth:`check` raises that error, and so does the end of the
    block. HDF5 may meanwhile fail to read what was not written: then that error is the consequence of this one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and self._error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self._error is None else 0
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """OSError where something could not be written."""
        if self._error is not None:
            raise self._error

    def __exit__(self, *failed: Any) -> None:
        super().__exit__(*failed)
        self.check()


def _demonstration(
    demo: Any, episode: EpisodeFile, rows: Rows, cameras: tuple[str, ...], scales: tuple[float, ...]
) -> None:
    last = np.arange(len(rows)) == len(rows) - 1
    demo.attrs["num_samples"] = len(rows)
    demo.attrs["seed"], demo.attrs["scene"] = episode.attrs["seed"], episode.attrs["scene"]
    demo.attrs["cameras"] = json.dumps(calibration(episode, cameras))
    demo["actions"] = _scaled_actions(rows, *scales)
    demo["actions_abs"] = rows.actions
    demo["states"] = rows.states
    demo["rewards"] = last.astype(np.float64)  # every demonstration ends in success
    demo["dones"] = last.astype(np.int64)
    low_dimensional = {"object": rows.objects.reshape(len(rows), -1)} if rows.objects.size else {}
    for index, ee in enumerate(rows.ee.swapaxes(0, 1)):  # the names of robomimic's own configurations
        low_dimensional[f"robot{index}_eef_pos"] = ee[:, :3]
        low_dimensional[f"robot{index}_eef_quat"] = ee[:, 3:7]
        low_dimensional[f"robot{index}_gripper_opening"] = ee[:, 7:]
    following = np.minimum(np.arange(len(rows)) + 1, len(rows) - 1)  # after the last row there is no picture
    for name, values in low_dimensional.items():
        demo[f"obs/{name}"], demo[f"next_obs/{name}"] = values, values[following]
    for camera in cameras:
        images = episode.frames(camera, np.arange(len(rows))).rgb
        for group, shown in (("obs", images), ("next_obs", images[following])):
            # gzip, because robomimic has no other codec; a chunk is a frame, because it reads single frames.
            demo[group].create_dataset(
                f"{camera}_image", data=shown, chunks=(1, *shown.shape[1:]), compression="gzip", compression_opts=4
            )


def _scaled_actions(rows: Rows, position_m: float, rotation_rad: float) -> npt.NDArray[np.float32]:
    """(K, 7 x arms) float32 in [-1, 1]: relative position and rotation over their scales, and the gripper."""
    out = rows.actions.reshape(len(rows), -1, PER_ARM).copy()
    out[..., :3] = rows.relative[..., :3] / max(position_m, 1e-9)
    out[..., 3:6] = rows.relative[..., 3:] / max(rotation_rad, 1e-9)
    return np.clip(out, -1.0, 1.0).reshape(len(rows), -1)  # the largest is 1 up to rounding


def _env_args(dataset: Dataset, cameras: tuple[str, ...]) -> dict[str, Any]:
    """The file's environment. robomimic can train on the file; rollouts are this benchmark's."""
    s = dataset.manifest.settings
    return {
        "env_name": f"{s.task}-{s.version}",
        "type": GYM_TYPE,
        "env_kwargs": {
            "task": s.task, "language": s.language, "arms": list(s.arms), "objects": sorted(s.objects),
            "control_hz": s.control_hz, "video_hz": s.video_hz, "rig": s.rig.name, "cameras": list(cameras),
            "height": s.height, "width": s.width, "split": s.split, "fingerprint": s.fingerprint,
        },
    }  # fmt: skip
