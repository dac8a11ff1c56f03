"""Damaged episodes are noticed, named, and made again: by verify --repair without robosuite, or by datagen."""

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
import hdf5plugin  # noqa: F401 - registers the codecs
import pytest
from episode_contents import assert_same_contents

from geo4d_bench.cli import main
from geo4d_bench.datagen.job import make_dataset
from geo4d_bench.datagen.verify import VerifyConfig, run
from geo4d_bench.dataset.manifest import read_manifest
from geo4d_bench.errors import DatasetError

WITHOUT_ROBOSUITE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "robosuite":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from geo4d_bench.cli import main
code = main(sys.argv[1:])
assert "robosuite" not in sys.modules
raise SystemExit(code)
"""
NAME = "ep_000000.hdf5"


@pytest.fixture
def copy(tmp_path: Path, tiny_dataset: Any) -> Path:
    return Path(shutil.copytree(tiny_dataset.eval, tmp_path / "copy"))


def test_repair_needs_no_robosuite_and_gives_equal_arrays(copy: Path, tiny_dataset: Any) -> None:
    """An episode cut in the middle of its images, from its states alone."""
    path = copy / "episodes" / NAME
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROBOSUITE, "verify", "--repair", str(copy)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NAME}: made again from its states (the same bytes)" in done.stdout
    assert_same_contents(path, tiny_dataset.eval / "episodes" / NAME)
    assert read_manifest(copy).episodes == read_manifest(tiny_dataset.eval).episodes
    assert main(["verify", str(copy)]) == 0


def test_changed_images_are_repaired_and_changed_states_are_not(copy: Path, tiny_dataset: Any) -> None:
    path = copy / "episodes" / NAME
    with h5py.File(path, "r+") as file:  # checksums follow, so only sha256 tells
        file["views/cam00/rgb"][3] = 7
        del file["views/cam01"]
    result = run(VerifyConfig(copy))
    assert result.exit_code == 1
    assert "differs from the manifest's sha256" in str(result)
    assert run(VerifyConfig(copy, repair=True)).exit_code == 0
    assert_same_contents(path, tiny_dataset.eval / "episodes" / NAME)

    with h5py.File(path, "r+") as file:
        file["states"][5, 3] += 1e-9
    before = path.read_bytes()
    result = run(VerifyConfig(copy, repair=True))
    assert result.exit_code == 1
    assert "no repair without whole states (what was simulated was changed after it was written): run" in str(result)
    assert path.read_bytes() == before


def test_what_repair_cannot_do_is_said(copy: Path) -> None:
    path = copy / "episodes" / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    foreign = copy / "episodes" / "ep_000007.hdf5"
    foreign.write_bytes(b"mine")
    text = str(run(VerifyConfig(copy, repair=True)))
    assert f"{NAME}: no repair without whole states" in text
    assert "run the datagen command that made the dataset again" in text
    assert "ep_000007.hdf5: is not in the manifest" in text
    assert foreign.read_bytes() == b"mine"
    foreign.unlink()

    path.write_bytes(whole[: len(whole) // 2])
    (scene,) = (copy / "scenes").glob("*.zip")
    scene.unlink()
    text = str(run(VerifyConfig(copy, repair=True)))
    assert f"scenes/{scene.name}: is missing" in text
    assert f"{NAME}: needs scenes/{scene.name}, which is missing or damaged: copy it back" in text
    path.unlink()
    assert "is missing, and so are its states: run the datagen command" in str(run(VerifyConfig(copy, repair=True)))


def test_datagen_makes_damaged_episodes_again(
    tmp_path: Path, tiny_dataset: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut, changed in place, deleted, with a damaged manifest: named, and made again; the rest is left alone."""
    folder = Path(shutil.copytree(tiny_dataset.train, tmp_path / "copy"))
    original = read_manifest(folder)
    kept, path = (folder / "episodes" / entry.file for entry in original.episodes)
    modified = kept.stat().st_mtime_ns
    for fault, sentence in (
        (lambda data: data[:-5000], "bytes, was written with"),
        (lambda data: data[:90_000] + bytes([data[90_000] ^ 4]) + data[90_001:], "was changed after it was written"),
    ):
        path.write_bytes(fault(path.read_bytes()))
        result = make_dataset(folder, original.settings, 1)  # asked for one: noticed, and nothing made
        assert result.made == 0
        assert [e.file for e in result.manifest.episodes] == [kept.name]
        said = capsys.readouterr().err
        assert f"{path}: " in said
        assert sentence in said
        assert not path.exists()
        shutil.copy(tiny_dataset.train / "episodes" / path.name, path)
        assert make_dataset(folder, original.settings, 2).made == 0  # a whole file is taken in again

    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:-300])
    next((folder / "scenes").iterdir()).write_bytes(b"")
    (folder / "hands" / "right.npz").unlink()
    path.write_bytes(path.read_bytes()[:-5000])
    result = make_dataset(folder, original.settings, 2)
    said = capsys.readouterr().err
    assert "manifest.json: not a whole manifest" in said
    assert f"{path}: not a whole HDF5 file" in said
    assert result.made == 1
    assert kept.stat().st_mtime_ns == modified
    assert result.manifest.episodes == read_manifest(tiny_dataset.train).episodes  # yield and failures too
    assert_same_contents(path, tiny_dataset.train / "episodes" / path.name)
    assert main(["verify", str(folder)]) == 0


def test_datagen_never_replaces_an_episode_of_another_dataset(tmp_path: Path, tiny_dataset: Any) -> None:
    folder = Path(shutil.copytree(tiny_dataset.train, tmp_path / "copy"))
    settings = read_manifest(folder).settings
    episodes = sorted((folder / "episodes").iterdir())
    for source, sentence in (
        (tiny_dataset.eval / "episodes" / NAME, "is of another dataset .attribute split is 'eval'"),
        (episodes[0], "belongs to another dataset .seed"),
    ):
        stranger = folder / "episodes" / "ep_000002.hdf5"
        shutil.copy(source, stranger)
        with pytest.raises(DatasetError, match=sentence):
            make_dataset(folder, settings, 2)
        assert stranger.read_bytes() == Path(source).read_bytes()
        stranger.unlink()
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match=r"is of another dataset .*pixels"):
        make_dataset(folder, dataclasses.replace(settings, height=24), 2)
    assert sorted((folder / "episodes").iterdir()) == episodes


def test_the_manifest_knows_sizes_and_digests(copy: Path) -> None:
    (entry,) = read_manifest(copy).episodes
    path = copy / "episodes" / NAME
    assert entry.size_bytes == path.stat().st_size
    with h5py.File(path) as file:
        assert entry.simulated_sha256 == file.attrs["simulated_sha256"].decode()
    old = json.loads((copy / "manifest.json").read_text())  # as datasets of before had it
    for item in old["episodes"]:
        del item["size_bytes"], item["simulated_sha256"]
    (copy / "manifest.json").write_text(json.dumps(old))
    assert main(["verify", str(copy)]) == 0
    make_dataset(copy, read_manifest(copy).settings, 1)
    assert read_manifest(copy).episodes[0].size_bytes == path.stat().st_size
