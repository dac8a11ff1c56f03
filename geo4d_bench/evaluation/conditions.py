"""``geo4d-bench conditions``: what a generator is shown of the windows that ``evaluate`` scores, and no future."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOut, HeldOutOptions
from geo4d_bench.evaluation.predictions import DT_S, FRAMES, MANIFEST, manifest_of, window_path
from geo4d_bench.io import write_atomic


@dataclass(frozen=True)
class ConditionsConfig(HeldOutOptions):
    """Write the first frames of held-out windows for a generator that this project does not know."""

    calibrated: bool = False
    """Give the poses of both cameras. Without, no camera pose is given, as in the paper."""
    out: Path | None = None
    """The folder to write, new or empty; runs/<task>/conditions where not given."""


def run(config: ConditionsConfig) -> str:
    """Write the conditions; the manifest comes last, so a folder that has one is whole. Returns the closing summary.

    Raises:
        DatasetError: no dataset, or one of the train split.
        ConfigError: a folder that is not empty.
    """
    from safetensors.numpy import save
    from tqdm import tqdm

    from geo4d_bench.model.batch import frames_of_window

    dataset = config.open()
    out = config.out or Path("runs") / dataset.manifest.settings.task_name / "conditions"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already and not an empty folder; give another --out or remove it")
    held_out = HeldOut(dataset, config.splits, config.seed, FRAMES, DT_S)
    for v, i in tqdm(config.keys, desc="conditions", unit="window"):
        given = vars(frames_of_window(held_out.window(v, i)))
        names = [name for name in given if config.calibrated or name != "T_world_cam"]
        write_atomic(window_path(out, v, i), save({name: np.ascontiguousarray(given[name]) for name in names}))
    manifest = manifest_of(dataset, config, config.calibrated)
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return (
        f"{out}: the conditions of {len(config.keys)} windows, a file each in windows/, and {MANIFEST}\n"
        "predict each window as docs/predictions.md says, into a folder of your own with the same file names, "
        f'copy {MANIFEST} there and add "generator": your generator\'s name; then:\n'
        f"next: geo4d-bench evaluate --predictions FOLDER --data {config.data} --views {config.views} "
        f"--windows {config.windows} --seed {config.seed}"
    )
