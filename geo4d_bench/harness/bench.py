"""``geo4d-bench bench``: speed, measured beside a reference in the same run, so that a number means the same on every
machine."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from geo4d_bench.errors import ConfigError
from geo4d_bench.harness.measurement import Measurement
from geo4d_bench.model.backbones import Device

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
    """Generator of generate; runs/<task>/nano where not given."""
    preset: str = "small"
    """Preset (or FILE.json) that preset trains and generates with, untrained."""
    batch_size: int = 8
    """Windows in a training step of preset."""
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


@dataclass(frozen=True)
class Bench:
    """What was measured, and where it is written."""

    rows: tuple[Measurement, ...]
    out: Path

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            compared = "" if math.isnan(row.ratio) else f"  reference {row.reference:.4g}, ratio {row.ratio:.2f}"
            lines.append(f"{row.name:<46} {row.value:10.4g} {row.unit:<12}{compared}")
        return "\n".join([*lines, f"written: {self.out}"])


def run(config: BenchConfig) -> Bench:
    """Measure, and put the lines into ``out``/bench.csv in place of earlier ones of the same names.

    Raises:
        ConfigError: too few repeats.  DatasetError, CheckpointError: ``load`` or ``generate`` lacks its input.
    """
    from geo4d_bench.harness import bench_busy, bench_load, bench_model, bench_scene

    os.environ.setdefault("MUJOCO_GL", "egl")
    measure = {
        "render": bench_scene.render, "rollout": bench_scene.rollout, "track": bench_scene.track,
        "load": bench_load.load, "generate": bench_model.generate,
        "train": bench_model.train if config.busy is None else bench_busy.busy,
        "preset": bench_model.preset,
    }[config.what]  # fmt: skip
    rows = tuple(dataclasses.replace(row, command=_command(config)) for row in measure(config))
    path = config.out / "bench.csv"
    _write(path, rows)
    return Bench(rows, path)


def _command(config: BenchConfig) -> str:
    options = {
        "load": ("task", "data", "robomimic"), "generate": ("task", "checkpoint", "device"), "train": ("busy",),
        "preset": ("preset", "batch_size", "device"),
    }.get(config.what, ("task",))  # fmt: skip
    given = {name: getattr(config, name) for name in options}
    told = "".join(f" --{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None)
    return f"geo4d-bench bench {config.what}{told}"


def _write(path: Path, rows: tuple[Measurement, ...]) -> None:
    columns = [f.name for f in dataclasses.fields(Measurement)]
    kept: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            kept = [line for line in csv.DictReader(file) if line.get("command") != rows[0].command]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("bench.csv.new")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        for row in rows:
            cells = dataclasses.asdict(row)
            writer.writerow(
                {k: ("" if math.isnan(v) else f"{v:.5g}") if isinstance(v, float) else v for k, v in cells.items()}
            )
    fresh.replace(path)
