"""``geo4d-bench verify --repair``: damaged episodes made again from their states. Needs MuJoCo, not robosuite."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geo4d_bench.dataset import verify
from geo4d_bench.dataset.layout import DIGEST
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256, read_manifest, write_manifest
from geo4d_bench.dataset.reader import read_simulated
from geo4d_bench.dataset.schema import EPISODES, SCENES
from geo4d_bench.dataset.verify import VerifyResult
from geo4d_bench.errors import DatasetError, Geo4DError


@dataclass(frozen=True)
class VerifyConfig(verify.VerifyConfig):
    """Check a dataset's files against its manifest and the schema."""

    repair: bool = False
    """Make damaged episodes again from their states and scene; needs MuJoCo, not robosuite."""


@dataclass(frozen=True)
class RepairResult(VerifyResult):
    """``repaired`` are (file, how); ``faults`` are those that are left."""

    repaired: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "\n".join([*(f"{file}: {how}" for file, how in self.repaired), super().__str__()])


def run(config: VerifyConfig) -> VerifyResult:
    """Check, and with ``repair`` make again what can be; DatasetError only where the folder is no dataset at all."""
    found = verify.run(config)
    if not config.repair or not found.faults:
        return found
    manifest = read_manifest(config.data)
    damaged = {file for file, _ in found.faults}
    faults = [(file, fault) for file, fault in found.faults if file not in {e.file for e in manifest.episodes}]
    repaired: list[tuple[str, str]] = []
    renderer = _Renderers(config.data, manifest.settings)
    for entry in manifest.episodes:
        if entry.file not in damaged:
            continue
        try:
            new = _make_again(config.data, entry, manifest.settings, renderer)
        except Geo4DError as error:
            faults.append((entry.file, str(error).removeprefix(f"{config.data / EPISODES / entry.file}: ")))
            continue
        manifest = _with(manifest, new)
        write_manifest(config.data, manifest)
        faults += [(entry.file, fault) for fault in verify.entry_faults(config.data, new, manifest.settings, True)]
        same = "the same bytes" if new.sha256 == entry.sha256 else "images of this machine's renderer, a new sha256"
        repaired.append((entry.file, f"made again from its states ({same})"))
    renderer.close()
    return RepairResult(found.folder, found.episodes, tuple(faults), tuple(repaired))


def _make_again(folder: Path, entry: EpisodeEntry, settings: Settings, renderers: _Renderers) -> EpisodeEntry:
    """Render one episode over its damaged file; Geo4DError where its states or scene are not there."""
    from geo4d_bench.datagen.render import render_episode

    path = folder / EPISODES / entry.file
    if not path.is_file():
        raise DatasetError(f"{path}: is missing, and so are its states: {_DATAGEN}")
    try:
        trajectory, attributes = read_simulated(path, entry.size_bytes)
    except DatasetError as error:
        said = str(error).removeprefix(f"{path}: ").split(";")[0]
        raise DatasetError(f"{path}: no repair without whole states ({said}): {_DATAGEN}") from error
    told = (attributes.get(DIGEST, ""), trajectory.seed, trajectory.scene, len(trajectory.time))
    expected = (entry.simulated_sha256 or told[0], entry.seed, entry.scene, entry.steps)
    if told != expected:
        raise DatasetError(f"{path}: holds another episode than the manifest says; no repair from it: {_DATAGEN}")
    render_episode(
        path,
        trajectory,
        renderers.of(entry),
        settings.cameras(entry.seed),
        video_hz=settings.video_hz,
        notes=attributes["notes"],
    )
    return dataclasses.replace(
        entry,
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
        simulated_sha256=read_simulated(path)[1][DIGEST],
    )


_DATAGEN = "run the datagen command that made the dataset again (an episode follows from its settings and number)"


def _with(manifest: Manifest, new: EpisodeEntry) -> Manifest:
    return Manifest(manifest.settings, tuple(new if e.file == new.file else e for e in manifest.episodes))


class _Renderers:
    """The renderer of the scene that was needed last: most datasets have one scene."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._scene = ""
        self._renderer: Any = None

    def of(self, entry: EpisodeEntry) -> Any:
        """DatasetError where the scene is missing or damaged."""
        from geo4d_bench.rendering.renderer import Renderer
        from geo4d_bench.rendering.scene import load_scene

        if entry.scene != self._scene:
            path = self._folder / SCENES / f"{entry.scene}.zip"
            if not path.is_file() or file_sha256(path) != entry.scene:
                raise DatasetError(
                    f"needs {SCENES}/{path.name}, which is missing or damaged: copy it back and repair then, or "
                    "run the datagen command that made the dataset again"
                )
            self.close()
            s = self._settings
            self._renderer = Renderer(load_scene(path), s.height, s.width, max_depth_m=s.max_depth_m)
            self._scene = entry.scene
        return self._renderer

    def close(self) -> None:
        """Give the OpenGL context back."""
        if self._renderer is not None:
            self._renderer.close()
        self._scene, self._renderer = "", None
