"""``geo4d-bench render``: a stored dataset drawn from another rig or size. Needs MuJoCo, not robosuite."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from geo4d_bench.datagen.job import open_folder, require_here, rescan
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256, read_manifest
from geo4d_bench.dataset.schema import EPISODES, HANDS, SCENES
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.io import held, write_atomic
from geo4d_bench.pool import run_jobs


@dataclass(frozen=True)
class RenderConfig:
    """Draw a stored dataset's episodes again from their states and scenes. A second call makes what is missing."""

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's folder; it is only read."""
    out: Path
    """Folder of the new dataset, whole in itself."""
    rig: str | None = None
    """Cameras: hemisphere16, random16, orbit or a YAML file; default those of the dataset."""
    height: int | None = None
    """Image height in pixels; default the dataset's."""
    width: int | None = None
    """Image width in pixels; default the dataset's."""
    video_hz: float | None = None
    """Rendered frames a second; divides the control rate; default the dataset's."""
    workers: int = 2
    """Processes; the result does not depend on their number."""
    cluster: str | None = None
    """Address of a Ray cluster ('auto' finds one here) whose CPUs work instead; all nodes must see the same files."""


@dataclass(frozen=True)
class RenderResult:
    """What lies in the new folder now, and how many episodes this call rendered."""

    folder: Path
    manifest: Manifest
    made: int

    def __str__(self) -> str:
        settings = self.manifest.settings
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

    Args:
        data: the source.  out: where the rendered dataset goes.
        settings: of the rendered dataset; only rig, size, depth limit and ``video_hz`` may differ from the source's.

    Raises:
        DatasetError: as :func:`run`.
    """
    if out.resolve() == data.resolve():
        raise ConfigError(f"--out {out} is the dataset itself; choose another folder")
    source = read_manifest(data)
    with held(out):
        return _render_missing(data, out, settings, source, workers, cluster)


def _render_missing(
    data: Path, out: Path, settings: Settings, source: Manifest, workers: int, cluster: str | None
) -> RenderResult:
    from tqdm import tqdm

    shared = _shared_files(data, source)
    manifest = open_folder(out, settings)
    _require_same_episodes(out, manifest, source)
    _copy(shared, data, out)
    there = {entry.file for entry in manifest.episodes}
    jobs = [
        _Job(data.absolute(), out.absolute(), entry, manifest.settings)
        for entry in source.episodes
        if entry.file not in there
    ]
    made = 0
    try:
        with tqdm(total=len(source.episodes), initial=len(source.episodes) - len(jobs), unit="episode") as bar:
            for name in run_jobs(_render, jobs, workers, cluster):
                require_here(out, name)
                made += 1
                manifest = rescan(out, manifest)
                bar.update()
    finally:
        _release_renderer()
        # After Ctrl-C or an error too: another worker may have finished an episode meanwhile.
        manifest = rescan(out, manifest)
    return RenderResult(out, manifest, made)


def _settings(config: RenderConfig, source: Settings) -> Settings:
    """The rendered dataset's settings; ConfigError, UnknownNameError."""
    from geo4d_bench import tasks
    from geo4d_bench.datagen.render import frame_steps
    from geo4d_bench.fingerprint import commit, fingerprint
    from geo4d_bench.tasks.rigs import make_rig

    for name, low in (("height", 8), ("width", 8), ("workers", 1)):
        value = getattr(config, name)
        if value is not None and value < low:
            raise ConfigError(f"--{name} {value}: expected {low} or more")
    video_hz = source.video_hz if config.video_hz is None else config.video_hz
    frame_steps(1, source.control_hz, video_hz)
    rig = source.rig
    if config.rig is not None:
        rig = make_rig(config.rig, tasks.spec(f"{source.task}-{source.version}").workspace)
    return dataclasses.replace(
        source,
        rig=rig,
        height=config.height or source.height,
        width=config.width or source.width,
        video_hz=video_hz,
        fingerprint=fingerprint(),
        commit=commit(),
        rendered_from=source.fingerprint,
    )


def _shared_files(data: Path, source: Manifest) -> list[str]:
    """The scenes and hands that make the new dataset stand alone; DatasetError where one is missing."""
    names = [f"{SCENES}/{scene}.zip" for scene in sorted({entry.scene for entry in source.episodes})]
    names += [f"{HANDS}/{arm}.npz" for arm in source.settings.arms]
    for name in names:
        if not (data / name).is_file():
            raise DatasetError(f"{data / name}: is missing; run 'geo4d-bench verify {data}'")
    return names


def _copy(names: list[str], data: Path, out: Path) -> None:
    """Copy files that are not there yet, each in one step."""
    for name in names:
        target = out / name
        if not target.exists():
            write_atomic(target, (data / name).read_bytes())


def _require_same_episodes(out: Path, manifest: Manifest, source: Manifest) -> None:
    """What an earlier call rendered must come from the same simulated episodes."""
    known = {entry.file: (entry.seed, entry.scene, entry.steps) for entry in source.episodes}
    for entry in manifest.episodes:
        if known.get(entry.file) != (entry.seed, entry.scene, entry.steps):
            raise DatasetError(
                f"{out}: {entry.file} was rendered from another dataset than the one given; choose another --out"
            )


@dataclass(frozen=True)
class _Job:
    data: Path
    out: Path
    entry: EpisodeEntry
    settings: Settings


def _render(job: _Job) -> str:
    """Render one episode into its file; the result depends on the job alone."""
    from geo4d_bench.datagen.render import render_episode
    from geo4d_bench.dataset.reader import EpisodeFile

    path = job.data / EPISODES / job.entry.file
    episode = EpisodeFile(path)
    if file_sha256(path) != job.entry.sha256:
        raise DatasetError(f"{path}: differs from the manifest's sha256; run 'geo4d-bench verify {job.data}'")
    settings = job.settings
    render_episode(
        job.out / EPISODES / job.entry.file,
        episode.trajectory,
        _renderer(job.data / SCENES / f"{job.entry.scene}.zip", settings),
        settings.cameras(job.entry.seed),
        video_hz=settings.video_hz,
        notes=episode.attrs["notes"],
    )
    episode.close()
    return job.entry.file


_RENDERERS: dict[tuple[Path, int, int, float], Any] = {}


def _release_renderer() -> None:
    for renderer in _RENDERERS.values():
        renderer.close()
    _RENDERERS.clear()


def _renderer(scene: Path, settings: Settings) -> Any:
    """A process keeps the renderer of the scene that it drew last: most datasets have one scene."""
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import load_scene

    key = (scene, settings.height, settings.width, settings.max_depth_m)
    if key not in _RENDERERS:
        _release_renderer()
        _RENDERERS[key] = Renderer(load_scene(scene), settings.height, settings.width, max_depth_m=settings.max_depth_m)
    return _RENDERERS[key]
