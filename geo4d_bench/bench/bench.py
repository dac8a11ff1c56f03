"""``geo4d-bench bench``: speed, measured beside a reference in the same run, so that a number means the same on every
machine."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path

from geo4d_bench.bench.config import BenchConfig
from geo4d_bench.bench.measurement import Measurement
from geo4d_bench.io import atomic


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
    from geo4d_bench.bench import busy as bench_busy
    from geo4d_bench.bench import load as bench_load
    from geo4d_bench.bench import model as bench_model
    from geo4d_bench.bench import scene as bench_scene

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
        "track": ("task", "tracker"),
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
    with atomic(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        for row in rows:
            cells = dataclasses.asdict(row)
            writer.writerow(
                {k: ("" if math.isnan(v) else f"{v:.5g}") if isinstance(v, float) else v for k, v in cells.items()}
            )
