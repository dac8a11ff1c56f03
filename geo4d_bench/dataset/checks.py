"""What can be wrong with a dataset's files, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.dataset.hands import load_hand
from geo4d_bench.dataset.layout import DIGEST, arrays_of, simulated_sha256
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256
from geo4d_bench.dataset.reader import REMAKE, EpisodeFile
from geo4d_bench.dataset.schema import EPISODES, HANDS, IMAGES, MANIFEST, SCENES
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera


def shared_files(manifest: Manifest) -> list[str]:
    """The scenes and hands that a dataset's episodes need, as paths in its folder."""
    scenes = [f"{SCENES}/{scene}.zip" for scene in sorted({e.scene for e in manifest.episodes})]
    return scenes + [f"{HANDS}/{arm}.npz" for arm in manifest.settings.arms if manifest.episodes]


def shared_faults(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of :func:`shared_files`."""
    for name in shared_files(manifest):
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        elif path.suffix == ".zip":
            if file_sha256(path) != path.stem:
                yield name, "its content differs from its name (sha256)"
        else:
            try:
                load_hand(path)
            except DatasetError:
                yield name, "no hand model can be read"


def dataset_faults(folder: Path, manifest: Manifest, *, images: bool) -> Iterator[tuple[str, str]]:
    """(file, what is wrong and what to do) of everything that can be checked; decodes every image if ``images``."""
    from tqdm import tqdm

    named = {e.file for e in manifest.episodes}
    if not named:
        yield MANIFEST, "no finished episodes; run the datagen command again"
    for path in sorted((folder / EPISODES).glob("*")):
        if path.name not in named and not path.name.startswith("."):
            yield path.name, "is not in the manifest; run the same datagen command again, or delete it"
    for name, fault in shared_faults(folder, manifest):
        yield name, f"{fault}; copy it back, or run the same datagen command again: it makes it anew"
    for entry in tqdm(manifest.episodes, desc="verify", unit="episode", leave=False):
        for fault in episode_faults(folder / EPISODES / entry.file, manifest.settings, entry, images=images):
            yield entry.file, fault


def episode_faults(path: Path, settings: Settings, entry: EpisodeEntry | None, *, images: bool) -> Iterator[str]:
    """What is wrong with an episode's file, by its dataset's settings and its ``entry`` where the manifest has one, and
    what to do, without the file's name. Every image is decoded if ``images``. Damage raises nothing."""
    if not path.is_file():
        yield f"is missing{REMAKE}"
        return
    if entry is not None and file_sha256(path) != entry.sha256:
        yield f"its content differs from the manifest's sha256{REMAKE}"
    try:
        with closing(EpisodeFile(path, digest=False)) as episode:
            fault = None
            for fault in _faults(episode, settings, entry, images):
                yield f"{fault}{REMAKE}"
            if fault is None and episode.attrs.get(DIGEST) not in (None, simulated_sha256(episode.file)):
                yield f"what was simulated was changed after it was written{REMAKE}"
    except DatasetError as error:
        yield str(error).removeprefix(f"{path}: ")
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        yield f"cannot be read ({error!r}){REMAKE}"


def _faults(episode: EpisodeFile, settings: Settings, entry: EpisodeEntry | None, images: bool) -> Iterator[str]:
    expected = {
        "task": settings.task, "version": settings.version, "split": settings.split, "success": True,
        "control_hz": settings.control_hz, "video_hz": settings.video_hz, "language": settings.language,
        "arms": list(settings.arms),
    }  # fmt: skip
    if entry is not None:
        expected |= {"scene": entry.scene, "seed": entry.seed}
    rooms = episode.attrs["notes"].get("rooms", "fixed")
    if rooms != settings.rooms:
        yield f"its rooms are '{rooms}', expected '{settings.rooms}'"
    for name, value in expected.items():
        found = episode.attrs.get(name)
        if found != value:
            yield f"attribute {name} is {found!r}, expected {value!r}"
    for name in arrays_of(settings.arms, settings.objects):  # shapes and dtypes were checked when it was opened
        if name not in episode.file:
            yield f"{name} is missing"
        elif not np.isfinite(episode.file[name][()]).all():
            yield f"{name} has values that are not finite"
        elif name.rsplit("/", 1)[-1].startswith("T_world") and not _rigid(episode.file[name][()]):
            yield f"{name} has poses that are not rigid"
    _ = episode.steps  # DatasetError where they do not rise
    for camera in settings.cameras(int(episode.attrs["seed"]) if entry is None else entry.seed):
        yield from _view_faults(episode, camera, settings, images)
    extra = set(episode.file["views"]) - (set(settings.rig.camera_names()) if settings.views == "all" else set())
    if extra:
        yield f"has cameras that the rig lacks: {', '.join(sorted(extra))}"


def _view_faults(episode: EpisodeFile, camera: Camera, settings: Settings, images: bool) -> Iterator[str]:
    group, size = f"views/{camera.name}", (settings.height, settings.width)
    if group not in episode.file:
        yield f"{group} is missing"
        return
    view = episode.file[group]
    if view["rgb"].shape[1:3] != size:
        yield f"{group} has images of {view['rgb'].shape[1:3]} pixels, expected {size}"
        return
    if not np.isfinite(view["K"][()]).all():
        yield f"{group}/K has values that are not finite"
    elif not np.allclose(view["K"][()], camera.K(*size), rtol=1e-9, atol=1e-9):
        yield f"{group}/K differs from the manifest's rig"
    if not np.allclose(view["T_world_cam"][()], camera.T_world_cam, rtol=0, atol=1e-9):
        yield f"{group}/T_world_cam differs from the manifest's rig"
    if images:
        for name in IMAGES:
            if fault := _image_fault(view[name], len(episode.seg_names) if name == "seg" else np.inf):
                yield f"{group}/{name} {fault}"


def _image_fault(images: Any, labels: float) -> str | None:
    """Decodes every frame, one chunk in memory at a time; values have to be less than ``labels``."""
    empty = True
    for first in range(0, len(images), images.chunks[0]):
        last = min(first + images.chunks[0], len(images)) - 1
        try:
            some = images[first : last + 1]
        except (OSError, RuntimeError) as error:
            return f"{f'frame {first}' if first == last else f'frames {first} to {last}'} cannot be decoded ({error})"
        largest = some.reshape(len(some), -1).max(axis=1)
        if (largest >= labels).any():
            index = int((largest >= labels).argmax())
            return f"frame {first + index} has label {largest[index]}, attribute names has {labels}"
        empty = empty and not largest.any()
    return "is empty: every value of every frame is 0" if empty else None


def _rigid(T: Any) -> bool:
    R = T[..., :3, :3]
    return bool(
        np.allclose(R @ np.swapaxes(R, -1, -2), np.eye(3), atol=1e-6)
        and np.all(np.linalg.det(R) > 0)
        and np.allclose(T[..., 3, :], [0, 0, 0, 1], atol=1e-9)
    )
