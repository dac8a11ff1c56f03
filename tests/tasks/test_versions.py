"""Later versions of a task: wider starts, rows and datasets of their own, everything else as in the first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from geo4d_bench import tasks
from geo4d_bench.cli import main
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.rollout.ledger import Ledger
from geo4d_bench.rollout.rollout import RolloutConfig, run

LATER = [name for name in tasks.names() if name != tasks.spec(name).id]


def area(name: str) -> float:
    """Of all ranges of a task's objects that stand on the table, m2."""
    return sum(float(np.ptp(s.x_m) * np.ptp(s.y_m)) for s in tasks.spec(name).spawn if s.on is None)


@pytest.mark.parametrize("name", LATER)
def test_a_later_version_differs_in_its_starts_alone_and_they_are_had(name: str) -> None:
    spec = tasks.spec(name)
    first = tasks.spec(spec.id)
    assert dataclasses.replace(spec, version=first.version, spawn=first.spawn) == first
    assert area(name) > 2 * area(spec.id)
    task, starts = tasks.make(name), []
    for seed in range(5000, 5008):
        task.reset(seed, "train")
        assert task.failure() is None
        poses = task.object_poses()
        for spawn in (each for each in spec.spawn if each.on is None):
            p = poses[spawn.object][:2, 3]
            low, high = np.transpose((spawn.x_m, spawn.y_m))
            assert np.all(p > low - spawn.tolerance_m - 1e-9), spawn.object
            assert np.all(p < high + spawn.tolerance_m + 1e-9), spawn.object
        starts.append(poses[spec.spawn[0].object][:2, 3])
    assert np.ptp(starts, axis=0).max() > np.ptp(first.spawn[0].y_m)


def test_a_version_has_rows_and_demonstrations_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(RolloutConfig(task="store_cereal-v2", policy="expert", episodes=1, workers=1))
    assert done.out == Path("runs/store_cereal-v2/rollout_expert_novel")
    (row,) = Ledger(done.out / "episodes.csv").rows()
    assert (row.task, row.task_version, row.status) == ("store_cereal", "v2", "success")

    options = ["--episodes", "1", "--views", "none", "--disturbed-share", "0", "--workers", "1"]
    assert main(["datagen", "--task", "store_cereal-v2", *options]) == 0
    dataset = Dataset(Path("data/store_cereal-v2"), images=False)
    assert (dataset.manifest.settings.task, dataset.manifest.settings.version) == ("store_cereal", "v2")
    # Its simulation was of that version, too.
    (episode,) = dataset.episodes
    task = tasks.make("store_cereal-v2")
    task.reset(episode.trajectory.seed, "train")
    np.testing.assert_array_equal(episode.trajectory.states[0], task.physics_state())
    assert main(["verify", "data/store_cereal-v2"]) == 0
