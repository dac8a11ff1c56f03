"""What ``geo4d-bench bench`` measures of the dataset: reading training windows."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import h5py
import numpy as np

from geo4d_bench.bench.bench import BenchConfig, Measurement, compared, median_seconds
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import ConfigError


def load(config: BenchConfig) -> list[Measurement]:
    """Training windows read from the dataset, against copying arrays of the same size in memory."""
    folder, number = config.data or Path("data") / config.task, 32
    packed, memory = Windows(folder, "seen", remember_bytes=0), Windows(folder, "seen")
    for _, episode in packed.episodes:  # opened once in a training
        for camera in packed.cameras:
            episode.K(camera)
    for index in range(len(memory.episodes)):
        for n, m in itertools.pairwise(memory.cameras):
            memory.window(index, 0, n, m)
    window = packed.sample(np.random.default_rng(0))
    arrays = [value for value in vars(window).values() if isinstance(value, np.ndarray)]
    rng = np.random.default_rng(0)
    from_file, from_memory, copy = median_seconds(
        config.repeats,
        lambda: [packed.sample(rng) for _ in range(number)],
        lambda: [memory.sample(rng) for _ in range(number)],
        lambda: [[a.copy() for a in arrays] for _ in range(number)],
    )
    ours = {"images in memory": number / from_memory, "images from files": number / from_file}
    references = {"a copy": number / copy}
    if config.robomimic is not None:
        if not config.robomimic.is_file():
            raise ConfigError(f"--robomimic {config.robomimic} is not there; 'make test-exports' makes one")
        references["robomimic"] = number / _robomimic_seconds(packed, number, config.repeats, config.robomimic)
    return [
        compared(f"load windows, {how}, against {what}", value, "windows/s", reference)
        for what, reference in references.items()
        for how, value in ours.items()
    ]


def _robomimic_seconds(windows: Windows, number: int, repeats: int, python: Path) -> float:
    """Median time of robomimic's loader for sequences of as many frames: RGB, depth and labels of two cameras of the
    same episodes, stored as ``export`` stores images for it (gzip, one chunk per frame), without points or masks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "robomimic.hdf5"
        with h5py.File(path, "w") as file:
            for index, (_, episode) in enumerate(windows.episodes):
                demo = file.create_group(f"data/demo_{index}")
                count = len(episode.steps)
                demo.attrs["num_samples"] = count
                demo["actions"] = episode.trajectory.actions[episode.steps]
                for camera in windows.cameras[:2]:
                    for name, kind in (("rgb", "image"), ("depth", "depth"), ("seg", "labels")):
                        images = episode.file[f"views/{camera}/{name}"][()]
                        images = images.reshape(*images.shape[:3], -1)
                        demo.create_dataset(
                            f"obs/{camera}_{kind}", data=images, chunks=(1, *images.shape[1:]), compression="gzip"
                        )
        script = Path(__file__).with_name("robomimic_loader.py")
        numbers = map(str, (windows.horizon + 1, number, repeats))
        done = subprocess.run([python, "-W", "ignore", script, path, *numbers], capture_output=True, text=True)
    if done.returncode != 0:
        raise ConfigError(f"--robomimic {python}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    return float(statistics.median(json.loads(done.stdout.strip().splitlines()[-1])))
