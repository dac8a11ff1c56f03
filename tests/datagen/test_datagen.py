"""Datagen as users meet it: what it makes, what it refuses, and that nothing is made twice or mixed up."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geo4d_bench.datagen.job import DatagenConfig, make_dataset, make_missing, run
from geo4d_bench.datagen.render import frame_steps
from geo4d_bench.datagen.worker import episode_seeds, is_disturbed
from geo4d_bench.dataset.manifest import Manifest, read_manifest
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.schema import episode_name
from geo4d_bench.errors import ConfigError, DatasetError, UnknownNameError


def test_a_second_call_makes_nothing(tiny_dataset: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in (tiny_dataset.train / "episodes").iterdir()}
    result = make_dataset(tiny_dataset.train, read_manifest(tiny_dataset.train).settings, 2)
    assert result.made == 0
    assert {p: p.stat().st_mtime_ns for p in (tiny_dataset.train / "episodes").iterdir()} == before
    assert "geo4d-bench train --data" in str(result)


def test_no_simulation_is_left_in_the_process(tiny_dataset: Any, tmp_path: Path) -> None:
    from robosuite.utils.binding_utils import MjSim

    def simulations() -> set[int]:
        gc.collect()
        return {id(o) for o in gc.get_objects() if issubclass(type(o), MjSim)}

    before = simulations()
    assert make_dataset(tmp_path / "d", read_manifest(tiny_dataset.train).settings, 1).made == 1
    assert simulations() <= before


def test_other_settings_are_refused_by_name(tiny_dataset: Any, tiny_rig: Any) -> None:
    settings = read_manifest(tiny_dataset.train).settings
    for change, sentence in (
        ({"seed": 5}, "seed 0 there, 5 asked for"),
        ({"height": 96}, "height 64 there, 96 asked for"),
        ({"rig": dataclasses.replace(tiny_rig, name="other")}, "rig tiny4 there, other asked for"),
        ({"disturbed_share": 0.1}, "disturbed_share 0.5 there, 0.1 asked for"),
    ):
        with pytest.raises(DatasetError, match=sentence):
            make_dataset(tiny_dataset.train, dataclasses.replace(settings, **change), 2)  # type: ignore[arg-type]


def test_episodes_are_successful_and_a_share_is_disturbed(tiny_dataset: Any) -> None:
    for folder, split in ((tiny_dataset.train, "train"), (tiny_dataset.eval, "eval")):
        dataset = Dataset(folder)
        for index, episode in enumerate(dataset.episodes):
            trajectory = episode.trajectory
            assert trajectory.success
            assert trajectory.phase == "task"
            assert trajectory.split == split
            assert trajectory.seed in episode_seeds(0, index)
            assert bool(trajectory.disturbances) == is_disturbed(index, 0.5)
            assert np.array_equal(episode.steps, np.arange(0, len(trajectory.time), 4))
            # The last second shows the hand at rest: a policy has to learn to stop.
            last = trajectory.T_world_ee["right"][-5:, :3, 3]
            assert np.linalg.norm(last[-1] - last[0]) < 0.02
    assert (
        Dataset(tiny_dataset.train).episodes[0].trajectory.seed
        != Dataset(tiny_dataset.train).episodes[1].trajectory.seed
    )


def test_states_reproduce_the_stored_poses(tiny_dataset: Any) -> None:
    """The scene in the dataset, set to a stored state, has hand and box where the episode says they were."""
    from geo4d_bench.rendering.scene import load_scene

    dataset = Dataset(tiny_dataset.train)
    trajectory = dataset.episodes[1].trajectory
    scene = load_scene(dataset.scene_path(trajectory.scene))
    for step in range(0, len(trajectory.time), 37):
        scene.set_state(trajectory.states[step])
        assert np.allclose(
            scene.T_world_site("gripper0_right_grip_site"), trajectory.T_world_ee["right"][step], atol=1e-6
        )
        position = scene.data.body("cereal_main").xpos
        assert np.linalg.norm(position - trajectory.T_world_obj["cereal"][step, :3, 3]) < 0.2  # the object's own origin
    assert trajectory.actions.shape[0] == len(trajectory.time) == len(trajectory.states)


def test_seeds_of_episodes_never_meet() -> None:
    blocks = [set(episode_seeds(seed, index)) for seed in range(3) for index in range(50)]
    assert len(set.union(*blocks)) == sum(map(len, blocks))
    for share in (0.0, 0.3, 0.5, 1.0):
        assert sum(is_disturbed(i, share) for i in range(100)) == round(100 * share)


def test_an_episode_that_cannot_be_read_back_is_an_error(tiny_dataset: Any, tmp_path: Path) -> None:
    settings = read_manifest(tiny_dataset.train).settings

    def work(job: int) -> str:
        path = tmp_path / "episodes" / episode_name(job)
        path.parent.mkdir()
        path.write_bytes((tiny_dataset.train / "episodes" / path.name).read_bytes()[:50_000])
        return path.name

    with pytest.raises(
        DatasetError, match=r"ep_000000.hdf5 was made now, but cannot be read back: .*; if another --out"
    ):
        make_missing(tmp_path, Manifest(settings), work, [0], 1, None)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="video_hz=3 does not divide the control rate"):
        run(DatagenConfig(out=tmp_path / "x", video_hz=3.0))
    with pytest.raises(UnknownNameError, match="did you mean 'store_cereal'"):
        run(DatagenConfig(task="store_cereel", out=tmp_path / "x"))
    with pytest.raises(UnknownNameError, match="did you mean 'hemisphere16'"):
        run(DatagenConfig(rig="hemisphere61", out=tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    assert list(frame_steps(9, 20.0, 5.0)) == [0, 4, 8]
