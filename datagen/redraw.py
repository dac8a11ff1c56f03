"""``geo4d-bench render``: a stored dataset drawn from another rig or size, or for the first time, or stripped of its
images. Needs MuJoCo, not robosuite."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from geo4d_bench.datagen.job import DatagenResult, make_missing, open_folder, require_opengl
from geo4d_bench.dataset.checks import shared_faults, shared_files
from geo4d_bench.dataset.manifest import EpisodeEntry, Settings, Views, file_sha256, read_manifest
from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.dataset.schema import EPISODES, SCENES, Pixels, require_storable
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.room import RoomsName
from geo4d_bench.io import held, write_atomic
from geo4d_bench.options import Positive, Processes, check_ranges


@dataclass(frozen=True)
class RenderConfig:
    """Draw a stored dataset's episodes again from their states and scenes. A second call makes what is missing."""

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's folder; it is only read."""
    out: Path
    """Folder of the new dataset, whole in itself."""
    rig: str | None = None
    """Cameras: hemisphere16, random16, wide16, wide32, wide64 (drawn anew for every episode), orbit, ring_360, zoom or
    a rig's file (docs/rigs.md); default those of the dataset."""
    rooms: RoomsName | None = None
    """Rooms: fixed, varied or held_out (docs/rooms.md); default those of the dataset."""
    height: Pixels | None = None
    """Image height in pixels; default the dataset's."""
    width: Pixels | None = None
    """Image width in pixels; default the dataset's."""
    video_hz: Positive | None = None
    """Rendered frames a second; divides the control rate; default the dataset's."""
    views: Views = "all"
    """none = leave the images out, to carry what was simulated to where it is drawn ('render' without this)."""
    workers: Processes = 2
    """Processes; the result does not depend on their number."""
    cluster: str | None = None
    """Address of a Ray cluster ('auto' finds one here) whose CPUs work instead; all nodes must see the same files."""

    def __post_init__(self) -> None:
        check_ranges(self)


class RenderResult(DatagenResult):
    """What lies in the new folder now, and how many episodes this call rendered."""

    def __str__(self) -> str:
        settings = self.manifest.settings
        if settings.views == "none":
            return super().__str__()
        cameras = len(settings.rig.camera_names())
        return (
            f"{self.folder}: {len(self.manifest.episodes)} episodes ({self.made} rendered now) from {cameras} cameras "
            f"of {settings.rig.name}, {settings.height} x {settings.width} pixels at {settings.video_hz:g} Hz\n"
            f"check it:  geo4d-bench verify {self.folder}\n"
            f"look:      geo4d-bench inspect {self.folder}"
        )


def run(config: RenderConfig) -> RenderResult:
    """Render the episodes that are missing in ``out``; what was simulated is copied as it is.

    Raises:
        ConfigError: an option is out of range.
        UnknownNameError: the rig is not known, or the dataset's task is not registered and a rig was asked for.
        DatasetError: the source is damaged, or ``out`` holds another dataset or cannot be written.
        SceneError: a camera sees nothing.
    """
    source = read_manifest(config.data)
    if not source.episodes:
        raise DatasetError(f"{config.data}: no finished episodes; run the datagen command that began it again")
    settings = _settings(config, source.settings)
    return render_dataset(config.data, config.out, settings, config.workers, config.cluster)


def render_dataset(
    data: Path, out: Path, settings: Settings, workers: int = 1, cluster: str | None = None
) -> RenderResult:
    """:func:`run` for settings that no option names, for example a rig that was made in Python.

    Only rig, rooms, size, depth limit, ``video_hz`` and ``views`` may differ from the source's settings.
    """
    from geo4d_bench.datagen.render import scene_renderer

    if out.resolve() == data.resolve():
        raise ConfigError(f"--out {out} is the dataset itself; choose another folder")
    source = read_manifest(data)
    if cluster is None and settings.views == "all":
        require_opengl()
    with held(out):
        for name, fault in shared_faults(data, source):
            raise DatasetError(f"{data / name}: {fault}; run 'geo4d-bench verify {data}'")
        manifest = open_folder(out, settings)
        origins = {e.file: (e.seed, e.scene, e.steps) for e in source.episodes}
        for e in manifest.episodes:
            if origins.get(e.file) != (e.seed, e.scene, e.steps):
                raise DatasetError(
                    f"{out}: {e.file} was rendered from another dataset than the one given; choose another --out"
                )
        for name in shared_files(source):
            if not (out / name).exists():
                write_atomic(out / name, (data / name).read_bytes())
        there = {entry.file for entry in manifest.episodes}
        jobs = [entry for entry in source.episodes if entry.file not in there]
        render = functools.partial(_render, data.absolute(), out.absolute(), manifest.settings)
        try:
            manifest = make_missing(out, manifest, render, jobs, workers, cluster)
        finally:
            scene_renderer.cache_clear()
        return RenderResult(out, manifest, len(jobs))


def _settings(config: RenderConfig, source: Settings) -> Settings:
    """The rendered dataset's settings; ConfigError, UnknownNameError."""
    from geo4d_bench import tasks
    from geo4d_bench.datagen.render import frame_steps
    from geo4d_bench.fingerprint import commit, fingerprint
    from geo4d_bench.tasks.rigs import make_rig, warn_of_unseen_workspace

    options = {name: getattr(config, name) for name in ("rooms", "height", "width", "video_hz")}
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if config.rig is not None:
        changes["rig"] = make_rig(config.rig, tasks.spec(f"{source.task}-{source.version}").workspace)
    changes |= {"fingerprint": fingerprint(), "commit": commit(), "rendered_from": source.fingerprint}
    settings = dataclasses.replace(source, views=config.views, **changes)
    frame_steps(1, settings.control_hz, settings.video_hz)
    require_storable(settings.height, settings.width)
    warn_of_unseen_workspace(settings.rig, settings.height, settings.width)
    return settings


def _render(data: Path, out: Path, settings: Settings, entry: EpisodeEntry) -> str:
    """Render one episode into its file; returns the file's name."""
    from geo4d_bench.datagen.render import render_episode, renderer_of

    path = data / EPISODES / entry.file
    with closing(EpisodeFile(path)) as episode:
        if file_sha256(path) != entry.sha256:
            raise DatasetError(f"{path}: differs from the manifest's sha256; run 'geo4d-bench verify {data}'")
        renderer = renderer_of(data / SCENES / f"{entry.scene}.zip", settings)
        if renderer is not None:
            start = episode.trajectory.states[0]
            renderer.require_sight(start, settings.cameras(entry.seed), settings.room(entry.seed))
        render_episode(out / EPISODES / entry.file, episode.trajectory, renderer, settings, episode.attrs["notes"])
    return entry.file
