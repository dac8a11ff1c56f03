"""``geo4d-bench conditions``: what a generator is shown of the windows that ``evaluate`` scores, and no future."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOut, Views, open_held_out, view_splits
from geo4d_bench.evaluation.predictions import DT_S, FRAMES, MANIFEST, manifest_of, window_path, write_condition
from geo4d_bench.io import write_atomic


@dataclass(frozen=True)
class ConditionsConfig:
    """Write the first frames of held-out windows for a generator that this project does not know."""

    data: Path = Path("data/store_cereal_eval")
    """A dataset of the eval split, rendered from seen and novel cameras."""
    views: Views = "both"
    """Which cameras the windows are seen from."""
    windows: int = 64
    """Windows of each choice of views."""
    seed: int = 0
    """Chooses the windows; evaluate with the same seed scores the same ones."""
    calibrated: bool = False
    """Give the poses of both cameras. Without, no camera pose is given, as in the paper."""
    out: Path | None = None
    """The folder to write, new or empty; runs/<task>/conditions where not given."""


@dataclass(frozen=True)
class Conditions:
    """Where the conditions lie, and the settings by which their predictions are scored."""

    out: Path
    count: int
    config: ConditionsConfig

    def __str__(self) -> str:
        c = self.config
        return (
            f"{self.out}: the conditions of {self.count} windows, a file each in windows/, and {MANIFEST}\n"
            "predict each window as docs/predictions.md says, into a folder of your own with the same file names, "
            f'copy {MANIFEST} there and add "generator": your generator\'s name; then:\n'
            f"next: geo4d-bench evaluate --predictions FOLDER --data {c.data} --views {c.views} "
            f"--windows {c.windows} --seed {c.seed}"
        )


def run(config: ConditionsConfig) -> Conditions:
    """Write the conditions; the manifest comes last, so a folder that has one is whole.

    Raises:
        DatasetError: no dataset, or one of the train split.
        ConfigError: ``windows`` below 1, or a folder that is not empty.
    """
    from tqdm import tqdm

    from geo4d_bench.model.batch import first_frames

    if config.windows < 1:
        raise ConfigError(f"conditions: windows is {config.windows}, expected 1 or more")
    dataset = open_held_out(config.data)
    out = config.out or Path("runs") / dataset.manifest.settings.task / "conditions"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already and not an empty folder; give another --out or remove it")
    views = view_splits(config.views)
    held_out = HeldOut(dataset, views, config.seed, FRAMES, DT_S)
    todo = [(v, i) for v in views for i in range(config.windows)]
    for v, i in tqdm(todo, desc="conditions", unit="window"):
        condition = first_frames(held_out.window(v, i))
        if not config.calibrated:
            condition = dataclasses.replace(condition, T_world_cam=None)
        write_condition(window_path(out, v, i), condition)
    manifest = manifest_of(dataset, views, config.windows, config.seed, config.calibrated)
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return Conditions(out, len(todo), config)
