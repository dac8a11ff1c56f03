"""Cameras of a user's own through every command: drawn as asked, stored, read and exported, or named before work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from geo4d_bench.cli import main
from geo4d_bench.datagen import collect, job, redraw, verify
from geo4d_bench.dataset.manifest import read_manifest
from geo4d_bench.dataset.reader import Dataset, EpisodeFile
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import DatasetError, SceneError
from geo4d_bench.geometry.rig import Rig

LENS = """
cameras:
  - name: cam 1.rgb
    convention: opengl
    width: 640
    height: 480
    K: [[615.0, 0, 318.2], [0, 612.4, 244.1], [0, 0, 1]]
    T_world_cam: [[-0.894427, -0.182574, 0.408248, 0.4], [0.447214, -0.365148, 0.816497, 0.8],
                  [0.0, 0.912871, 0.408248, 1.7], [0, 0, 0, 1]]
    split: seen
  - {name: 007, position: [0.4, -0.8, 1.7], fovx_deg: 69.4, split: seen}
  - {name: top, position: [0.0, 0.0, 2.4], look_at: [0.0, 0.0, 1.0], fovy_deg: 50, split: novel}
"""
BLIND = """
cameras:
  - {name: away, position: [0.9, 0, 1.5], look_at: [0.9, 0, 5], split: seen}
  - {name: good, position: [0.4, -0.8, 1.7], split: seen}
"""
MESSAGE = (
    r"camera 'away' at \(0\.9, 0, 1\.5\) sees nothing: no pixel shows the robot or a thing of the scene within 2 m"
)


def rig_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_lenses_are_drawn_stored_checked_and_exported(tmp_path: Path, tiny_dataset: Any) -> None:
    out = tmp_path / "lenses"
    redraw.run(
        redraw.RenderConfig(tiny_dataset.train, out, rig=rig_file(tmp_path, LENS), height=48, width=60, workers=1)
    )
    assert verify.run(verify.VerifyConfig(out)).faults == ()
    dataset = Dataset(out)
    assert isinstance(dataset.rig, Rig)
    names = dataset.rig.camera_names()
    for camera in dataset.rig.cameras:
        np.testing.assert_allclose(dataset.episodes[0].K(camera.name), camera.K(48, 60), rtol=1e-12)
    assert {c.name: c.lens for c in dataset.episodes[0].cameras} == {c.name: c.lens for c in dataset.rig.cameras}
    written = json.loads((out / "manifest.json").read_text())["settings"]["rig"]["cameras"]
    assert [sorted({"lens", "fovy_rad"} & set(c)) for c in written] == [["lens"], ["lens"], ["fovy_rad"]]
    assert np.isfinite(Windows(dataset, names).sample(np.random.default_rng(0)).K).all()
    assert main(["export", str(out), "--to", "robomimic", "--out", str(tmp_path / "x.hdf5"), "--cameras", *names]) == 0
    changed = shutil.copy(out / "episodes" / "ep_000000.hdf5", tmp_path / "ep_000000.hdf5")
    with h5py.File(changed, "r+") as file:
        assert "fovy_rad" not in file["views/007"].attrs
        file["views/007"].attrs["lens"] = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    with pytest.raises(DatasetError, match="lens and K of 007 contradict each other"):
        _ = EpisodeFile(changed).cameras


def test_datagen_names_a_blind_camera_before_it_simulates_and_the_folder_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collect, "collect", lambda *_, **__: pytest.fail("it has simulated"))
    config = job.DatagenConfig(
        episodes=1, rig=rig_file(tmp_path, BLIND), height=24, width=32, workers=1, out=tmp_path / "data"
    )
    with pytest.raises(SceneError, match=MESSAGE):
        job.run(config)
    assert "warning: camera 'away' of rig 'mine' does not look at the workspace" in capsys.readouterr().err
    # The same folder takes the mended rig: nothing was made that would be lost.
    settings = job.settings_of(job.DatagenConfig(rig=rig_file(tmp_path, LENS), height=24, width=32))
    assert job.open_folder(tmp_path / "data", settings).settings.rig.camera_names()[0] == "cam 1.rgb"
    assert read_manifest(tmp_path / "data").settings.rig.camera_names()[0] == "cam 1.rgb"


def test_render_names_a_blind_camera(tmp_path: Path, tiny_dataset: Any) -> None:
    out = tmp_path / "blind"
    with pytest.raises(SceneError, match=MESSAGE):
        redraw.run(redraw.RenderConfig(tiny_dataset.train, out, rig=rig_file(tmp_path, BLIND), workers=1))
    assert not list((out / "episodes").glob("*"))


def test_a_stored_camera_without_depth_is_named_with_its_episode(tmp_path: Path, tiny_dataset: Any) -> None:
    shutil.copytree(tiny_dataset.train, tmp_path / "data")
    name = Dataset(tmp_path / "data").rig.camera_names("seen")[0]
    with h5py.File(tmp_path / "data" / "episodes" / "ep_000000.hdf5", "r+") as file:
        file[f"views/{name}/depth"][...] = 0
    for remember_bytes in (0, 2**30):
        windows = Windows(tmp_path / "data", "seen", remember_bytes=remember_bytes)
        with pytest.raises(DatasetError, match=rf"ep_000000\.hdf5: no pixel of camera '{name}' has valid depth in any"):
            windows.window(0, 0, *windows.cameras[:2])
