"""Anybody's predictions as files: what a generator is shown, what it answers, and whether the answer can be scored.

docs/predictions.md has the layout. Arrays are safetensors, one file per window; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import DatasetError
from geo4d_bench.evaluation.conventions import Conventions, other_bytes
from geo4d_bench.evaluation.held_out import HeldOut, HeldOutOptions
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.io import check_file, read_json
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.types import Video4D

if TYPE_CHECKING:
    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.types import Window

MANIFEST = "manifest.json"
FORMAT = "geo4d-bench-windows"
VERSION = 2
FRAMES, DT_S = GeneratorConfig.frames, GeneratorConfig.dt_s
"""Of every window: what checkpoints of the presets predict, so that all are scored on the same ones."""
MAX_OPENING_M = 0.5
"""No gripper opens farther: a larger number is of another unit."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def window_path(folder: Path, views: ViewSplit, index: int) -> Path:
    """Where a window's arrays lie, in a folder of conditions and of predictions alike."""
    return folder / "windows" / f"{views}_{index:05d}.safetensors"


def manifest_of(dataset: Dataset, options: HeldOutOptions, calibrated: bool) -> dict[str, Any]:
    """The manifest of conditions; a generator copies it and adds ``generator``, its own name."""
    settings = dataset.manifest.settings
    return {
        "format": FORMAT,
        "version": VERSION,
        "task": settings.task,
        "split": settings.split,
        "dataset": dataset.identity,
        "seed": options.seed,
        "views": list(options.splits),
        "windows": options.windows,
        "calibrated": calibrated,
        "frames": FRAMES,
        "dt_s": DT_S,
        "height": dataset.size[0],
        "width": dataset.size[1],
        "arms": len(dataset.arms),
    }


class StoredPredictions:
    """Predictions that :func:`check` found nothing wrong with, in the place of a ``CheckpointPredictor``.

    Raises:
        DatasetError: the folder has no manifest.
    """

    ablation, policy = "none", None
    sensor: SensorName = "perfect"
    steps: int | None = None
    rig: str | None = None
    frames, dt_s = FRAMES, DT_S

    def __init__(self, folder: Path) -> None:
        manifest = _read_manifest(folder)
        self._folder, self.sha256 = folder, predictions_sha256(folder)
        self.name = self.generator = str(manifest["generator"])
        self.calibrated = bool(manifest["calibrated"])

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Video4D:
        """The prediction for window ``index``; the window itself gives K and the time between frames only."""
        return _video(_read(window_path(self._folder, views, index)), given[0])


def predictions_sha256(folder: Path) -> str:
    """64 hex digits over the manifest and every window's file: the name of predictions in tables."""
    digest = hashlib.sha256()
    for path in [folder / MANIFEST, *sorted((folder / "windows").glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check(folder: Path, dataset: Dataset, options: HeldOutOptions, labelled: bool = True) -> list[str]:
    """Warnings of what predictions seem to have in another convention, where chance or a bad model may be why.

    ``parts`` may be missing unless ``labelled``: a segmenter makes them then.

    Raises:
        DatasetError: the folder has no manifest that is JSON, or something keeps the predictions from being scored on
            these windows, a line for each fault. Files are not looked at where the manifest is of other windows: none
            of them would fit.
    """
    manifest = _read_manifest(folder)
    expected = manifest_of(dataset, options, manifest.get("calibrated") is True)
    found = [f"{MANIFEST}: {fault}" for fault in _manifest_faults(manifest, expected)]
    likely: list[str] = []
    if not found:
        held_out = HeldOut(dataset, options.splits, options.seed, FRAMES, DT_S)
        conventions = Conventions((2, FRAMES, *dataset.size, 3), len(options.keys))
        for v, i in options.keys:
            path = window_path(folder, v, i)
            try:
                arrays = _read(path)
                if not labelled:
                    arrays.setdefault("parts", np.zeros((2, FRAMES, *dataset.size), np.uint8))
                wrong = list(_file_faults(arrays, expected))
            except DatasetError as error:
                wrong = [str(error)]
            found += [f"windows/{path.name}: {fault}" for fault in wrong]
            if not wrong:
                window = held_out.window(v, i)
                conventions.add(path.stem, window, _video(arrays, window))
        certain, likely = conventions.verdicts()
        found += certain
    if found:
        also = [f"warning: {text}" for text in likely]
        raise DatasetError("\n".join([*found, *also, f"{folder}: {len(found)} faults, nothing was scored"]))
    return likely


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
        more = (key == "views" and isinstance(got, list) and set(value) <= set(map(str, got))) or (
            key == "windows" and isinstance(got, int) and got >= value
        )
        if key != "calibrated" and got != value and not more:
            yield (
                f"{key} is {json.dumps(got)}, expected {json.dumps(value)}; "
                f"{advice.get(key, 'copy the manifest of the conditions as it is')}"
            )


def _file_faults(arrays: dict[str, npt.NDArray[Any]], manifest: dict[str, Any]) -> Iterator[str]:
    image = (2, manifest["frames"], manifest["height"], manifest["width"])
    points = (*image, 3)
    shapes = {"rgb": points, "points": points, "valid": image, "parts": image}
    dtypes = {"rgb": "uint8", "points": "float32", "valid": "bool", "parts": "uint8", "opening_m": "float64"}
    if "opening_m" in arrays:  # which may be left out
        shapes["opening_m"] = (manifest["arms"], manifest["frames"])
    expected = {name: f"{dtypes[name]} {shape}" for name, shape in shapes.items()}
    got = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
    for name in sorted(expected.keys() | got.keys()):
        if got.get(name) != expected.get(name):
            advice = "; --segmenter makes them" if name == "parts" and name not in got else ""
            if name in got and name in expected:
                advice = _hint(name, arrays[name], shapes[name])
            yield f"'{name}' is {got.get(name, 'missing')}, expected {expected.get(name, 'no such array')}{advice}"
    if got != expected:
        return
    if other := other_bytes(arrays["points"][arrays["valid"]]):
        yield f"'points' seem to be {other}"
        return
    nonsense = int((~np.isfinite(arrays["points"]).all(-1) & arrays["valid"]).sum())
    if nonsense:
        yield f"{nonsense} points are not finite where 'valid' is true; set 'valid' to false there"
    opening = arrays.get("opening_m", np.zeros(1))
    if not ((opening >= 0) & (opening <= MAX_OPENING_M) | np.isnan(opening)).all():
        low, high = np.nanmin(opening), np.nanmax(opening)
        yield f"'opening_m' is from {low:.3g} to {high:.3g}, expected metres, 0 to {MAX_OPENING_M}, NaN where not shown"
    top_label = 3 * manifest["arms"]
    if arrays["parts"].max() > top_label:
        yield f"'parts' has the label {arrays['parts'].max()}, expected 0 to {top_label}"


def _hint(name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> str:
    """What an array of another shape or dtype seems to be."""
    if array.shape != shape:
        axes = "VTHWC"[: len(shape)]
        for order in permutations(range(len(shape))):
            if tuple(shape[i] for i in order) == array.shape:
                found = ", ".join(axes[i] for i in order)
                return f"; it seems to be ({found}): transpose it to ({', '.join(axes)})"
        if array.ndim == len(shape) and array.shape[1] == shape[1] + 1:
            return "; leave out the given first frame"
        return "; leave out alpha" if name == "rgb" and array.shape == (*shape[:-1], 4) else ""
    if name == "rgb" and array.dtype.kind == "f" and array.size:
        low, high = array.min(), array.max()
        if low >= -1.01 and high <= 1.01:
            return (
                "; write " + ("127.5 * (rgb + 1)" if low < -0.01 else "255 * rgb") + ", rounded and clipped, as uint8"
            )
    floats = {"points": "; astype(np.float32)", "opening_m": "; astype(np.float64)"}
    return {**floats, "valid": "; write valid != 0"}.get(name, "; round it, then astype(np.uint8)")


def _video(arrays: dict[str, npt.NDArray[Any]], window: Window) -> Video4D:
    points = np.where(arrays["valid"][..., None], arrays["points"], np.float32(np.nan))
    parts = arrays.get("parts", np.zeros(points.shape[:-1], np.uint8))
    return Video4D(arrays["rgb"], points, parts, window.K, window.dt_s, arrays.get("opening_m"))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    advice = "copy the one that 'geo4d-bench conditions' wrote, and add 'generator'"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; {advice}")
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error}); {advice}") from None
    if not isinstance(manifest, dict):
        raise DatasetError(f"{path}: not a JSON object; {advice}")
    return manifest


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        check_file(path)
        return dict(load_file(path))
    except FileNotFoundError:
        raise DatasetError("missing; every window must be predicted") from None
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a dtype that numpy lacks
        raise DatasetError(f"not a whole safetensors file of numpy's types ({error}); write it again") from None
