"""The Gymnasium id: passes Gymnasium's own checker, shows no object, and ends as it should."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.spatial.transform import Rotation

import geo4d_bench.tasks  # noqa: F401  registers the id
from geo4d_bench.errors import ActionError, ConfigError
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.tasks import Command, Task
from geo4d_bench.tasks.gym_env import TaskEnv


@pytest.fixture
def env() -> gymnasium.Env[Any, Any]:
    """Made anew, for Gymnasium's checker fails at the first step where there were two resets before it."""
    return gymnasium.make("geo4d/StoreCereal-v1")


def test_it_passes_gymnasiums_checker(env: gymnasium.Env[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Metres and radians are meant: a normalised action would hide the units that datasets and policies share.
        warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized space")
        check_env(env.unwrapped, skip_render_check=True)


def test_it_shows_proprioception_only(env: gymnasium.Env[Any, Any]) -> None:
    observation, _ = env.reset(seed=3)
    assert set(observation) == {"right_position", "right_rotvec", "right_opening"}


def test_the_expert_is_paid_once_and_ends_the_episode(env: gymnasium.Env[Any, Any]) -> None:
    env.reset(seed=1002, options={"split": "eval"})
    inner = env.unwrapped
    assert isinstance(inner, TaskEnv)
    expert, rewards, terminated, truncated = inner._task.expert(), [], False, False
    while not (terminated or truncated):
        command = expert.command()
        T = command.T_world_ee["right"]
        rotvec = Rotation.from_matrix(T[:3, :3]).as_rotvec()
        action = np.concatenate([T[:3, 3], rotvec, [command.opening_m["right"]]])
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
    assert terminated
    assert info["success"]
    assert rewards[-1] == 1.0
    assert sum(rewards) == 1.0


def test_the_same_seed_gives_the_same_episode_and_no_seed_a_new_one(env: gymnasium.Env[Any, Any]) -> None:
    first, _ = env.reset(seed=7)
    second, _ = env.reset()
    again, _ = env.reset(seed=7)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["right_position"], second["right_position"])


def test_an_idle_episode_is_cut_off(env: gymnasium.Env[Any, Any]) -> None:
    observation, _ = env.reset(seed=0)
    action = np.concatenate([observation[f"right_{k}"] for k in ("position", "rotvec", "opening")])
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, _ = env.step(action)
        steps += 1
        assert reward == 0
    assert truncated
    assert not terminated
    assert steps == 800


def test_an_unknown_split_is_refused(env: gymnasium.Env[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="'train' or 'eval', got 'test'"):
        env.reset(options={"split": "test"})


HERE = np.array([0.0, 0.0, 1.2, np.pi, 0.0, 0.0, 0.04])


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        (np.full(7, np.nan), "x of arm 'right' is nan, expected -2 to 2"),
        (np.where(np.arange(7) == 4, np.inf, HERE), "rotation y of arm 'right' is inf, expected -3.14159 to 3.14159"),
        (HERE + np.eye(7)[2], "z of arm 'right' is 2.2, expected -2 to 2"),
        (HERE * [1, 1, 1, 1, 1, 1, -1], "opening of arm 'right' is -0.04, expected 0 to 0.08"),
        (HERE[:6], r"shape \(6,\), expected \(7,\)"),
        (HERE[None], r"shape \(1, 7\), expected \(7,\)"),
        (["up"] * 7, "could not convert string to float"),
        (None, r"shape \(\), expected \(7,\)"),
    ],
)
def test_an_action_that_is_none_is_named_and_changes_nothing(task: Task, action: Any, complaint: str) -> None:
    inner = TaskEnv("store_cereal", task)
    inner.reset(seed=0)
    inner.step(HERE.astype(np.float32))  # whose pi is more than float64's
    before = task.physics_state()
    with pytest.raises(ActionError, match=f"^step 1: .*{complaint}"):
        inner.step(action)
    assert np.array_equal(task.physics_state(), before)


@pytest.mark.parametrize(
    ("target", "opening", "complaint"),
    [
        (np.full((4, 4), np.nan), 0.04, "values that are not finite"),
        (pose(2.0 * np.eye(3)), 0.04, "a rotation that is not orthonormal"),
        (pose(None, (0.0, 1e9, 0.0)), 0.04, "a position beyond 100 m"),
        (np.eye(3), 0.04, r"got \(3, 3\) and 0.04"),
        (np.eye(4), np.nan, r"got \(4, 4\) and nan"),
        (np.eye(4), "open", "could not convert string to float"),
    ],
)
def test_a_target_that_no_robot_can_be_sent_to_is_named(task: Task, target: Any, opening: Any, complaint: str) -> None:
    task.reset(0, "train")
    task.step(task.expert().command())
    with pytest.raises(ActionError, match=f"^control step 1, arm 'right': .*{complaint}"):
        task.step(Command({"right": target}, {"right": opening}))
