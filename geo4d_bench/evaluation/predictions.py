"""Anybody's predictions as files: what a generator is shown, what it answers, and whether the answer can be scored.

docs/predictions.md has the layout. Arrays are safetensors, a file a window; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import DatasetError
from geo4d_bench.evaluation.held_out import HeldOut
from geo4d_bench.evaluation.predictors import Prediction
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.io import write_atomic
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.types import FirstFrames, Video4D

if TYPE_CHECKING:
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window

MANIFEST = "manifest.json"
FORMAT = "geo4d-bench-windows"
VERSION = 2
FRAMES, DT_S = GeneratorConfig.frames, GeneratorConfig.dt_s
"""Of every window: what checkpoints of the presets predict, so that all are scored on the same ones."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUSPICIOUS = 0.25
"""Points that are this many times nearer to a common mistake than to where they belong are taken for that mistake."""


def window_path(folder: Path, views: ViewSplit, index: int) -> Path:
    """Where a window's arrays lie, in a folder of conditions and of predictions alike."""
    return folder / "windows" / f"{views}_{index:05d}.safetensors"


def manifest_of(
    dataset: Dataset, views: Sequence[ViewSplit], windows: int, seed: int, calibrated: bool
) -> dict[str, Any]:
    """The manifest of conditions; a generator copies it and adds ``generator``, its own name."""
    settings = dataset.manifest.settings
    return {
        "format": FORMAT,
        "version": VERSION,
        "task": settings.task,
        "split": settings.split,
        "dataset": dataset.identity,
        "seed": seed,
        "views": list(views),
        "windows": windows,
        "calibrated": calibrated,
        "frames": FRAMES,
        "dt_s": DT_S,
        "height": dataset.size[0],
        "width": dataset.size[1],
        "arms": len(dataset.arms),
    }


def write_condition(path: Path, condition: FirstFrames) -> None:
    """A window's condition; poses of cameras are written where the condition has them."""
    assert condition.hand_mask is not None  # a window of a dataset knows it
    arrays: dict[str, npt.NDArray[Any]] = {
        "rgb": condition.rgb,
        "points": condition.points,
        "K": condition.K,
        "hand_mask": condition.hand_mask,
        "p_n_ee": condition.p_n_ee,
        "opening_m": condition.opening_m,
    }
    if condition.T_world_cam is not None:
        arrays["T_world_cam"] = condition.T_world_cam
    _write(path, arrays)


def write_prediction(path: Path, video: Video4D) -> None:
    """A window's prediction; what is not finite is written as invalid, with 0 in place of its point."""
    valid = np.asarray(np.isfinite(video.points).all(-1))
    points = np.where(valid[..., None], video.points, np.float32(0.0))
    _write(path, {"rgb": video.rgb, "points": points, "valid": valid, "parts": video.parts})


class StoredPredictions:
    """Predictions that :func:`faults` found nothing wrong with, as a generator to score.

    Raises:
        DatasetError: the folder has no manifest.
    """

    generates, generates_video = False, True
    ablation = "none"
    policy = None
    sensor: SensorName = "perfect"
    steps: int | None = None
    frames, dt_s = FRAMES, DT_S

    def __init__(self, folder: Path) -> None:
        manifest = _read_manifest(folder)
        self._folder = folder
        self.name = self.generator = str(manifest["generator"])
        self.calibrated = bool(manifest["calibrated"])
        self.sha256 = predictions_sha256(folder)

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Prediction:
        """The prediction for window ``index``; the window itself gives K and the time between frames only."""
        return Prediction(_video(_read(window_path(self._folder, views, index)), given[0]))


def predictions_sha256(folder: Path) -> str:
    """64 hex digits over the manifest and every window's file: the name of predictions in tables."""
    digest = hashlib.sha256()
    for path in [folder / MANIFEST, *sorted((folder / "windows").glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def faults(folder: Path, dataset: Dataset, views: Sequence[ViewSplit], windows: int, seed: int) -> list[str]:
    """What keeps predictions from being scored on these windows, a line a fault, empty where nothing does.

    Files are not looked at where the manifest is of other windows: none of them would fit.

    Raises:
        DatasetError: the folder has no manifest that is JSON.
    """
    manifest = _read_manifest(folder)
    expected = manifest_of(dataset, views, windows, seed, manifest.get("calibrated") is True)
    found = list(_manifest_faults(manifest, expected))
    if found:
        return [f"{MANIFEST}: {fault}" for fault in found]
    held_out = HeldOut(dataset, views, seed, FRAMES, DT_S)
    mistakes: Counter[tuple[int, str]] = Counter()
    for v in views:
        for i in range(windows):
            path = window_path(folder, v, i)
            shapes = _shapes(expected)
            wrong = list(_file_faults(path, shapes, 3 * expected["arms"]))
            found += [f"windows/{path.name}: {fault}" for fault in wrong]
            if not wrong:
                window = held_out.window(v, i)
                mistakes.update(_mistakes(window, _video(_read(path), window)))
    # One window may be like that by chance or by a bad prediction; most of them are not.
    total = windows * len(views)
    for (view, mistake), count in sorted(mistakes.items()):
        if count > total / 2:
            found.append(
                f"points of view {'nm'[view]}: {mistake} in {count} of {total} windows, expected metres in camera n's "
                "frame (OpenCV axes) for both views; see docs/predictions.md"
            )
    return found


@dataclass(frozen=True)
class _Array:
    shape: tuple[int, ...]
    dtype: str


def _shapes(manifest: dict[str, Any]) -> dict[str, _Array]:
    image = (2, manifest["frames"], manifest["height"], manifest["width"])
    return {
        "rgb": _Array((*image, 3), "uint8"),
        "points": _Array((*image, 3), "float32"),
        "valid": _Array(image, "bool"),
        "parts": _Array(image, "uint8"),
    }


def _manifest_faults(manifest: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    name = manifest.get("generator")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"generator is {name!r}, expected its name: 1 to 64 letters, digits, '.', '_' or '-'"
    if not isinstance(manifest.get("calibrated"), bool):
        yield f"calibrated is {manifest.get('calibrated')!r}, expected true or false"
    advice = {
        "dataset": "these are windows of another dataset: give the one that 'geo4d-bench conditions' was given",
        "seed": "these are other windows: give evaluate the same --seed as 'geo4d-bench conditions'",
        "views": "give evaluate --views as 'geo4d-bench conditions', or predict the others too",
        "windows": "give evaluate fewer --windows, or predict the others too",
    }
    for key, value in expected.items():
        got = manifest.get(key)
        if key == "calibrated" or got == value:
            continue
        if key == "views" and isinstance(got, list) and set(value) <= set(map(str, got)):
            continue
        if key == "windows" and isinstance(got, int) and got >= value:
            continue
        yield (
            f"{key} is {json.dumps(got)}, expected {json.dumps(value)}; "
            f"{advice.get(key, 'copy the manifest of the conditions as it is')}"
        )


def _file_faults(path: Path, expected: dict[str, _Array], top_label: int) -> Iterator[str]:
    if not path.is_file():
        yield "missing; every window must be predicted"
        return
    try:
        arrays = _read(path)
    except DatasetError as error:
        yield str(error)
        return
    sound = True
    for name in sorted(expected.keys() | arrays.keys()):
        want, have = expected.get(name), arrays.get(name)
        got = "missing" if have is None else f"{have.dtype} {have.shape}"
        if want is None or have is None or have.shape != want.shape or have.dtype != want.dtype:
            sound = False
            yield f"'{name}' is {got}, expected {'no such array' if want is None else f'{want.dtype} {want.shape}'}"
    if not sound:
        return
    nonsense = int((~np.isfinite(arrays["points"]).all(-1) & arrays["valid"]).sum())
    if nonsense:
        yield f"{nonsense} points are not finite where 'valid' is true; set 'valid' to false there"
    if arrays["parts"].max() > top_label:
        yield f"'parts' has the label {arrays['parts'].max()}, expected 0 to {top_label}"


def _mistakes(window: Window, video: Video4D) -> Iterator[tuple[int, str]]:
    """(view, mistake) where the predicted points are far from where they belong and near to a common mistake.

    Nearness is the median over pixels of the distance to the first frame's point, as a share of its distance from the
    origin: most of a scene stands still.
    """
    own = window.points[:, 0]  # (2, H, W, 3), each in its own camera's frame
    for view, T_n_v in enumerate((np.eye(4), window.T_n_m)):
        belongs = transform(T_n_v, own[view])
        candidates = {
            "they seem to be in millimetres": 1000.0 * belongs,
            "their y and z axes seem to point up and backwards, as in OpenGL,": belongs * np.array([1.0, -1.0, -1.0]),
            "they seem to be in the world's frame": transform(window.T_world_n, belongs),
        }
        if view == 1:
            candidates["they seem to be in camera m's own frame"] = own[view]
        errors = {name: _median_error(video.points[view], points) for name, points in candidates.items()}
        nearest = min(errors, key=lambda name: errors[name])
        if errors[nearest] < _SUSPICIOUS * _median_error(video.points[view], belongs):
            yield view, nearest


def _median_error(predicted: npt.NDArray[np.float32], first: npt.NDArray[Any]) -> float:
    """Of points (T, H, W, 3) against (H, W, 3); infinite where they share no valid pixel."""
    share = np.linalg.norm(predicted - first, axis=-1) / np.linalg.norm(first, axis=-1)
    share = share[np.isfinite(share)]
    return float(np.median(share)) if len(share) else np.inf


def _video(arrays: dict[str, npt.NDArray[Any]], window: Window) -> Video4D:
    points = np.where(arrays["valid"][..., None], arrays["points"], np.float32(np.nan))
    return Video4D(arrays["rgb"], points, arrays["parts"], window.K, window.dt_s)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file; copy the one that 'geo4d-bench conditions' wrote, and add 'generator'"
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error}); copy the one that 'geo4d-bench conditions' wrote") from None
    if not isinstance(manifest, dict):
        raise DatasetError(f"{path}: not a JSON object; copy the one that 'geo4d-bench conditions' wrote")
    return manifest


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a dtype that numpy lacks
        raise DatasetError(f"not a whole safetensors file of numpy's types ({error}); write it again") from None
    return arrays


def _write(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    from safetensors.numpy import save

    write_atomic(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
