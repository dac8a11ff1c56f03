"""Which episodes a folder holds whole, found from the files, and the manifest that follows from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from geo4d_bench.dataset.checks import episode_faults
from geo4d_bench.dataset.hands import load_hand
from geo4d_bench.dataset.layout import DIGEST
from geo4d_bench.dataset.manifest import (
    EpisodeEntry,
    Manifest,
    Settings,
    file_sha256,
    write_manifest,
)
from geo4d_bench.dataset.reader import REMAKE, EpisodeFile
from geo4d_bench.dataset.schema import EPISODES, HANDS, MANIFEST, SCENES
from geo4d_bench.errors import DatasetError
from geo4d_bench.io import LEFTOVERS

_EPISODE = re.compile(r"ep_\d{6,9}\.hdf5")


@dataclass(frozen=True)
class Rescan:
    """What was found: the new manifest, and (file, why) of what must be made again."""

    manifest: Manifest
    damaged: tuple[tuple[str, str], ...]


def rescan(folder: Path, manifest: Manifest) -> Rescan:
    """Write the manifest anew for the whole episodes that are there now.

    A file in the manifest is damaged, and removed, where its size differs, or where it was written after the manifest
    and its sha256 differs. A file that is not in the manifest is damaged where it cannot be read.

    Raises:
        DatasetError: an episode's file is whole but was made with other settings.
    """
    began = _now(folder)
    known = {e.file: e for e in manifest.episodes}
    sound: list[EpisodeEntry] = []
    damaged: list[tuple[str, str]] = []
    for path in sorted((folder / EPISODES).glob("ep_*.hdf5")):
        if not _EPISODE.fullmatch(path.name):
            continue
        entry = known.pop(path.name, None)
        fault = _new_fault(path, manifest.settings) if entry is None else _fault(folder, path, entry)
        if fault is not None:
            damaged.append((path.name, fault))
            if entry is not None:
                path.unlink()  # otherwise the next call would take it for a new one
        elif entry is not None:
            sound.append(dataclasses.replace(entry, size_bytes=path.stat().st_size))
    damaged += [(name, "is missing") for name in sorted(known)]
    new = Manifest(manifest.settings, rebuild_entries(folder, tuple(sound), skip={n for n, _ in damaged}))
    write_manifest(folder, new, checked_ns=began)
    return Rescan(new, tuple(damaged))


def rebuild_entries(
    folder: Path, known: tuple[EpisodeEntry, ...] = (), skip: Collection[str] = ()
) -> tuple[EpisodeEntry, ...]:
    """Entries of the episode files that are there; hashes of ``known`` ones are taken over, others computed."""
    before = {e.file: e for e in known}
    entries = []
    for path in sorted((folder / EPISODES).glob("ep_*.hdf5")):
        if path.name in skip or not _EPISODE.fullmatch(path.name):
            continue
        if path.name in before:
            entries.append(before[path.name])
            continue
        episode = EpisodeFile(path)
        a = episode.attrs
        entries.append(
            EpisodeEntry(
                file=path.name,
                sha256=file_sha256(path),
                seed=int(a["seed"]),
                scene=a["scene"],
                steps=len(episode.file["time"]),
                frames=len(episode.steps),
                disturbances=tuple(str(name) for _, name in a["disturbances"]),
                failed_attempts=tuple((int(s), str(w)) for s, w in a["notes"].get("failed_attempts", [])),
                size_bytes=path.stat().st_size,
                simulated_sha256=a.get(DIGEST, ""),
            )
        )
        episode.close()
    return tuple(entries)


def drop_leftovers(folder: Path) -> None:
    """Remove the temporary files of a call that was killed."""
    for place in (folder, folder / EPISODES, folder / SCENES, folder / HANDS):
        for part in place.glob(LEFTOVERS):
            part.unlink(missing_ok=True)


def drop_damaged_scenes(folder: Path, manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Remove scenes and hands that are not what they should be; returns (file, why), missing ones included."""
    damaged = []
    for scene in sorted({e.scene for e in manifest.episodes}):
        path = folder / SCENES / f"{scene}.zip"
        if not path.is_file():
            damaged.append((f"{SCENES}/{path.name}", "is missing"))
        elif file_sha256(path) != scene:
            path.unlink()
            damaged.append((f"{SCENES}/{path.name}", "its content differs from its name (sha256)"))
    for arm in manifest.settings.arms if manifest.episodes else ():
        path = folder / HANDS / f"{arm}.npz"
        try:
            load_hand(path)
        except DatasetError:
            damaged.append((f"{HANDS}/{path.name}", "cannot be read" if path.exists() else "is missing"))
            path.unlink(missing_ok=True)
    return tuple(damaged)


def _fault(folder: Path, path: Path, entry: EpisodeEntry) -> str | None:
    """Cheap where nothing happened: sizes and times first, the content only where they tell of a change."""
    status = path.stat()
    if entry.size_bytes and status.st_size != entry.size_bytes:
        return f"has {status.st_size} bytes, was written with {entry.size_bytes}"
    checked = (folder / MANIFEST).stat().st_mtime_ns if (folder / MANIFEST).exists() else 0
    if status.st_mtime_ns < checked and entry.size_bytes:
        return None
    return None if file_sha256(path) == entry.sha256 else "was changed after it was written"


def _new_fault(path: Path, settings: Settings) -> str | None:
    """A file that can be read and is not of this dataset is nobody's to replace."""
    episode = EpisodeFile(path)
    try:
        _ = episode.file  # opens and checks it
    except DatasetError as error:
        return str(error).removeprefix(f"{path}: ").removesuffix(REMAKE)
    finally:
        episode.close()
    fault = next(episode_faults(path, settings, None, images=False), None)
    if fault is None:
        return None
    raise DatasetError(
        f"{path} is of another dataset ({fault.removesuffix(REMAKE)}): move it away and run the same command again"
    )


def _now(folder: Path) -> int:
    """The time of the file system that the dataset lies on, in its own nanoseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{MANIFEST}.now.part"
    probe.touch()
    now = probe.stat().st_mtime_ns
    probe.unlink(missing_ok=True)
    return now
