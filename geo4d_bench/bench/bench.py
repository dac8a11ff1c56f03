"""``geo4d-bench bench``: speed, measured beside a reference in the same run, so that a number means the same on every
machine."""

from __future__ import annotations

import dataclasses
import importlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from geo4d_bench.csv_files import read_csv
from geo4d_bench.errors import ConfigError
from geo4d_bench.io import atomic
from geo4d_bench.model.generators import Device
from geo4d_bench.options import Count, Processes, check_ranges

WARM_UP = 2
What = Literal["render", "rollout", "generate", "track", "load", "train", "preset"]
FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "render": ("scene", ("task",)),
    "rollout": ("scene", ("task",)),
    "track": ("scene", ("task", "tracker")),
    "load": ("load", ("task", "data", "robomimic")),
    "generate": ("model", ("task", "checkpoint", "device")),
    "train": ("model", ()),
    "preset": ("model", ("preset", "batch_size", "device", "data", "profile")),
    "busy": ("busy", ("busy",)),
    "memory": ("memory", ("preset", "batch_size", "cards")),
}
"""The module whose function of that name measures, and the options that its command has."""


@dataclass(frozen=True)
class BenchConfig:
    what: Positional[What]
    """What to measure."""
    out: Path = Path("runs/bench")
    """Folder of bench.csv; rows of other measurements in it are kept."""
    repeats: Annotated[int, Field(ge=5, le=10**6)] = 7
    """Measurements of each number, after a warm-up; their median is reported, and of fewer than 5 it says little."""
    task: str = "store_cereal"
    """Task whose scene, data and checkpoint are used."""
    data: Path | None = None
    """Dataset of load (data/<task> where not given), and of preset, which else trains on made-up windows."""
    robomimic: Path | None = None
    """Python that has robomimic, to compare load with; 'make test-exports' makes build/exports/robomimic/bin/python."""
    checkpoint: Path | None = None
    """Generator of generate; runs/<task>/layered_nano where not given."""
    preset: str = "layered_small"
    """Preset (or FILE.json) that preset trains and generates with, untrained."""
    batch_size: Count = 8
    """Windows in a training step of preset."""
    tracker: str = "point_cloud"
    """What track measures."""
    device: Device = "cpu"
    """Where preset and generate run."""
    profile: bool = False
    """Show for preset where a training step's time goes, and what it launches, reads and writes."""
    memory: bool = False
    """Compute, for preset, what training takes of a GPU's memory; no GPU is needed."""
    cards: Annotated[int, Field(ge=1, le=1024)] = 1
    """GPUs that --memory shares a training out among; the batch is that of all."""
    busy: Processes | None = None
    """Measure, for train, how it runs beside so many programs that keep a processor busy each."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.profile and self.what != "preset":
            raise ConfigError(f"--profile is of 'bench preset', got 'bench {self.what}'")
        if self.busy is not None and self.what != "train":
            raise ConfigError(f"--busy is of 'bench train', got {self.busy} for 'bench {self.what}'")
        if self.memory and self.what != "preset":
            raise ConfigError(f"--memory is of 'bench preset', got 'bench {self.what}'")
        if self.cards > 1 and not self.memory:
            raise ConfigError(f"--cards of --memory: got {self.cards} without it")
        if self.memory and (self.profile or self.data is not None):
            raise ConfigError("--memory computes, it runs nothing: leave --profile and --data out")


@dataclass(frozen=True)
class Measurement:
    """One line of bench.csv.

    Attributes:
        value: median, in ``unit``; NaN where memory ran out, as ``name`` says then.
        reference: the same work done another way, in the same unit, in the same run.
        ratio: how many times better than the reference. Both are NaN where there is nothing to compare with.
        command: what makes this line again; ``bench.run`` sets it.
    """

    name: str
    value: float
    unit: str
    reference: float = math.nan
    ratio: float = math.nan
    command: str = ""


@dataclass(frozen=True)
class Bench:
    """What was measured, and where it is written."""

    rows: tuple[Measurement, ...]
    out: Path

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            compared = "" if math.isnan(row.ratio) else f"  reference {row.reference:.4g}, ratio {row.ratio:.2f}"
            value = f"{row.value:10.4g}" if math.isfinite(row.value) else f"{'-':>10}"
            lines.append(f"{row.name:<46} {value} {row.unit:<12}{compared}")
        return "\n".join([*lines, f"written: {self.out}"])


def run(config: BenchConfig) -> Bench:
    """Measure, and put the lines into ``out``/bench.csv in place of earlier ones of the same command.

    Raises:
        ConfigError: too few repeats.  DatasetError, CheckpointError: ``load`` or ``generate`` lacks its input.
    """
    function = "memory" if config.memory else config.what if config.busy is None else "busy"
    module, options = FUNCTIONS[function]
    given = {name: getattr(config, name) for name in options}
    if module == "scene":
        from geo4d_bench.rendering.opengl import require_opengl

        require_opengl()
    words = [
        f" --{name.replace('_', '-')}{'' if value is True else f' {value}'}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    command = f"geo4d-bench bench {config.what}{' --memory' * config.memory}{''.join(words)}"
    measure = getattr(importlib.import_module(f"geo4d_bench.bench.{module}"), function)
    rows = tuple(dataclasses.replace(row, command=command) for row in measure(config))
    path = config.out / "bench.csv"
    _write(path, rows)
    return Bench(rows, path)


def _write(path: Path, rows: tuple[Measurement, ...]) -> None:
    import pandas as pd

    table = pd.DataFrame([dataclasses.asdict(row) for row in rows])
    for column in ("value", "reference", "ratio"):
        table[column] = ["" if math.isnan(number) else f"{number:.5g}" for number in table[column]]
    if path.is_file():
        before = read_csv(path, lambda column, cell: True).complete()
        kept = pd.DataFrame([c for _, c in before.lines], columns=list(before.columns), dtype=str)
        kept = kept.reindex(columns=table.columns, fill_value="")
        table = pd.concat([kept[kept["command"] != rows[0].command], table])
    with atomic(path) as part:
        table.to_csv(part, index=False, encoding="utf-8")


def median_seconds(repeats: int, *works: Callable[[], object]) -> tuple[float, ...]:
    """Median wall time of each of ``works`` after a warm-up, taking turns, so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(WARM_UP + repeats):
        for work, measured in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            if turn >= WARM_UP:
                measured.append(time.perf_counter() - began)
    return tuple(statistics.median(measured) for measured in times)


def compared(name: str, value: float, unit: str, reference: float) -> Measurement:
    """A number beside its reference; more is better where the unit is a rate (``.../s``), less where it is a time."""
    return Measurement(name, value, unit, reference, value / reference if unit.endswith("/s") else reference / value)


def count(number: int, thing: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
