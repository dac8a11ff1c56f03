"""LeRobotDataset v3: https://huggingface.co/docs/lerobot/lerobot-dataset-v3

Written file by file, because lerobot's own pins exclude this project's; ``make test-exports`` opens it with lerobot.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.export_rows import Rows, dataset_rows
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.films import Film

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
"""Everything goes into chunk 0, file 0 of its kind; LeRobot's own writer begins another one at 100 or 200 MB."""
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
CRF = 18
"""Quality of H.264: above what the eye tells from the original at this size; the file is still lossy."""

Table = dict[str, npt.NDArray[Any]]
Stats = dict[str, npt.NDArray[Any]]


def write_lerobot(dataset: Dataset, cameras: tuple[str, ...], out: Path) -> int:
    """Write the folder; returns the number of rows.

    ``observation.state`` (8 x arms): position, quaternion (xyzw) of the grip site in the world and opening of each
    arm. ``action`` (7 x arms): the absolute command that leads to the next row, position, rotation vector and gripper.
    ``observation.images.<camera>``: videos. ``meta/cameras.json``: every episode's calibration, which LeRobot ignores.

    Raises:
        ConfigError: pyarrow is missing, frames have an odd height or width, or there is no whole number a second.
        DatasetError: the dataset is damaged, or ``out`` cannot be written.
    """
    _require_possible(dataset)
    rows = dataset_rows(dataset)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        (part / "meta").mkdir(parents=True)
        tables = _tables(dataset, rows)
        stats: list[dict[str, Stats]] = [{name: _stats(values) for name, values in t.items()} for t in tables]
        pictures: dict[str, Stats] = {}
        for camera in cameras:
            counts = _write_video(dataset, camera, _path(part, f"videos/{_image_key(camera)}", ".mp4"))
            for episode, count in zip(stats, counts, strict=True):
                episode[_image_key(camera)] = _image_stats(count)
            pictures[_image_key(camera)] = _image_stats(np.sum(counts, axis=0))
        whole = {name: _stats(np.concatenate([t[name] for t in tables])) for name in tables[0]} | pictures
        _write_data(tables, _path(part, "data", ".parquet"))
        _write_episodes(dataset, tables, cameras, stats, _path(part, "meta/episodes", ".parquet"))
        _write_tasks(dataset, part / "meta/tasks.parquet")
        _write_json(part / "meta/info.json", _info(dataset, cameras, tables))
        _write_json(part / "meta/stats.json", {name: _plain(values) for name, values in whole.items()})
        _write_json(part / "meta/cameras.json", _calibration(dataset, cameras))
        part.replace(out)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error}); choose another --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sum(len(r) for r in rows)


def _require_possible(dataset: Dataset) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--to lerobot writes Parquet files with pyarrow: pip install 'geo4d-bench[lerobot]'"
        ) from error
    height, width = dataset.size
    if height % 2 or width % 2:
        raise ConfigError(
            f"images of {height} x {width} pixels: H.264 needs even sizes; 'geo4d-bench render' makes them"
        )
    hz = dataset.manifest.settings.video_hz
    if hz != round(hz):
        raise ConfigError(f"{hz:g} frames a second: LeRobot needs a whole number; 'geo4d-bench render' makes one")


def _tables(dataset: Dataset, rows: Sequence[Rows]) -> list[Table]:
    """Columns of every episode, but for images."""
    fps, first, found = dataset.manifest.settings.video_hz, 0, []
    for index, r in enumerate(rows):
        count = np.arange(len(r))
        done = count == len(r) - 1
        state = [
            part
            for arm in dataset.arms
            for part in (r.ee_position[arm], r.ee_quaternion[arm], r.opening_m[arm][:, None])
        ]
        found.append(
            {
                "observation.state": np.concatenate(state, axis=1).astype(np.float32),
                "action": r.actions,
                "next.reward": done.astype(np.float32),  # every demonstration ends in success
                "next.done": done,
                "timestamp": (count / fps).astype(np.float32),
                "frame_index": count.astype(np.int64),
                "episode_index": np.full(len(r), index, dtype=np.int64),
                "index": (first + count).astype(np.int64),
                "task_index": np.zeros(len(r), dtype=np.int64),
            }
        )
        first += len(r)
    return found


def _write_data(tables: Sequence[Table], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(values: npt.NDArray[Any]) -> Any:
        if values.ndim == 1:
            return pa.array(values)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    whole = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    pq.write_table(pa.table({name: column(values) for name, values in whole.items()}), path)


def _write_episodes(
    dataset: Dataset, tables: Sequence[Table], cameras: Sequence[str], stats: Sequence[Mapping[str, Stats]], path: Path
) -> None:
    """A row an episode: where its rows and pictures lie, and its own statistics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    s, found, first = dataset.manifest.settings, [], 0
    for index, (table, values) in enumerate(zip(tables, stats, strict=True)):
        length = len(table["index"])
        row: dict[str, Any] = {"episode_index": index, "tasks": [s.language], "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": first, "dataset_to_index": first + length}
        for camera in cameras:
            key = f"videos/{_image_key(camera)}"
            row |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0}
            row |= {f"{key}/from_timestamp": first / s.video_hz, f"{key}/to_timestamp": (first + length) / s.video_hz}
        for name, each in values.items():
            row |= {f"stats/{name}/{what}": value for what, value in _plain(each).items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        found.append(row)
        first += length
    pq.write_table(pa.Table.from_pylist(found), path)


def _write_tasks(dataset: Dataset, path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"task_index": [0]}, index=[dataset.manifest.settings.language]).to_parquet(path)


def _write_video(dataset: Dataset, camera: str, path: Path) -> list[npt.NDArray[np.int64]]:
    """All episodes of a camera in one film; returns each episode's counts (3, 256) of red, green and blue values."""
    from tqdm import tqdm

    counts = []
    # Every second frame stands alone, and none is told by a later one: any frame is found at once.
    film = Film(path, dataset.manifest.settings.video_hz, CRF, ["-g", "2", "-bf", "0"])
    with film:
        for episode in tqdm(dataset.episodes, desc=camera, leave=False):
            count = np.zeros((3, 256), dtype=np.int64)
            for image in _images(episode, camera):
                film.append(image)
                count += np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])
            counts.append(count)
            episode.close()
    return counts


def _images(episode: Any, camera: str, at_once: int = 64) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(episode.steps), at_once):
        yield from episode.frames(camera, np.arange(start, min(start + at_once, len(episode.steps)))).rgb


def _info(dataset: Dataset, cameras: Sequence[str], tables: Sequence[Table]) -> dict[str, Any]:
    s, (height, width) = dataset.manifest.settings, dataset.size
    fps = round(s.video_hz)
    state = ("x", "y", "z", "qx", "qy", "qz", "qw", "opening")
    action = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    names = {
        "observation.state": [f"{arm}.{name}" for arm in s.arms for name in state],
        "action": [f"{arm}.{name}" for arm in s.arms for name in action],
    }
    features: dict[str, Any] = {
        name: {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": names.get(name)}
        for name, values in tables[0].items()
    }
    for camera in cameras:
        features[_image_key(camera)] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height, "video.width": width, "video.channels": 3, "video.codec": "h264",
                "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps, "has_audio": False,
            },
        }  # fmt: skip
    return {
        "codebase_version": VERSION, "robot_type": "panda", "total_episodes": len(tables),
        "total_frames": sum(len(t["index"]) for t in tables), "total_tasks": 1, "chunks_size": 1000,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": fps,
        "splits": {"train": f"0:{len(tables)}"}, "data_path": f"data/{FILE}.parquet",
        "video_path": f"videos/{{video_key}}/{FILE}.mp4", "features": features,
    }  # fmt: skip


def _calibration(dataset: Dataset, cameras: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for episode in dataset.episodes:
        found.append({n: {"K": episode.K(n).tolist(), "T_world_cam": episode.T_world_cam(n).tolist()} for n in cameras})
        episode.close()
    return found


def _stats(values: npt.NDArray[Any]) -> Stats:
    """Of every number of a column (K,) or (K, N): (N,) each, ``count`` (1,)."""
    x = values.reshape(len(values), -1).astype(np.float64)
    found = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0), "count": np.array([len(x)])}
    return found | {f"q{round(100 * q):02d}": np.quantile(x, q, axis=0) for q in QUANTILES}


def _image_stats(counts: npt.NDArray[np.int64]) -> Stats:
    """Exact statistics of all pixels from counts (3, 256), in [0, 1], (3, 1, 1) each; ``count`` is of pixels."""
    levels, total = np.arange(256) / 255, counts[0].sum()
    share = counts / total
    mean = share @ levels
    found = {
        "min": np.array([levels[c > 0].min() for c in counts]),
        "max": np.array([levels[c > 0].max() for c in counts]),
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0)),
    }
    below = np.cumsum(share, axis=1)
    found |= {f"q{round(100 * q):02d}": levels[(below < q - 1e-12).sum(1)] for q in QUANTILES}
    return {name: value.reshape(3, 1, 1) for name, value in found.items()} | {"count": np.array([total])}


def _path(root: Path, kind: str, ending: str) -> Path:
    path = root / kind / (FILE.format(chunk_index=0, file_index=0) + ending)
    path.parent.mkdir(parents=True)
    return path


def _image_key(camera: str) -> str:
    return f"observation.images.{camera}"


def _plain(stats: Stats) -> dict[str, Any]:
    return {name: value.tolist() for name, value in stats.items()}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
