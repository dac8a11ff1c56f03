"""``geo4d-bench inspect``: what is in a dataset or an episode, in words, as a picture and as a film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from geo4d_bench.dataset.layout import attributes_of
from geo4d_bench.dataset.manifest import Manifest
from geo4d_bench.dataset.reader import NO_IMAGES, Dataset, EpisodeFile
from geo4d_bench.dataset.schema import EPISODES, IMAGES
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.report.pictures import episode_film, episode_sheet, sensor_sheet

UNITS = {
    "states": "mjSTATE_FULLPHYSICS",
    "actions": "m, rotation vector, gripper +1 close -1 open; for each arm",
    "time": "s",
    "T_world_ee": "m",
    "opening": "m",
    "T_world_obj": "m",
    "step": "control steps",
    "rgb": "upright",
    "depth": "units of scale, 0 invalid",
    "seg": "index into names",
    "K": "pixels",
    "T_world_cam": "m",
}
"""Of every array, by the last part of its path."""


@dataclass(frozen=True)
class InspectConfig:
    """Print what a dataset or an episode holds and draw it."""

    path: Annotated[Path, tyro.conf.Positional]
    """A dataset's folder or one episode's file."""
    episode: int = 0
    """Which episode of a folder is shown, counted from 0."""
    frame: int | None = None
    """Which frame the picture shows, counted from 0; default the middle one."""
    cameras: tuple[str, ...] = ()
    """Cameras of the film; default up to four, seen and novel ones."""
    sensors: bool = False
    """Also draw how each sensor model measures the depth of the picture's frame (docs/sensors.md)."""
    out: Path | None = None
    """Folder of the picture and film; default runs/inspect/<name>."""


@dataclass(frozen=True)
class Inspection:
    """``summary``: of the dataset or episode, (what, value) a line.  ``tree``: (path, description) of every array of
    the shown episode, one camera standing for all.  ``picture``, ``film``, ``sensors``: the files written."""

    path: Path
    episode: str
    summary: tuple[tuple[str, str], ...]
    tree: tuple[tuple[str, str], ...]
    picture: Path
    film: Path
    sensors: Path | None

    def __str__(self) -> str:
        wide = max(len(path) for path, _ in self.tree)
        lines = [str(self.path), *(f"  {what:<10} {value}" for what, value in self.summary)]
        lines += [self.episode, *(f"  {path:<{wide}}  {text}" for path, text in self.tree)]
        lines += [f"picture: {self.picture}", f"film:    {self.film}"]
        return "\n".join(lines + ([f"sensors: {self.sensors}"] if self.sensors else []))


def run(config: InspectConfig) -> Inspection:
    """Read, describe and draw.

    Raises:
        ConfigError: there is no such episode or frame.
        DatasetError: nothing that can be read, or there is no such camera.
    """
    path = config.path
    described: tuple[tuple[str, str], ...] = ()
    if path.is_file():
        episode = EpisodeFile(path)
    else:
        dataset = Dataset(path)
        if not 0 <= config.episode < len(dataset.episodes):
            raise ConfigError(f"--episode {config.episode}: expected 0 to {len(dataset.episodes) - 1}")
        episode = dataset.episodes[config.episode]
        described = tuple(_dataset_summary(path, dataset.manifest, episode))
    try:
        frames = len(episode.steps)
        frame = frames // 2 if config.frame is None else config.frame
        if not 0 <= frame < frames:
            raise ConfigError(f"--frame {frame}: {episode.name} has frames 0 to {frames - 1}")
        names = [camera.name for camera in episode.cameras]
        if not names:
            raise DatasetError(f"{episode.path}: {NO_IMAGES}")
        missing = [name for name in config.cameras if name not in names]
        if missing:
            raise DatasetError(f"{episode.path}: there is no camera '{missing[0]}'; it has {', '.join(names)}")
        out = config.out or Path("runs/inspect") / path.resolve().stem
        picture, film = out / f"{episode.name}_frame{frame:03d}.png", out / f"{episode.name}.mp4"
        summary = described or tuple(_episode_summary(episode))
        tree = tuple(_tree(episode))
        episode_sheet(episode, frame, picture)
        episode_film(episode, config.cameras or _few(episode), film)
        sensors = out / f"{episode.name}_frame{frame:03d}_sensors.png" if config.sensors else None
        if sensors is not None:
            sensor_sheet(episode, frame, (config.cameras or _few(episode))[:2], sensors)
    except (KeyError, OSError, ValueError) as error:
        if getattr(error, "filename", None) not in (None, str(episode.path)):  # what cannot be written
            raise
        raise DatasetError(f"{episode.path}: not a whole episode ({error}); run 'geo4d-bench verify'") from error
    return Inspection(path, episode.path.name, summary, tree, picture, film, sensors)


def _dataset_summary(folder: Path, manifest: Manifest, shown: EpisodeFile) -> Iterator[tuple[str, str]]:
    settings, entries = manifest.settings, manifest.episodes
    count, steps, frames = len(entries), [e.steps for e in entries], [e.frames for e in entries]
    seen, novel = len(settings.rig.camera_names("seen")), len(settings.rig.camera_names("novel"))
    yield "task", f"{settings.task} {settings.version}, {settings.split} split: {settings.language}"
    text = f"{count}, of {_span(steps)} control steps at {settings.control_hz:g} Hz and {_span(frames)} frames"
    yield "episodes", f"{text} at {settings.video_hz:g} Hz; {sum(frames)} frames in all"
    text = f"{seen + novel} of {settings.rig.name} ({seen} seen, {novel} novel)"
    yield "cameras", f"{text}, {settings.height} x {settings.width} pixels"
    yield "rooms", settings.rooms
    failed = "; ".join(f"{n} x {why}" for why, n in manifest.failures.items())
    yield "yield", f"{count} of {manifest.attempts} attempts succeeded" + (f"; failed: {failed}" if failed else "")
    kinds = Counter(name for e in entries for name in e.disturbances)
    named = ", ".join(f"{n} x {name}" for name, n in sorted(kinds.items()))
    disturbed = sum(bool(e.disturbances) for e in entries)
    yield "disturbed", f"{disturbed} of {count} episodes" + (f": {named}" if named else "")
    image_bytes = (seen + novel) * settings.height * settings.width * 6  # rgb 3, depth 2, seg 1
    step_bytes = sum(a.nbytes for name, a in _arrays(shown) if not name.startswith(("views/", "frames/")))
    raw = sum(frames) * image_bytes + sum(steps) * step_bytes // len(shown.file["time"])
    yield "size", _size(sum((folder / EPISODES / e.file).stat().st_size for e in entries), raw)
    rendered = f", rendered anew from a dataset of source {settings.rendered_from}" if settings.rendered_from else ""
    yield "made by", f"source {settings.fingerprint}, commit {settings.commit}{rendered}"


def _episode_summary(episode: EpisodeFile) -> Iterator[tuple[str, str]]:
    a, count = episode.attrs, len(episode.cameras)
    seen = sum(camera.split == "seen" for camera in episode.cameras)
    height, width = episode.file[f"views/{episode.cameras[0].name}/depth"].shape[1:]
    yield "task", f"{a['task']} {a['version']}, {a['split']} split, seed {a['seed']}: {a['language']}"
    text = f"{len(episode.file['time'])} control steps at {a['control_hz']:g} Hz, {len(episode.steps)} frames"
    outcome = "succeeded" if a["success"] else "failed"
    yield "steps", f"{text} at {a['video_hz']:g} Hz; {outcome}, last phase {a['phase']}"
    yield "cameras", f"{count} ({seen} seen, {count - seen} novel), {height} x {width} pixels"
    failed = "; ".join(f"seed {seed}: {why}" for seed, why in a["notes"].get("failed_attempts", []))
    yield "attempts", f"failed before this one: {failed}" if failed else "the first one succeeded"
    yield "disturbed", ", ".join(f"{name} at step {step}" for step, name in a["disturbances"]) or "no"
    yield "size", _size(episode.path.stat().st_size, sum(array.nbytes for _, array in _arrays(episode)))


def _tree(episode: EpisodeFile) -> Iterator[tuple[str, str]]:
    """Attributes (after an ``@``) and arrays: shape, dtype, unit, chunks, attributes, share stored (of all cameras)."""
    for name, value in sorted(attributes_of(episode.file).items()):
        yield f"@{name}", _short(value)
    first, arrays = f"views/{episode.cameras[0].name}", _arrays(episode)
    stored, raw = Counter[str](), Counter[str]()
    for path, array in arrays:
        name = path.rpartition("/")[2]
        stored[name] += array.id.get_storage_size()
        raw[name] += array.nbytes
    for path, array in arrays:
        folder, _, name = path.rpartition("/")
        if folder.startswith("views/") and folder != first:
            continue
        parts = [f"{array.shape} {array.dtype}", UNITS.get(name, "?")]
        parts += [f"chunks {array.chunks}"] if array.chunks else []
        parts += [f"{stored[name] / raw[name]:.0%} of raw"] if name in IMAGES and raw[name] else []
        parts += [f"{key}={_short(value)}" for key, value in attributes_of(array).items()]
        yield path, "; ".join(parts)
    for name, value in sorted(attributes_of(episode.file[first]).items()):
        yield f"{first}@{name}", _short(value)
    if len(episode.cameras) > 1:
        yield "views/", f"{len(episode.cameras) - 1} more cameras like {episode.cameras[0].name}"


def _arrays(episode: EpisodeFile) -> list[tuple[str, Any]]:
    """(path, h5py dataset) of every array in the file."""
    import h5py

    found: list[tuple[str, Any]] = []
    episode.file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return found


def _few(episode: EpisodeFile) -> tuple[str, ...]:
    """Two seen and two novel cameras far apart in the rig's order, or what there is."""
    chosen = []
    for split in ("seen", "novel"):
        names = [camera.name for camera in episode.cameras if camera.split == split]
        chosen += names if len(names) <= 2 else [names[0], names[len(names) // 2]]
    return tuple(chosen)


def _size(stored: int, raw: int) -> str:
    return f"{stored / 1e6:.1f} MB, {stored / raw:.0%} of the raw bytes"


def _span(values: list[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
