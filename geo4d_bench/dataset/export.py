"""``geo4d-bench export``: a dataset as a file or folder that robomimic or LeRobot opens and trains on."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from geo4d_bench.dataset.checks import dataset_faults
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.io import remove_leftovers


@dataclass(frozen=True)
class ExportConfig:
    """Write a dataset in another library's format: a row for every rendered frame."""

    data: Annotated[Path, tyro.conf.Positional]
    """The dataset's folder."""
    to: Literal["robomimic", "lerobot"]
    """robomimic 0.3.0 (one HDF5 file) or LeRobotDataset v3 (a folder; needs the extra 'lerobot')."""
    out: Path
    """File (robomimic) or folder (lerobot) to write; must not exist."""
    cameras: tuple[str, ...] = ()
    """Cameras whose images are written; default every seen one (novel ones are kept for tests)."""


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    out: Path
    to: str
    episodes: int
    rows: int
    hz: float
    cameras: tuple[str, ...]

    def __str__(self) -> str:
        files = [self.out] if self.out.is_file() else [path for path in self.out.rglob("*") if path.is_file()]
        size_mb = sum(path.stat().st_size for path in files) / 1e6
        return (
            f"{self.out}: {self.episodes} episodes, {self.rows} rows at {self.hz:g} Hz, "
            f"{len(self.cameras)} cameras ({', '.join(self.cameras)}), {size_mb:.1f} MB for {self.to}\n"
            "what is in it and how it is opened: docs/exports.md"
        )


def run(config: ExportConfig) -> ExportResult:
    """Export a dataset; ``out`` appears only when it is whole.

    Raises:
        ConfigError: ``out`` exists, a camera is unknown, or the format cannot hold the dataset.
        DatasetError: the dataset is damaged, or ``out`` cannot be written.
    """
    dataset = Dataset(config.data)
    cameras = dataset.known_cameras(tuple(dict.fromkeys(config.cameras))) or dataset.rig.camera_names("seen")
    if not cameras:
        raise ConfigError(f"rig {dataset.rig.name} has no seen camera; name those to write with --cameras")
    if config.out.exists():
        raise ConfigError(f"--out {config.out} exists already; delete it or choose another")
    remove_leftovers(config.out.parent, f".{glob.escape(config.out.stem)}.*.part{glob.escape(config.out.suffix)}")
    # Hashes and structure: what is copied into another format can no longer be checked there.
    faults = list(dataset_faults(config.data, dataset.manifest, images=False))
    if faults:
        raise DatasetError(f"{config.data}: {faults[0][0]}: {faults[0][1]} ({len(faults)} faults in all)")
    if config.to == "robomimic":
        from geo4d_bench.dataset.export_robomimic import write
    else:
        from geo4d_bench.dataset.export_lerobot import write
    rows = write(dataset, cameras, config.out)
    return ExportResult(config.out, config.to, len(dataset.episodes), rows, dataset.manifest.settings.video_hz, cameras)
