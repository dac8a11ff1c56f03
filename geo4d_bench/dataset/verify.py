"""``geo4d-bench verify``: whether a dataset is whole, a line a fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from geo4d_bench.dataset.checks import episode_faults
from geo4d_bench.dataset.hands import load_hand
from geo4d_bench.dataset.manifest import EpisodeEntry, Manifest, Settings, file_sha256, read_manifest
from geo4d_bench.dataset.reader import REMAKE
from geo4d_bench.dataset.schema import EPISODES, HANDS, SCENES
from geo4d_bench.errors import DatasetError


@dataclass(frozen=True)
class VerifyConfig:
    """Check a dataset's files against its manifest and the schema."""

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's folder."""
    images: bool = True
    """Decode every image; --no-images checks hashes and structure only."""


@dataclass(frozen=True)
class VerifyResult:
    """``faults`` are (file, what is wrong and what to do), empty where the dataset is whole."""

    folder: Path
    episodes: int
    faults: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 where whole, else 1."""
        return 1 if self.faults else 0

    def __str__(self) -> str:
        if not self.faults:
            return f"{self.folder}: whole, {self.episodes} episodes"
        lines = [f"{file}: {fault}" for file, fault in self.faults]
        return "\n".join([*lines, f"{self.folder}: {len(self.faults)} faults in {self.episodes} episodes"])


_COPY = "; copy it back, or run the same datagen command again: it packs the scene anew"


def run(config: VerifyConfig) -> VerifyResult:
    """Check everything that can be checked; DatasetError only where the folder is no dataset at all."""
    from tqdm import tqdm

    folder = config.data
    manifest = read_manifest(folder)
    faults = list(_folder_faults(folder, manifest))
    for entry in tqdm(manifest.episodes, desc="verify", unit="episode", leave=False):
        faults += [(entry.file, fault) for fault in entry_faults(folder, entry, manifest.settings, config.images)]
    return VerifyResult(folder, len(manifest.episodes), tuple(faults))


def entry_faults(folder: Path, entry: EpisodeEntry, settings: Settings, images: bool) -> list[str]:
    """What is wrong with the file of one of the manifest's episodes."""
    path = folder / EPISODES / entry.file
    if not path.is_file():
        return [f"is missing{REMAKE}"]
    faults = list(episode_faults(path, settings, entry, images=images))
    if file_sha256(path) != entry.sha256:
        faults.insert(0, f"its content differs from the manifest's sha256{REMAKE}")
    return faults


def _folder_faults(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    named = {e.file for e in manifest.episodes}
    if not named:
        yield "manifest.json", "no finished episodes; run the datagen command again"
    for path in sorted((folder / EPISODES).glob("*")):
        if path.name not in named and not path.name.startswith("."):
            yield path.name, "is not in the manifest; run the same datagen command again, or delete it"
    for scene in sorted({e.scene for e in manifest.episodes}):
        path = folder / SCENES / f"{scene}.zip"
        if not path.is_file():
            yield f"{SCENES}/{path.name}", f"is missing, so its episodes cannot be rendered again{_COPY}"
        elif file_sha256(path) != scene:
            yield f"{SCENES}/{path.name}", f"its content differs from its name (sha256){_COPY}"
    if named:
        for arm in manifest.settings.arms:
            try:
                load_hand(folder / HANDS / f"{arm}.npz")
            except DatasetError as error:
                yield f"{HANDS}/{arm}.npz", str(error).removeprefix(f"{folder / HANDS / arm}.npz: ")
