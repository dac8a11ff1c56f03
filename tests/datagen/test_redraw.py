"""A stored dataset drawn again: exact with the same cameras, whole with others, resumed, and without robosuite."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from episode_contents import contents

from geo4d_bench.datagen import verify
from geo4d_bench.datagen.redraw import RenderConfig, run
from geo4d_bench.datagen.verify import VerifyConfig
from geo4d_bench.dataset.manifest import read_manifest
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import ConfigError, DatasetError

# A machine without robosuite: it can neither be imported nor found among the installed packages.
WITHOUT_ROBOSUITE = """
import importlib.metadata, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "robosuite":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
version = importlib.metadata.version

def installed(name):
    if name == "robosuite":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = installed
from geo4d_bench.cli import main
code = main(sys.argv[1:])
assert "robosuite" not in sys.modules
raise SystemExit(code)
"""


def test_the_same_rig_and_size_give_equal_arrays_without_robosuite(tmp_path: Path, tiny_dataset: Any) -> None:
    out = tmp_path / "again"
    command = ["render", str(tiny_dataset.eval), "--out", str(out), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROBOSUITE, *command],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = "ep_000000.hdf5"
    ours, source = contents(out / "episodes" / name), contents(tiny_dataset.eval / "episodes" / name)
    assert ours.keys() == source.keys()
    for key, value in source.items():
        assert np.array_equal(ours[key], value), key
    assert verify.run(VerifyConfig(out)).faults == ()
    settings = read_manifest(out).settings
    assert settings.rendered_from == read_manifest(tiny_dataset.eval).settings.fingerprint
    assert settings.fingerprint != settings.rendered_from  # another set of packages


def test_another_rig_size_and_rate_make_a_whole_dataset(tmp_path: Path, tiny_dataset: Any) -> None:
    out = tmp_path / "other"
    (rig := tmp_path / "two.yaml").write_text(
        "fovy_deg: 55\ncameras:\n  - {name: left, position: [0.6, 0.6, 1.7]}\n"
        "  - {name: right, position: [0.6, -0.6, 1.7]}\n"
    )
    config = RenderConfig(tiny_dataset.train, out, rig=str(rig), height=24, width=32, video_hz=2.0, workers=2)
    result = run(config)
    assert result.made == 2
    assert verify.run(VerifyConfig(out)).faults == ()
    ours, source = Dataset(out), Dataset(tiny_dataset.train)
    assert ours.size == (24, 32)
    for new, old in zip(ours.episodes, source.episodes, strict=True):
        assert [c.name for c in new.cameras] == ["left", "right"]
        assert np.array_equal(new.steps, np.arange(0, len(old.trajectory.time), 10))
        assert np.array_equal(new.trajectory.states, old.trajectory.states)
        assert new.attrs["notes"] == old.attrs["notes"]
        assert new.frames("left", [0]).rgb.std() > 10  # a picture, not a plain colour

    # A second call makes what is missing and nothing else; another source is refused.
    kept = out / "episodes" / "ep_000000.hdf5"
    modified = kept.stat().st_mtime_ns
    (out / "episodes" / "ep_000001.hdf5").unlink()
    assert run(config).made == 1
    assert kept.stat().st_mtime_ns == modified
    assert verify.run(VerifyConfig(out)).faults == ()
    with pytest.raises(DatasetError, match="height 24 there, 64 asked for"):
        run(dataclasses.replace(config, height=None))
    other = tmp_path / "source"
    shutil.copytree(tiny_dataset.train, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["episodes"][0]["seed"] += 1
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=r"ep_000000\.hdf5 was rendered from another dataset"):
        run(dataclasses.replace(config, data=other))


def test_a_changed_source_and_wrong_options_are_named(tmp_path: Path, tiny_dataset: Any) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_dataset.eval, source)
    with h5py.File(source / "episodes" / "ep_000000.hdf5", "r+") as file:
        file["actions"][0] = 0
    with pytest.raises(DatasetError, match="differs from the manifest's sha256"):
        run(RenderConfig(source, tmp_path / "a", workers=1))
    with pytest.raises(ConfigError, match="is the dataset itself"):
        run(RenderConfig(source, source))
    with pytest.raises(ConfigError, match="--width is 4, expected at least 8"):
        run(RenderConfig(source, tmp_path / "b", width=4))
    with pytest.raises(ConfigError, match="does not divide the control rate"):
        run(RenderConfig(source, tmp_path / "b", video_hz=3.0))
    next((source / "scenes").iterdir()).unlink()
    with pytest.raises(DatasetError, match="is missing; run 'geo4d-bench verify"):
        run(RenderConfig(source, tmp_path / "c"))
