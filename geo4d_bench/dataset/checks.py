"""What can be wrong with one episode's file, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.dataset.layout import DIGEST, simulated_sha256
from geo4d_bench.dataset.manifest import EpisodeEntry, Settings
from geo4d_bench.dataset.reader import REMAKE, EpisodeFile
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera


def episode_faults(path: Path, settings: Settings, entry: EpisodeEntry | None, *, images: bool) -> Iterator[str]:
    """Compare a file with the settings of its dataset, and with its entry where the manifest has one.

    Args:
        path: the episode's file.  settings: of its dataset.  entry: of the manifest.
        images: whether to decode every image.

    Yields:
        What is wrong and what to do, without the file's name. Nothing that a damaged file causes is raised.
    """
    try:
        episode = EpisodeFile(path, digest=False)
        try:
            before = None
            for before in _faults(episode, settings, entry, images):
                yield before
            stored = episode.attrs.get(DIGEST)
            if before is None and stored is not None and stored != simulated_sha256(episode.file):
                yield f"what was simulated was changed after it was written{REMAKE}"
        finally:
            episode.close()
    except (DatasetError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        known = isinstance(error, DatasetError)
        sentence = str(error) if known else f"cannot be read ({error!r}){REMAKE}"
        yield sentence.removeprefix(f"{path}: ")


def _faults(episode: EpisodeFile, settings: Settings, entry: EpisodeEntry | None, images: bool) -> Iterator[str]:
    yield from _attribute_faults(episode, settings, entry)
    yield from _trajectory_faults(episode, settings)
    for camera in settings.cameras(int(episode.attrs["seed"]) if entry is None else entry.seed):
        yield from _view_faults(episode, camera, settings, images)
    extra = set(episode.file["views"]) - set(settings.rig.camera_names())
    if extra:
        yield f"has cameras that the rig lacks: {', '.join(sorted(extra))}{REMAKE}"


def _attribute_faults(episode: EpisodeFile, settings: Settings, entry: EpisodeEntry | None) -> Iterator[str]:
    expected = {
        "task": settings.task, "version": settings.version, "split": settings.split, "success": True,
        "control_hz": settings.control_hz, "video_hz": settings.video_hz, "language": settings.language,
        "arms": list(settings.arms),
    }  # fmt: skip
    if entry is not None:
        expected |= {"scene": entry.scene, "seed": entry.seed}
    for name, value in expected.items():
        found = episode.attrs.get(name)
        if found != value:
            yield f"attribute {name} is {found!r}, expected {value!r}{REMAKE}"


def _trajectory_faults(episode: EpisodeFile, settings: Settings) -> Iterator[str]:
    """What the file's layout does not tell: shapes and dtypes were checked when it was opened."""
    file = episode.file
    names = ["states", "actions", "time"]
    for arm in settings.arms:
        names += [f"ee/{arm}/T_world_ee", f"ee/{arm}/opening"]
    names += [f"objects/{name}/T_world_obj" for name in settings.objects]
    for name in names:
        if name not in file:
            yield f"{name} is missing{REMAKE}"
        elif not np.isfinite(file[name][()]).all():
            yield f"{name} has values that are not finite{REMAKE}"
        elif name.rsplit("/", 1)[-1].startswith("T_world") and not _rigid(file[name][()]):
            yield f"{name} has poses that are not rigid{REMAKE}"
    _ = episode.steps  # DatasetError where they do not rise


def _view_faults(episode: EpisodeFile, camera: Camera, settings: Settings, images: bool) -> Iterator[str]:
    group, size = f"views/{camera.name}", (settings.height, settings.width)
    if group not in episode.file:
        yield f"{group} is missing{REMAKE}"
        return
    view = episode.file[group]
    if view["rgb"].shape[1:3] != size:
        yield f"{group} has images of {view['rgb'].shape[1:3]} pixels, expected {size}{REMAKE}"
        return
    if not np.isfinite(view["K"][()]).all():
        yield f"{group}/K has values that are not finite{REMAKE}"
    if not np.allclose(view["T_world_cam"][()], camera.T_world_cam, rtol=0, atol=1e-9):
        yield f"{group}/T_world_cam differs from the manifest's rig{REMAKE}"
    if images:
        for name in ("rgb", "depth", "seg"):
            yield from (f"{group}/{name} {fault}{REMAKE}" for fault in _image_faults(episode, view[name], name))


def _image_faults(episode: EpisodeFile, images: Any, name: str) -> Iterator[str]:
    """Decodes every frame, one chunk in memory at a time."""
    labels = len(episode.seg_names)
    seen = False
    for first in range(0, len(images), images.chunks[0]):
        try:
            some = images[first : first + images.chunks[0]]
        except (OSError, RuntimeError) as error:
            last = min(first + images.chunks[0], len(images)) - 1
            yield f"{f'frame {first}' if first == last else f'frames {first} to {last}'} cannot be decoded ({error})"
            return
        wrong = some.reshape(len(some), -1).max(axis=1) >= labels if name == "seg" else np.zeros(len(some), dtype=bool)
        if wrong.any():
            index = int(wrong.argmax())
            yield f"frame {first + index} has label {some[index].max()}, attribute names has {labels}"
            return
        seen = seen or bool(some.any())
    if not seen:
        yield "is empty: every value of every frame is 0"


def _rigid(T: Any) -> bool:
    R = T[..., :3, :3]
    return bool(
        np.allclose(R @ np.swapaxes(R, -1, -2), np.eye(3), atol=1e-6)
        and np.all(np.linalg.det(R) > 0)
        and np.allclose(T[..., 3, :], [0, 0, 0, 1], atol=1e-9)
    )
