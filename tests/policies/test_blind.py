"""Policies that see nothing, made of demonstrations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic_hand import box_hand

from geo4d_bench import policies
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import CheckpointError, ConfigError, DatasetError
from geo4d_bench.policies.blind import BlindOptions, Motion, NearestOptions, ReplayOptions, average
from geo4d_bench.policies.protocol import Observation, TaskInfo

if TYPE_CHECKING:
    from conftest import TinyDataset

TASK = TaskInfo("store_cereal", "v1", ("right",), "store the box", 20.0, 0.06, box_hand())


def motion(approach: int, shift: float, carry: int = 10, turn: float = 0.0) -> Motion:
    """Goes to ``shift`` in ``approach`` steps, closes, and goes back."""
    x = np.concatenate([np.linspace(0, shift, approach), np.linspace(shift, 0, carry)])
    rotation = Rotation.from_rotvec(np.outer(np.full(len(x), turn), [0, 0, 1])).as_matrix()
    closed = np.arange(len(x)) >= approach
    return Motion(np.stack([x, 0 * x, 0 * x], 1)[None], rotation[None], closed[None])


def test_the_average_closes_with_all_of_them() -> None:
    other = motion(8, 0.3)
    other = dataclasses.replace(other, closed=~other.closed)  # opens where all others close: left out
    mean, of = average([motion(10, 0.1, turn=0.2), motion(20, 0.2, turn=-0.1), other])
    assert len(of) == 2
    assert mean.closed.tolist() == [[False] * 15 + [True] * 10]
    assert mean.position_m[0, [0, 14, 15, 24], 0] == pytest.approx([0, 0.15, 0.15, 0])
    assert Rotation.from_matrix(mean.rotation[0]).as_rotvec()[:, 2] == pytest.approx(0.05)


def looking_at(x: float, closed: bool) -> Observation:
    T = np.eye(4)
    T[0, 3] = x
    return Observation(
        rgb=np.zeros((2, 0, 0, 3), np.uint8), depth=np.zeros((2, 0, 0), np.float32), K=np.zeros((2, 3, 3)),
        T_world_cam_n=np.eye(4), T_world_ee={"right": T}, opening_m={"right": 0.0 if closed else 0.08}, language="",
    )  # fmt: skip


def test_blind_plays_its_motion_once_and_stays(tiny_dataset: TinyDataset) -> None:
    (demonstration,) = [e.trajectory for e in Dataset(tiny_dataset.train).episodes if not e.trajectory.disturbances]
    for name in ("blind", "replay"):
        options = policies.policy_class(name).Options(checkpoint=tiny_dataset.train)
        factory = policies.load_policy(name, "store_cereal", options)
        assert factory.checkpoint_sha256 == Dataset(tiny_dataset.train).identity
        policy = factory()
        policy.reset(TASK, 0)
        chunk = policy.act(looking_at(0.0, False))
        chunk.check(("right",))
        # The average of one is that one.
        assert chunk.T_world_ee["right"][:, :3, 3] == pytest.approx(demonstration.actions[:, :3], abs=1e-6)
        assert (chunk.opening_m["right"] == 0).tolist() == (demonstration.actions[:, 6] > 0).tolist()
        rest = policy.act(looking_at(0.5, True))
        assert rest.T_world_ee["right"] == pytest.approx(chunk.T_world_ee["right"][-1:])


def test_proprioception_goes_on_from_the_nearest_state(tiny_dataset: TinyDataset) -> None:
    (demonstration,) = [e.trajectory for e in Dataset(tiny_dataset.train).episodes if not e.trajectory.disturbances]
    policy = policies.load_policy("proprioception", "store_cereal", NearestOptions(checkpoint=tiny_dataset.train))()
    policy.reset(TASK, 0)
    for step in (0, 60, 150):
        obs = dataclasses.replace(
            looking_at(0.0, False),
            T_world_ee={"right": demonstration.T_world_ee["right"][step]},
            opening_m={"right": float(demonstration.opening_m["right"][step])},
        )
        chunk = policy.act(obs)
        assert len(chunk.opening_m["right"]) == 32
        expected = demonstration.actions[step : step + 32, :3]
        assert chunk.T_world_ee["right"][:, :3, 3] == pytest.approx(expected, abs=0.02)


def test_a_demonstration_succeeds_from_its_own_start(tiny_dataset: TinyDataset) -> None:
    from geo4d_bench.rollout.assets import make_assets
    from geo4d_bench.rollout.simulator import Simulator
    from geo4d_bench.rollout.views import resolve
    from geo4d_bench.tasks import make
    from geo4d_bench.tasks.rigs import make_rig

    (demonstration,) = [e.trajectory for e in Dataset(tiny_dataset.train).episodes if not e.trajectory.disturbances]
    task = make("store_cereal")
    views = resolve("novel", make_rig("hemisphere16", task.spec.workspace))
    simulator = Simulator(task, demonstration.split, views, make_assets(task))
    simulator.begin(demonstration.seed)
    policy = policies.load_policy("replay", "store_cereal", ReplayOptions(checkpoint=tiny_dataset.train))()
    policy.reset(simulator.info, 0)
    simulator.execute(policy.act(simulator.observe()))
    assert simulator.status == "success"


def test_what_demonstrations_cannot_be_played_is_refused(tiny_dataset: TinyDataset, tmp_path: Path) -> None:
    for name, options, error, sentence in (
        ("blind", BlindOptions(tiny_dataset.eval), DatasetError, "of the 'eval' split, on which policies are judged"),
        ("replay", ReplayOptions(tiny_dataset.train, 1), ConfigError, "--demonstration is 1, expected less than 1"),
        ("blind", BlindOptions(tmp_path / "none"), CheckpointError, "geo4d-bench datagen --task store_cereal --out"),
    ):
        with pytest.raises(error, match=sentence):
            policies.load_policy(name, "store_cereal", options)
