"""``geo4d-bench datagen``: demonstrations of a task, rendered from every camera of a rig."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from geo4d_bench.dataset.checks import shared_faults
from geo4d_bench.dataset.manifest import (
    DamagedManifestError,
    Manifest,
    Settings,
    Views,
    read_manifest,
    settings_json,
    write_manifest,
)
from geo4d_bench.dataset.rescan import rescan as rescan_files
from geo4d_bench.dataset.schema import EPISODES, MANIFEST, Pixels, episode_name, require_storable
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.room import RoomsName, draw_room
from geo4d_bench.io import held
from geo4d_bench.options import Count, Positive, Processes, check_ranges
from geo4d_bench.pool import run_jobs
from geo4d_bench.runs import differences
from geo4d_bench.seeding import Seed

J = TypeVar("J")


@dataclass(frozen=True)
class DatagenConfig:
    """Collect demonstrations by the scripted expert and render them. A second call makes only what is missing."""

    task: str = "store_cereal"
    """Task id; 'geo4d-bench tasks' lists them."""
    episodes: Count = 50
    """Number of episodes the dataset shall have; each is a successful demonstration."""
    split: Literal["train", "eval"] = "train"
    """Seeds of the two splits never meet."""
    rig: str = "hemisphere16"
    """Cameras: hemisphere16, random16, wide16, wide32, wide64 (drawn anew for every episode), orbit, ring_360, zoom or
    a rig's file (docs/rigs.md)."""
    rooms: RoomsName = "fixed"
    """Rooms about the work: fixed, or drawn anew for every episode, varied (to train) or held_out (docs/rooms.md)."""
    height: Pixels = 64
    """Image height in pixels."""
    width: Pixels = 80
    """Image width in pixels."""
    video_hz: Positive = 5.0
    """Rendered frames a second; divides the control rate."""
    seed: Seed = 0
    """Another seed gives other episodes."""
    views: Views = "all"
    """none = simulate only, without OpenGL: 'geo4d-bench render' draws the images later, here or elsewhere."""
    workers: Processes = 2
    """Processes; the result does not depend on their number."""
    cluster: str | None = None
    """Address of a Ray cluster ('auto' finds one here) whose CPUs work instead; all nodes must see the same files."""
    disturbed_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of the episodes in which the hand or object is disturbed once and the expert recovers."""
    out: Path | None = None
    """Folder; default data/<task>, with _<rooms> unless they are fixed, and _eval for the eval split."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require_storable(self.height, self.width)


@dataclass(frozen=True)
class DatagenResult:
    """What lies in the folder now, and how many episodes this call made."""

    folder: Path
    manifest: Manifest
    made: int

    def __str__(self) -> str:
        manifest = self.manifest
        count, steps = len(manifest.episodes), sum(e.steps for e in manifest.episodes)
        size_mb = sum((self.folder / EPISODES / e.file).stat().st_size for e in manifest.episodes) / 1e6
        failed = ", ".join(f"{n} x {why}" for why, n in manifest.failures.items())
        drawn = manifest.settings.views == "all"
        cameras = f"{len(manifest.settings.rig.camera_names())} cameras" if drawn else "no images"
        lines = [
            f"{self.folder}: {count} episodes ({self.made} made now), "
            f"{steps / manifest.settings.control_hz / max(count, 1):.1f} s on average, "
            f"{cameras}, {size_mb:.0f} MB",
            f"expert: {count} of {manifest.attempts} attempts succeeded" + (f"; failed: {failed}" if failed else ""),
            f"check it:  geo4d-bench verify {self.folder}",
            f"draw it:   geo4d-bench render {self.folder} --out {self.folder}_drawn"
            if not drawn
            else f"train:     geo4d-bench train --data {self.folder}"
            if manifest.settings.split == "train"
            else f"evaluate:  geo4d-bench evaluate --data {self.folder}",
        ]
        return "\n".join(lines)


def run(config: DatagenConfig) -> DatagenResult:
    """Make the episodes that are missing.

    Ctrl-C, a full disk or a failing expert end the call; episodes that are finished stay and are not made again.

    Raises:
        ConfigError: an option is out of range.
        UnknownNameError: there is no such task, rig or set of rooms.
        DatasetError: the folder holds a dataset with other settings, or cannot be written.
        SceneError: no OpenGL draws here.
        WorkerError: the system ended a worker process.
        SceneError: a camera sees nothing.
    """
    rooms = "" if config.rooms == "fixed" else f"_{config.rooms}"
    folder = config.out or Path("data") / (config.task + rooms + ("" if config.split == "train" else "_eval"))
    return make_dataset(folder, settings_of(config), config.episodes, config.workers, config.cluster)


def make_dataset(
    folder: Path, settings: Settings, episodes: int, workers: int = 1, cluster: str | None = None
) -> DatagenResult:
    """:func:`run` for settings that no option names, for example a rig that was made in Python."""
    from geo4d_bench.datagen.worker import make_episode, release_tools, restore_scene

    if cluster is None and settings.views == "all":
        require_opengl()
    with held(folder):
        manifest = open_folder(folder, settings)
        there = {entry.file for entry in manifest.episodes}
        missing = [index for index in range(episodes) if episode_name(index) not in there]
        make = functools.partial(make_episode, folder.absolute(), manifest.settings)
        try:
            if damaged := [folder / name for name, _ in shared_faults(folder, manifest)]:
                for path in damaged:
                    path.unlink(missing_ok=True)
                restore_scene(folder, manifest)
            manifest = make_missing(folder, manifest, make, missing, workers, cluster)
        finally:
            release_tools()
        return DatagenResult(folder, manifest, len(missing))


def make_missing(
    folder: Path, manifest: Manifest, work: Callable[[J], str], jobs: Sequence[J], workers: int, cluster: str | None
) -> Manifest:
    """Do ``jobs``, each of which makes an episode in ``folder`` and returns its file's name; the manifest with them."""
    from tqdm import tqdm

    done = len(manifest.episodes)
    try:
        with tqdm(total=done + len(jobs), initial=done, unit="episode", desc=folder.name) as bar:
            for name in run_jobs(work, jobs, workers, cluster):
                require_here(folder, name)
                manifest = rescan(folder, manifest, made=name)
                bar.update()
    finally:
        # After Ctrl-C or an error too: another worker may have finished an episode meanwhile.
        manifest = rescan(folder, manifest)
    return manifest


def settings_of(config: DatagenConfig) -> Settings:
    """The checked settings that a command's options stand for; ConfigError, UnknownNameError."""
    from geo4d_bench import tasks
    from geo4d_bench.datagen.render import frame_steps
    from geo4d_bench.fingerprint import commit, fingerprint
    from geo4d_bench.rendering.renderer import MAX_DEPTH_M
    from geo4d_bench.tasks.rigs import make_rig, warn_of_unseen_workspace

    spec = tasks.spec(config.task)
    frame_steps(1, spec.control_hz, config.video_hz)
    rig = make_rig(config.rig, spec.workspace)
    draw_room(config.rooms, spec.key, config.split, config.seed)  # no such set is an error before any work
    warn_of_unseen_workspace(rig, config.height, config.width)
    return Settings(
        task=spec.id,
        version=spec.version,
        split=config.split,
        language=spec.language,
        seed=config.seed,
        arms=spec.arms,
        objects=spec.objects,
        control_hz=spec.control_hz,
        video_hz=config.video_hz,
        rig=rig,
        height=config.height,
        width=config.width,
        max_depth_m=MAX_DEPTH_M,
        disturbed_share=config.disturbed_share,
        fingerprint=fingerprint(),
        commit=commit(),
        views=config.views,
        rooms=config.rooms,
    )


def require_opengl() -> None:
    """:func:`geo4d_bench.rendering.opengl.require_opengl`, of a process that renders datasets."""
    import geo4d_bench.datagen.render  # noqa: F401  # says how many threads Mesa shall take, before its first context
    from geo4d_bench.rendering import opengl

    opengl.require_opengl()


def open_folder(folder: Path, settings: Settings) -> Manifest:
    """The folder's manifest, made where the folder is new and rebuilt from the files where it is damaged.

    Episodes that were cut off, changed or deleted since they were written are named on stderr and left out.
    DatasetError where the folder was made with other settings, or holds an episode of another dataset.
    """
    if not (folder / MANIFEST).exists():
        if (folder / EPISODES).is_dir() and any((folder / EPISODES).iterdir()):
            raise DatasetError(f"{folder}: episodes without a {MANIFEST}; choose another --out or delete the folder")
        write_manifest(folder, Manifest(settings))
        return Manifest(settings)
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError as error:
        print(str(error).replace("run the same datagen command again: it is", "it is"), file=sys.stderr)
        manifest = Manifest(settings)
    differing = _differences(manifest.settings, settings)
    if differing and not manifest.episodes and not any((folder / EPISODES).glob("ep_*.hdf5")):
        manifest, differing = Manifest(settings), ""  # of a call that failed before its first episode
    if differing:
        raise DatasetError(f"{folder} was made with other settings: {differing}; choose another --out or delete it")
    return rescan(folder, manifest, all_damaged=True)


def rescan(folder: Path, manifest: Manifest, *, all_damaged: bool = False, made: str = "") -> Manifest:
    """Write the manifest anew for the episode files that are there now, and name on stderr those that were damaged
    since; with ``all_damaged`` also those that an earlier call has named. DatasetError where the file that was ``made``
    just now is damaged."""
    from geo4d_bench.datagen.worker import require_own_seed

    new, damaged = rescan_files(folder, manifest)
    known = {entry.file for entry in manifest.episodes}
    for file, why in damaged:
        if all_damaged or file in known:
            print(f"{folder / EPISODES / file}: {why}; to be made again", file=sys.stderr)
    if made in dict(damaged):
        raise DatasetError(
            f"{folder / EPISODES / made} was made now, but cannot be read back: {dict(damaged)[made]}; if another "
            "--out on another disk ends likewise, these settings cannot be stored"
        )
    for entry in new.episodes:
        if entry.file not in known:
            require_own_seed(folder, entry, manifest.settings)
    return new


def require_here(folder: Path, file: str, patience_s: float = 30.0) -> None:
    """DatasetError where an episode that a worker has finished does not appear here: network file systems take a
    moment, a folder of another machine takes for ever."""
    path = folder / EPISODES / file
    until = time.monotonic() + patience_s
    while not path.is_file():
        if time.monotonic() > until:
            raise DatasetError(
                f"{path} was finished by a worker, but does not appear here; --out must lie where all nodes see it"
            )
        time.sleep(0.2)


def _differences(old: Settings, new: Settings) -> str:
    """What differs, but for the source's version: an interrupted dataset may be finished after an edit."""
    before, now = (
        {k: v for k, v in settings_json(s).items() if k not in ("fingerprint", "commit")} for s in (old, new)
    )
    if before["rig"] != now["rig"]:
        same_name = old.rig.name == new.rig.name
        before["rig"], now["rig"] = old.rig.name, f"'{new.rig.name}' with other cameras" if same_name else new.rig.name
    return differences(before, now)
