"""The options of ``geo4d-bench bench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.generators import Device

What = Literal["render", "rollout", "generate", "track", "load", "train", "preset"]


@dataclass(frozen=True)
class BenchConfig:
    what: Positional[What]
    """What to measure."""
    out: Path = Path("runs/bench")
    """Folder of bench.csv; rows of other measurements in it are kept."""
    repeats: int = 7
    """Measurements of each number, after a warm-up; their median is reported."""
    task: str = "store_cereal"
    """Task whose scene, data and checkpoint are used."""
    data: Path | None = None
    """Dataset of load; data/<task> where not given."""
    robomimic: Path | None = None
    """Python that has robomimic, to compare load with; 'make test-exports' makes build/exports/robomimic/bin/python."""
    checkpoint: Path | None = None
    """Generator of generate; runs/<task>/layered_nano where not given."""
    preset: str = "layered_small"
    """Preset (or FILE.json) that preset trains and generates with, untrained."""
    batch_size: int = 8
    """Windows in a training step of preset."""
    tracker: str = "point_cloud"
    """What track measures."""
    device: Device = "cpu"
    """Where preset and generate run."""
    busy: int | None = None
    """Measure, for train, how it runs beside so many programs that keep a processor busy each."""

    def __post_init__(self) -> None:
        if self.repeats < 5:
            raise ConfigError(f"--repeats is {self.repeats}, expected at least 5: a median of fewer says little")
        if self.busy is not None and (self.what != "train" or self.busy < 1):
            raise ConfigError(f"--busy is of 'bench train' and at least 1, got {self.busy} for 'bench {self.what}'")
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size is {self.batch_size}, expected at least 1")
