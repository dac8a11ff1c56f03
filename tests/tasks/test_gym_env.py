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
from geo4d_bench.errors import ConfigError
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
