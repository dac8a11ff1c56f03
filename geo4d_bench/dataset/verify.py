"""``geo4d-bench verify``: whether a dataset is whole, a line a fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from geo4d_bench.dataset.hands import load_hand
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256, read_manifest
from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.dataset.schema import EPISODES, HANDS, SCENES
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera


@dataclass(frozen=True)
class VerifyConfig:
    """Check a dataset's files against its manifest and the schema."""

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's folder."""
    images: bool = True
    """Decode every image; --no-images checks hashes and structure only."""


@dataclass(frozen=True)
class VerifyResult:
    """``faults`` are (file, what is wrong and what to do), empty where the dataset is whole."""

    folder: Path
    episodes: int
    faults: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 where whole, else 1."""
        return 1 if self.faults else 0

    def __str__(self) -> str:
        if not self.faults:
            return f"{self.folder}: whole, {self.episodes} episodes"
        lines = [f"{file}: {fault}" for file, fault in self.faults]
        return "\n".join([*lines, f"{self.folder}: {len(self.faults)} faults in {self.episodes} episodes"])


def run(config: VerifyConfig) -> VerifyResult:
    """Check everything that can be checked; DatasetError only where the folder is no dataset at all."""
    from tqdm import tqdm

    folder = config.data
    manifest = read_manifest(folder)
    faults = list(_folder_faults(folder, manifest))
    for entry in tqdm(manifest.episodes, desc="verify", unit="episode", leave=False):
        try:
            for fault in _episode_faults(folder, entry, manifest.settings, config.images):
                faults.append((entry.file, fault))
        except (DatasetError, OSError, KeyError, ValueError, RuntimeError) as error:
            known = isinstance(error, DatasetError)
            sentence = str(error) if known else f"cannot be read ({error!r}){_REMAKE}"
            faults.append((entry.file, sentence.removeprefix(f"{folder / EPISODES / entry.file}: ")))
    return VerifyResult(folder, len(manifest.episodes), tuple(faults))


_REMAKE = "; delete it and run the same datagen command again"


def _folder_faults(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    named = {e.file for e in manifest.episodes}
    if not named:
        yield "manifest.json", "no finished episodes; run the datagen command again"
    for path in sorted((folder / EPISODES).glob("*")):
        if path.name not in named and not path.name.startswith("."):
            yield path.name, "is not in the manifest; run the same datagen command again, or delete it"
    for scene in sorted({e.scene for e in manifest.episodes}):
        path = folder / SCENES / f"{scene}.zip"
        if not path.is_file():
            yield f"{SCENES}/{path.name}", "is missing, so its episodes cannot be rendered again; copy it back"
        elif file_sha256(path) != scene:
            yield f"{SCENES}/{path.name}", "its content differs from its name (sha256); copy it again"
    if named:
        for arm in manifest.settings.arms:
            try:
                load_hand(folder / HANDS / f"{arm}.npz")
            except DatasetError as error:
                yield f"{HANDS}/{arm}.npz", str(error).removeprefix(f"{folder / HANDS / arm}.npz: ")


def _episode_faults(folder: Path, entry: EpisodeEntry, settings: Settings, images: bool) -> Iterator[str]:
    path = folder / EPISODES / entry.file
    if not path.is_file():
        yield f"is missing{_REMAKE}"
        return
    if file_sha256(path) != entry.sha256:
        yield f"its content differs from the manifest's sha256{_REMAKE}"
    episode = EpisodeFile(path)
    try:
        yield from _attribute_faults(episode, entry, settings)
        yield from _trajectory_faults(episode, settings)
        for camera in settings.cameras(entry.seed):
            yield from _view_faults(episode, camera, settings, images)
        extra = set(episode.file["views"]) - set(settings.rig.camera_names())
        if extra:
            yield f"has cameras that the rig lacks: {', '.join(sorted(extra))}{_REMAKE}"
    finally:
        episode.close()


def _attribute_faults(episode: EpisodeFile, entry: EpisodeEntry, settings: Settings) -> Iterator[str]:
    expected = {
        "task": settings.task, "version": settings.version, "split": settings.split, "success": True,
        "control_hz": settings.control_hz, "video_hz": settings.video_hz, "language": settings.language,
        "arms": list(settings.arms), "scene": entry.scene, "seed": entry.seed,
    }  # fmt: skip
    for name, value in expected.items():
        found = episode.attrs.get(name)
        if found != value:
            yield f"attribute {name} is {found!r}, expected {value!r}{_REMAKE}"


def _trajectory_faults(episode: EpisodeFile, settings: Settings) -> Iterator[str]:
    file = episode.file
    count = len(file["time"]) if "time" in file else 0
    expected: dict[str, tuple[tuple[int | None, ...], type]] = {
        "states": ((count, None), np.float64),
        "actions": ((count, None), np.float32),
        "time": ((count,), np.float64),
        "frames/step": ((None,), np.int32),
    }
    for arm in settings.arms:
        expected[f"ee/{arm}/T_world_ee"] = ((count, 4, 4), np.float64)
        expected[f"ee/{arm}/opening"] = ((count,), np.float64)
    for name in settings.objects:
        expected[f"objects/{name}/T_world_obj"] = ((count, 4, 4), np.float64)
    if count == 0:
        yield f"has no control steps{_REMAKE}"
    for name, (shape, dtype) in expected.items():
        if name not in file:
            yield f"{name} is missing{_REMAKE}"
            continue
        fault = _array_fault(file[name], shape, dtype)
        if fault:
            yield f"{name} {fault}{_REMAKE}"
        elif not np.isfinite(file[name][()]).all():
            yield f"{name} has values that are not finite{_REMAKE}"
        elif name.rsplit("/", 1)[-1].startswith("T_world") and not _rigid(file[name][()]):
            yield f"{name} has poses that are not rigid{_REMAKE}"
    if "frames/step" in file:
        steps = episode.steps
        if len(steps) == 0 or np.any(np.diff(steps) <= 0) or steps[0] < 0 or steps[-1] >= count:
            yield f"frames/step does not rise from 0 to {count - 1}{_REMAKE}"


def _view_faults(episode: EpisodeFile, camera: Camera, settings: Settings, images: bool) -> Iterator[str]:
    file, count = episode.file, len(episode.steps)
    group = f"views/{camera.name}"
    if group not in file:
        yield f"{group} is missing{_REMAKE}"
        return
    view, size = file[group], (settings.height, settings.width)
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "rgb": ((count, *size, 3), np.uint8),
        "depth": ((count, *size), np.uint16),
        "seg": ((count, *size), np.uint8),
        "K": ((3, 3), np.float64),
        "T_world_cam": ((4, 4), np.float64),
    }
    for name, (shape, dtype) in expected.items():
        where = f"{group}/{name}"
        if name not in view:
            yield f"{where} is missing{_REMAKE}"
            continue
        fault = _array_fault(view[name], shape, dtype)
        if fault:
            if name in ("rgb", "depth", "seg") and view[name].ndim and len(view[name]) != count:
                fault = f"has {len(view[name])} frames, frames/step has {count}"
            yield f"{where} {fault}{_REMAKE}"
        elif name in ("rgb", "depth", "seg"):
            if images:
                yield from (f"{where} {fault}{_REMAKE}" for fault in _image_faults(episode, view[name], name))
        elif not np.isfinite(view[name][()]).all():
            yield f"{where} has values that are not finite{_REMAKE}"
    if "T_world_cam" in view and not np.allclose(view["T_world_cam"][()], camera.T_world_cam, rtol=0, atol=1e-9):
        yield f"{group}/T_world_cam differs from the manifest's rig{_REMAKE}"


def _image_faults(episode: EpisodeFile, images: Any, name: str) -> Iterator[str]:
    """Decodes every frame, one in memory at a time."""
    labels = len(episode.seg_names)
    seen = False
    for index in range(len(images)):
        try:
            image = images[index]
        except (OSError, RuntimeError) as error:
            yield f"frame {index} cannot be decoded ({error})"
            return
        if name == "seg" and image.max() >= labels:
            yield f"frame {index} has label {image.max()}, attribute names has {labels}"
            return
        seen = seen or bool(image.any())
    if not seen:
        yield "is empty: every value of every frame is 0"


def _array_fault(array: Any, shape: tuple[int | None, ...], dtype: type) -> str | None:
    fits = array.ndim == len(shape) and all(e is None or e == f for e, f in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in shape)
        return f"has shape {array.shape}, expected ({wanted})"
    return None if array.dtype == dtype else f"has dtype {array.dtype}, expected {np.dtype(dtype)}"


def _rigid(T: Any) -> bool:
    R = T[..., :3, :3]
    return bool(
        np.allclose(R @ np.swapaxes(R, -1, -2), np.eye(3), atol=1e-6)
        and np.all(np.linalg.det(R) > 0)
        and np.allclose(T[..., 3, :], [0, 0, 0, 1], atol=1e-9)
    )
