"""Which episodes a folder holds whole, found from the files, and the manifest that follows from them."""

from __future__ import annotations

import dataclasses
import re
from contextlib import closing
from pathlib import Path

from geo4d_bench.dataset.checks import episode_faults
from geo4d_bench.dataset.layout import DIGEST
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256, write_manifest
from geo4d_bench.dataset.reader import REMAKE, EpisodeFile
from geo4d_bench.dataset.schema import EPISODES, MANIFEST
from geo4d_bench.errors import DatasetError

_EPISODE = re.compile(r"ep_\d{6,9}\.hdf5")


def rescan(folder: Path, manifest: Manifest) -> tuple[Manifest, list[tuple[str, str]]]:
    """Write the manifest anew for the whole episodes that are there now; also (file, why) of what must be made again.

    A file in the manifest is damaged, and removed, where its size differs, or where it was written after the manifest
    and its sha256 differs; one that is not in the manifest, where it cannot be read. DatasetError where one is whole
    but was made with other settings.
    """
    began = _now(folder)
    known = {e.file: e for e in manifest.episodes}
    entries: list[EpisodeEntry] = []
    damaged: list[tuple[str, str]] = []
    for path in sorted((folder / EPISODES).glob("ep_*.hdf5")):
        if not _EPISODE.fullmatch(path.name):
            continue
        entry = known.pop(path.name, None)
        if entry is None:
            found = _new_entry(path, manifest.settings)
            if isinstance(found, EpisodeEntry):
                entries.append(found)
            else:
                damaged.append((path.name, found))
        elif fault := _change(folder, path, entry):
            damaged.append((path.name, fault))
            path.unlink()  # otherwise the next call would take it for a new one
        else:
            entries.append(dataclasses.replace(entry, size_bytes=path.stat().st_size))
    damaged += [(name, "is missing") for name in sorted(known)]
    new = Manifest(manifest.settings, tuple(entries))
    write_manifest(folder, new, checked_ns=began)
    return new, damaged


def _change(folder: Path, path: Path, entry: EpisodeEntry) -> str | None:
    """What was changed, by size and time first; the content is hashed only where the time is new."""
    status = path.stat()
    if entry.size_bytes and status.st_size != entry.size_bytes:
        return f"has {status.st_size} bytes, was written with {entry.size_bytes}"
    checked = (folder / MANIFEST).stat().st_mtime_ns if (folder / MANIFEST).exists() else 0
    if status.st_mtime_ns < checked and entry.size_bytes:
        return None
    return None if file_sha256(path) == entry.sha256 else "was changed after it was written"


def _new_entry(path: Path, settings: Settings) -> EpisodeEntry | str:
    """The entry of a file that the manifest lacks, or why it cannot be read; DatasetError where it is whole and of
    another dataset, so nobody's to replace."""
    with closing(EpisodeFile(path)) as episode:
        try:
            _ = episode.file  # opens and checks it
        except DatasetError as error:
            return str(error).removeprefix(f"{path}: ").removesuffix(REMAKE)
        for fault in episode_faults(path, settings, None, images=False):
            raise DatasetError(
                f"{path} is of another dataset ({fault.removesuffix(REMAKE)}): move it away and run the same command "
                "again"
            )
        a = episode.attrs
        return EpisodeEntry(
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


def _now(folder: Path) -> int:
    """The time of the file system that the dataset lies on, in its own nanoseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{MANIFEST}.now.part"
    probe.touch()
    now = probe.stat().st_mtime_ns
    probe.unlink(missing_ok=True)
    return now
