"""Writing and reading one episode: what goes in comes out, and a file that exists is whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from geo4d_bench.dataset.reader import Dataset, EpisodeFile
from geo4d_bench.dataset.schema import DEPTH_SCALE_M
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.dataset.writer import write_episode
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera, look_at

HEIGHT, WIDTH, STEPS = 12, 16, 9
SEG_NAMES = ("background", "robot", "hand/right")


def cameras() -> list[Camera]:
    return [
        Camera("cam00", look_at((1, 0, 1), (0, 0, 0)), 0.8, "seen"),
        Camera("cam01", look_at((0, 1, 1), (0, 0, 0)), 0.9, "novel"),
    ]


def trajectory() -> Trajectory:
    rng = np.random.default_rng(0)
    return Trajectory(
        task="some_task", version="v1", seed=7, split="train", language="put it there", success=True, phase="task",
        control_hz=20.0, states=rng.normal(size=(STEPS, 5)), actions=rng.normal(size=(STEPS, 7)).astype(np.float32),
        time=np.arange(STEPS) / 20.0, T_world_ee={"right": np.tile(np.eye(4), (STEPS, 1, 1))},
        opening_m={"right": np.linspace(0, 0.08, STEPS)}, T_world_obj={"cereal": np.tile(np.eye(4), (STEPS, 1, 1))},
        scene="ab" * 32, disturbances=((3, "push"),),
    )  # fmt: skip


def frame(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(index)
    depth = rng.uniform(0.01, 6.5, size=(2, HEIGHT, WIDTH)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = np.nan
    seg = rng.integers(0, len(SEG_NAMES), size=depth.shape, dtype=np.uint8)
    return rng.integers(0, 256, size=(*depth.shape, 3), dtype=np.uint8), depth, seg


def write(path: Path, frames: int = 3, steps: tuple[int, ...] = (0, 4, 8), damage: bool = False) -> Path:
    images = ((rgb, depth[:1] if damage else depth, seg) for rgb, depth, seg in map(frame, range(frames)))
    write_episode(
        path, trajectory(), images, steps=np.array(steps, dtype=np.int32), video_hz=5.0, cameras=cameras(),
        height=HEIGHT, width=WIDTH, seg_names=SEG_NAMES, notes={"failed_attempts": [[6, "start: fell"]]},
    )  # fmt: skip
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    episode = EpisodeFile(write(tmp_path / "ep_000000.hdf5"))
    for view, camera in enumerate(cameras()):
        got = episode.frames(camera.name, [2, 0, 2, 2])
        for row, index in enumerate([2, 0, 2, 2]):
            rgb, depth, seg = frame(index)
            assert np.array_equal(got.rgb[row], rgb[view])
            assert np.array_equal(got.seg[row], seg[view])
            assert np.array_equal(np.isnan(got.depth[row]), np.isnan(depth[view]))
            # Half a unit of rounding, and float32's own at 6.5 m.
            assert np.nanmax(np.abs(got.depth[row] - depth[view])) <= 0.5 * DEPTH_SCALE_M + 1e-6
        assert np.array_equal(episode.K(camera.name), camera.K(HEIGHT, WIDTH))
        assert np.array_equal(episode.T_world_cam(camera.name), camera.T_world_cam)
    assert [(c.name, c.split, c.fovy_rad) for c in episode.cameras] == [("cam00", "seen", 0.8), ("cam01", "novel", 0.9)]
    expected, found = trajectory(), episode.trajectory
    for name in ("task", "version", "seed", "split", "language", "success", "phase", "scene", "disturbances"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("states", "actions", "time"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert np.array_equal(found.opening_m["right"], expected.opening_m["right"])
    assert set(found.T_world_obj) == {"cereal"}
    assert list(episode.steps) == [0, 4, 8]
    assert episode.seg_names == SEG_NAMES


def test_the_tree_is_the_documented_one(tmp_path: Path) -> None:
    shape = (3, HEIGHT, WIDTH)
    expected = {
        "states": ((STEPS, 5), "f8"), "actions": ((STEPS, 7), "f4"), "time": ((STEPS,), "f8"),
        "ee/right/T_world_ee": ((STEPS, 4, 4), "f8"), "ee/right/opening": ((STEPS,), "f8"),
        "objects/cereal/T_world_obj": ((STEPS, 4, 4), "f8"), "frames/step": ((3,), "i4"),
    }  # fmt: skip
    for camera in ("cam00", "cam01"):
        expected |= {
            f"views/{camera}/rgb": ((*shape, 3), "u1"), f"views/{camera}/depth": (shape, "u2"),
            f"views/{camera}/seg": (shape, "u1"), f"views/{camera}/K": ((3, 3), "f8"),
            f"views/{camera}/T_world_cam": ((4, 4), "f8"),
        }  # fmt: skip
    found = {}
    with h5py.File(write(tmp_path / "ep.hdf5")) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: (item.shape, item.dtype.str[1:])}) if isinstance(item, h5py.Dataset) else None
            )
        )
        assert found == expected
        assert file["views/cam00/depth"].attrs["scale"] == DEPTH_SCALE_M
        assert json.loads(file["views/cam00/seg"].attrs["names"]) == list(SEG_NAMES)
        assert file["views/cam00/rgb"].chunks == (3, HEIGHT, WIDTH, 3)
        for name in (
            "schema_version",
            "task",
            "seed",
            "split",
            "success",
            "control_hz",
            "video_hz",
            "language",
            "scene",
        ):
            assert name in file.attrs


def test_an_episode_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="2 frames added, frames/step has 3"):
        write(tmp_path / "ep.hdf5", frames=2)
    with pytest.raises(DatasetError, match="frame 4 added"):
        write(tmp_path / "ep.hdf5", frames=4)
    with pytest.raises(DatasetError, match=r"a frame of shape \(1, 12, 16\)"):
        write(tmp_path / "ep.hdf5", damage=True)
    assert list(tmp_path.iterdir()) == []


_FULL_DISK = """
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_episode_files import HEIGHT, SEG_NAMES, WIDTH, cameras, frame, trajectory, write
from geo4d_bench.errors import DatasetError
folder = Path(sys.argv[1])
write(folder / "ep_000000.hdf5")
try:
    write(folder / "ep_000001.hdf5", frames=400, steps=tuple(range(400)))
except DatasetError as error:
    print(error)
print(sorted(p.name for p in folder.iterdir()))
"""


def test_a_full_disk_is_one_sentence_and_finished_episodes_stay(tmp_path: Path) -> None:
    """A real full disk: a tmpfs of 300 kB in a mount namespace of its own."""
    script = tmp_path / "fill.py"
    script.write_text(_FULL_DISK.format(tests=str(Path(__file__).parent)))
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"mount -t tmpfs -o size=300k none {disk} && {sys.executable} {script} {disk}"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    probe = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", str(disk)], check=False,
        capture_output=True,
    )  # fmt: skip
    if probe.returncode:
        pytest.skip("this machine does not allow mount namespaces")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command], check=False, capture_output=True,
        text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sentence, left = done.stdout.strip().splitlines()
    assert "ep_000001.hdf5: the disk is full; finished episodes are kept" in sentence
    assert left == "['ep_000000.hdf5']"


def test_broken_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such episode"):
        EpisodeFile(tmp_path / "ep_000009.hdf5")
    whole = write(tmp_path / "ep_000000.hdf5")
    cut = tmp_path / "ep_000001.hdf5"
    cut.write_bytes(whole.read_bytes()[:-4000])
    with pytest.raises(DatasetError, match=r"ep_000001.hdf5: not a whole HDF5 file .*; .*verify --repair"):
        _ = EpisodeFile(cut).steps
    foreign = tmp_path / "ep_000002.hdf5"
    with h5py.File(foreign, "w") as file:
        file["a"] = 1
    with pytest.raises(DatasetError, match="no schema version, expected 1"):
        _ = EpisodeFile(foreign).steps
    with h5py.File(whole, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(DatasetError, match="schema version 99, expected 1"):
        _ = EpisodeFile(whole).steps


def test_folders_that_are_no_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such dataset; make one with 'geo4d-bench datagen"):
        Dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no manifest.json"):
        Dataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema_version": 1, "sett')
    with pytest.raises(DatasetError, match="not a whole manifest"):
        Dataset(tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_episode_may_be_read_in_other_processes(tmp_path: Path, method: str) -> None:
    episode = EpisodeFile(write(tmp_path / "ep.hdf5"))
    mine = episode.frames("cam00", [1])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        theirs = pool.submit(episode.frames, "cam00", [1]).result(timeout=60)
    assert np.array_equal(theirs.rgb, mine.rgb)
    assert np.array_equal(episode.frames("cam00", [1]).rgb, mine.rgb)


def test_no_text_lies_outside_the_checksummed_headers(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "ep.hdf5")) as file:
        items = [file]
        file.visititems(lambda _, item: items.append(item))
        kinds = [item.attrs.get_id(name).get_type() for item in items for name in item.attrs]
        text = [kind for kind in kinds if isinstance(kind, h5py.h5t.TypeStringID)]
        assert len(text) >= 10
        assert not any(kind.is_variable_str() for kind in text)


def test_text_attributes_of_older_files_are_read_alike(tmp_path: Path) -> None:
    new, old = EpisodeFile(write(tmp_path / "new.hdf5")), write(tmp_path / "old.hdf5")
    with h5py.File(old, "r+") as file:
        items = [file, file["views/cam00"], file["views/cam01"], file["views/cam00/seg"], file["views/cam01/seg"]]
        for item in items:
            for name, value in list(item.attrs.items()):
                if isinstance(value, bytes):
                    item.attrs[name] = value.decode()
    again = EpisodeFile(old)
    assert again.attrs == new.attrs
    assert all(isinstance(value, str) for value in (new.attrs["language"], new.attrs["task"]))
    assert again.seg_names == new.seg_names == SEG_NAMES
    assert [c.split for c in again.cameras] == [c.split for c in new.cameras] == ["seen", "novel"]
