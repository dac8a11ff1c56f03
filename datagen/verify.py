"""``geo4d-bench verify``: whether a dataset is whole, one line per fault; ``--repair`` makes damaged episodes again.

Needs MuJoCo for repairs, robosuite never.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from geo4d_bench.dataset.checks import dataset_faults, episode_faults
from geo4d_bench.dataset.layout import DIGEST
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256, read_manifest, write_manifest
from geo4d_bench.dataset.reader import read_simulated
from geo4d_bench.dataset.schema import EPISODES, SCENES
from geo4d_bench.errors import DatasetError, Geo4DError


@dataclass(frozen=True)
class VerifyConfig:
    """Check a dataset's files against its manifest and the schema."""

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's folder."""
    images: bool = True
    """Decode every image; --no-images checks hashes and structure only."""
    repair: bool = False
    """Make damaged episodes again from their states and scene; needs MuJoCo, not robosuite."""


@dataclass(frozen=True)
class VerifyResult:
    """``faults`` are (file, what is wrong and what to do) of what is not whole; ``repaired`` are (file, how)."""

    folder: Path
    episodes: int
    faults: tuple[tuple[str, str], ...]
    repaired: tuple[tuple[str, str], ...] = ()

    @property
    def exit_code(self) -> int:
        """0 where whole, else 1."""
        return 1 if self.faults else 0

    def __str__(self) -> str:
        state = f"{len(self.faults)} faults in" if self.faults else "whole,"
        lines = [f"{file}: {what}" for file, what in (*self.repaired, *self.faults)]
        return "\n".join([*lines, f"{self.folder}: {state} {self.episodes} episodes"])


def run(config: VerifyConfig) -> VerifyResult:
    """Check, and with ``repair`` make again what can be; DatasetError only where the folder is no dataset at all,
    SceneError where no OpenGL draws what is to be repaired."""
    manifest = read_manifest(config.data)
    found = tuple(dataset_faults(config.data, manifest, images=config.images))
    if not config.repair or not found:
        return VerifyResult(config.data, len(manifest.episodes), found)
    from geo4d_bench.datagen.job import require_opengl
    from geo4d_bench.datagen.render import scene_renderer

    if manifest.settings.views == "all":
        require_opengl()
    damaged = {file for file, _ in found}
    faults = [(file, fault) for file, fault in found if file not in {e.file for e in manifest.episodes}]
    repaired: list[tuple[str, str]] = []
    for entry in manifest.episodes:
        if entry.file not in damaged:
            continue
        try:
            new = _make_again(config.data, entry, manifest.settings)
        except Geo4DError as error:
            faults.append((entry.file, str(error).removeprefix(f"{config.data / EPISODES / entry.file}: ")))
            continue
        entries = tuple(new if e.file == new.file else e for e in manifest.episodes)
        manifest = Manifest(manifest.settings, entries)
        write_manifest(config.data, manifest)
        left = episode_faults(config.data / EPISODES / entry.file, manifest.settings, new, images=True)
        faults += [(entry.file, fault) for fault in left]
        same = "the same bytes" if new.sha256 == entry.sha256 else "images of this machine's renderer, a new sha256"
        repaired.append((entry.file, f"made again from its states ({same})"))
    scene_renderer.cache_clear()
    return VerifyResult(config.data, len(manifest.episodes), tuple(faults), tuple(repaired))


def _make_again(folder: Path, entry: EpisodeEntry, settings: Settings) -> EpisodeEntry:
    """Render one episode over its damaged file; Geo4DError where its states or scene are not there."""
    from geo4d_bench.datagen.render import render_episode, renderer_of

    path = folder / EPISODES / entry.file
    if not path.is_file():
        raise DatasetError(f"{path}: is missing, and so are its states: {_DATAGEN}")
    try:
        trajectory, attributes = read_simulated(path, entry.size_bytes)
    except DatasetError as error:
        fault = str(error).removeprefix(f"{path}: ").split(";")[0]
        raise DatasetError(f"{path}: no repair without whole states ({fault}): {_DATAGEN}") from error
    found = (attributes.get(DIGEST, ""), trajectory.seed, trajectory.scene, len(trajectory.time))
    if found != (entry.simulated_sha256 or found[0], entry.seed, entry.scene, entry.steps):
        raise DatasetError(f"{path}: holds another episode than the manifest lists; no repair from it: {_DATAGEN}")
    scene = folder / SCENES / f"{entry.scene}.zip"
    if not scene.is_file() or file_sha256(scene) != entry.scene:
        raise DatasetError(
            f"needs {SCENES}/{scene.name}, which is missing or damaged: copy it back and repair then, or run the "
            "datagen command that made the dataset again"
        )
    render_episode(path, trajectory, renderer_of(scene, settings), settings, attributes["notes"])
    return dataclasses.replace(
        entry,
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
        simulated_sha256=read_simulated(path)[1][DIGEST],
    )


_DATAGEN = "run the datagen command that made the dataset again (an episode follows from its settings and number)"
