"""LeRobotDataset v3: https://huggingface.co/docs/lerobot/lerobot-dataset-v3

Written file by file, because lerobot's own pins exclude this project's; ``make test-exports`` opens it with lerobot.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geo4d_bench.dataset.export_rows import Rows, calibration, dataset_rows
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.films import Film

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
"""Everything goes into chunk 0, file 0 of its kind; LeRobot's own writer begins another one at 100 or 200 MB."""
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
CRF = 18
"""Quality of H.264: visually lossless at this size."""

Table = dict[str, npt.NDArray[Any]]
Stats = dict[str, npt.NDArray[Any]]


def write(dataset: Dataset, cameras: tuple[str, ...], out: Path) -> int:
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
    lengths = np.array([len(r) for r in rows])
    table = _table(dataset, rows, lengths)
    episodes = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    stats = [{name: _stats(values[of]) for name, values in table.items()} for of in episodes]
    whole = {name: _stats(values) for name, values in table.items()}
    part = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
    try:
        (part / "meta").mkdir(parents=True)
        for camera in cameras:
            counts = _write_video(dataset, camera, _path(part, f"videos/{_image_key(camera)}", ".mp4"))
            for episode, count in zip(stats, counts, strict=True):
                episode[_image_key(camera)] = _image_stats(count)
            whole[_image_key(camera)] = _image_stats(np.sum(counts, axis=0))
        _write_data(table, _path(part, "data", ".parquet"))
        _write_episodes(dataset, lengths, cameras, stats, _path(part, "meta/episodes", ".parquet"))
        tasks = pd.DataFrame({"task_index": [0]}, index=[dataset.manifest.settings.language])
        tasks.to_parquet(part / "meta/tasks.parquet")
        meta = {
            "info": _info(dataset, cameras, table),
            "stats": whole,
            "cameras": [calibration(episode, cameras) for episode in dataset.episodes],
        }
        for name, content in meta.items():
            text = json.dumps(content, indent=2, default=np.ndarray.tolist) + "\n"
            (part / f"meta/{name}.json").write_text(text, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error}); choose another --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for episode_file in dataset.episodes:
            episode_file.close()
    return len(table["index"])


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


def _table(dataset: Dataset, rows: Sequence[Rows], lengths: npt.NDArray[np.int64]) -> Table:
    """Columns of all episodes one after another, but for images."""
    frame = np.concatenate([np.arange(length) for length in lengths])
    done = frame == np.repeat(lengths, lengths) - 1
    return {
        "observation.state": np.concatenate([r.ee.reshape(len(r), -1) for r in rows]).astype(np.float32),
        "action": np.concatenate([r.actions for r in rows]),
        "next.reward": done.astype(np.float32),  # every demonstration ends in success
        "next.done": done,
        "timestamp": (frame / dataset.manifest.settings.video_hz).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(rows)), lengths),
        "index": np.arange(len(frame)),
        "task_index": np.zeros(len(frame), dtype=np.int64),
    }


def _write_data(table: Table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(values: npt.NDArray[Any]) -> Any:
        if values.ndim == 1:
            return pa.array(values)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    pq.write_table(pa.table({name: column(values) for name, values in table.items()}), path)


def _write_episodes(
    dataset: Dataset,
    lengths: npt.NDArray[np.int64],
    cameras: Sequence[str],
    stats: Sequence[Mapping[str, Stats]],
    path: Path,
) -> None:
    """A row an episode: where its rows and pictures lie, and its own statistics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    s, found, first = dataset.manifest.settings, [], 0
    for index, (length, values) in enumerate(zip(lengths.tolist(), stats, strict=True)):
        last = first + length
        row: dict[str, Any] = {"episode_index": index, "tasks": [s.language], "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": first, "dataset_to_index": last}
        for camera in cameras:
            key = f"videos/{_image_key(camera)}"
            row |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0}
            row |= {f"{key}/from_timestamp": first / s.video_hz, f"{key}/to_timestamp": last / s.video_hz}
        for name, each in values.items():
            row |= {f"stats/{name}/{what}": value.tolist() for what, value in each.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        found.append(row)
        first = last
    pq.write_table(pa.Table.from_pylist(found), path)


def _write_video(dataset: Dataset, camera: str, path: Path) -> list[npt.NDArray[np.int64]]:
    """All episodes of a camera in one film; returns each episode's counts (3, 256) of red, green and blue values."""
    from tqdm import tqdm

    counts = []
    # A key frame every two frames and no B-frames: random access is fast.
    film = Film(path, dataset.manifest.settings.video_hz, CRF, ["-g", "2", "-bf", "0"])
    with film:
        for episode in tqdm(dataset.episodes, desc=camera, leave=False):
            count = np.zeros((3, 256), dtype=np.int64)
            for start in range(0, len(episode.steps), 64):
                frames = np.arange(start, min(start + 64, len(episode.steps)))
                for image in episode.frames(camera, frames).rgb:
                    film.append(image)
                    count += np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])
            counts.append(count)
            episode.close()
    return counts


def _info(dataset: Dataset, cameras: Sequence[str], table: Table) -> dict[str, Any]:
    s, (height, width) = dataset.manifest.settings, dataset.size
    fps, episodes = round(s.video_hz), len(dataset.episodes)
    state = ("x", "y", "z", "qx", "qy", "qz", "qw", "opening")
    action = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    names = {
        "observation.state": [f"{arm}.{name}" for arm in s.arms for name in state],
        "action": [f"{arm}.{name}" for arm in s.arms for name in action],
    }
    features: dict[str, Any] = {
        name: {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": names.get(name)}
        for name, values in table.items()
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
        "codebase_version": VERSION, "robot_type": "panda", "total_episodes": episodes,
        "total_frames": len(table["index"]), "total_tasks": 1, "chunks_size": 1000,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": fps,
        "splits": {"train": f"0:{episodes}"}, "data_path": f"data/{FILE}.parquet",
        "video_path": f"videos/{{video_key}}/{FILE}.mp4", "features": features,
    }  # fmt: skip


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
