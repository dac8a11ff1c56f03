"""verify: silent on a whole dataset, one line for each fault otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the codecs
import numpy as np
import pytest

from geo4d_bench.cli import main
from geo4d_bench.datagen import verify
from geo4d_bench.datagen.verify import VerifyConfig


@pytest.fixture
def copy(tmp_path: Path, tiny_dataset: Any) -> Path:
    return Path(shutil.copytree(tiny_dataset.eval, tmp_path / "copy"))


def fault_lines(folder: Path) -> list[str]:
    result = verify.run(VerifyConfig(folder))
    assert result.exit_code == (1 if result.faults else 0)
    return [f"{file}: {fault}" for file, fault in result.faults]


def edit(folder: Path, change: Any) -> list[str]:
    with h5py.File(folder / "episodes" / "ep_000000.hdf5", "r+") as file:
        change(file)
    first, *others = fault_lines(folder)
    assert "differs from the manifest's sha256" in first
    return others


def test_a_whole_dataset_has_no_fault(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copy)]) == 0
    assert "whole, 1 episodes" in capsys.readouterr().out


def test_missing_cut_and_foreign_files_are_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episode = copy / "episodes" / "ep_000000.hdf5"
    whole = episode.read_bytes()
    episode.write_bytes(whole[: len(whole) // 2])
    assert "ep_000000.hdf5: its content differs from the manifest's sha256" in fault_lines(copy)[0]
    assert "ep_000000.hdf5: not a whole HDF5 file" in fault_lines(copy)[1]
    assert main(["verify", str(copy)]) == 1
    assert "ep_000000.hdf5: " in capsys.readouterr().out
    episode.unlink()
    assert "ep_000000.hdf5: is missing" in fault_lines(copy)[0]
    episode.write_bytes(whole)
    (copy / "episodes" / "notes.txt").write_text("mine")
    next((copy / "scenes").glob("*.zip")).write_bytes(b"changed")
    (copy / "hands" / "right.npz").write_bytes(b"")
    lines = "\n".join(fault_lines(copy))
    assert "notes.txt: is not in the manifest" in lines
    assert "its content differs from its name" in lines
    assert "hands/right.npz: no hand model" in lines


def test_structure_is_checked(copy: Path) -> None:
    def cut_frames(file: Any) -> None:
        depth = file["views/cam00/depth"][:-2]
        del file["views/cam00/depth"]
        file["views/cam00/depth"] = depth

    frames = len(h5py.File(copy / "episodes" / "ep_000000.hdf5")["frames/step"])
    (line,) = edit(copy, cut_frames)
    assert f"views/cam00/depth has {frames - 2} frames, frames/step has {frames}" in line


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda f: f["ee/right/T_world_ee"].__setitem__((3, 0, 3), float("nan")),
            "ee/right/T_world_ee has values that",
        ),
        (lambda f: f["ee/right/T_world_ee"].__setitem__((3, 0, 0), 2.0), "T_world_ee has poses that are not rigid"),
        (lambda f: f["views/cam01/seg"].__setitem__((0, 0, 0), 200), "seg frame 0 has label 200"),
        (
            lambda f: f["views/cam01/T_world_cam"].__setitem__((0, 3), 9.0),
            "cam01/T_world_cam differs from the manifest",
        ),
        (lambda f: f.__delitem__("actions"), "actions is missing"),
        (lambda f: f.__delitem__("views/cam01"), "views/cam01 is missing"),
        (lambda f: f.attrs.__setitem__("seed", 12345), "attribute seed is 12345"),
        (
            lambda f: f["views/cam00/rgb"].write_direct(np.zeros(f["views/cam00/rgb"].shape, np.uint8)),
            "views/cam00/rgb is empty",
        ),
    ],
)
def test_each_fault_is_one_line(copy: Path, change: Any, sentence: str) -> None:
    (line,) = edit(copy, change)
    assert sentence in line
    assert "or the same datagen command makes it again" in line


def test_a_folder_that_is_no_dataset_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "no such dataset" in capsys.readouterr().err
