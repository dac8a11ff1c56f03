"""Which plan is followed when, by hand, with planners that say what is expected; and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_hand import box_hand

from geo4d_bench import policies
from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.model.generators import presets
from geo4d_bench.policies.hierarchical import Hierarchical, HierarchicalOptions
from geo4d_bench.policies.protocol import ActionChunk, Observation, Policy, TaskInfo
from geo4d_bench.rollout.config import RolloutConfig, prepare

ARM = "right"
TASK = TaskInfo("store_cereal", "v1", (ARM,), "store the box", 20.0, 0.06, box_hand())


class Line(Policy):
    """Its k-th plan has ``number`` waypoints of ``dt_s``: x = 10 k + i, opening 0.01 i, times ``scale``."""

    def __init__(self, number: int, dt_s: float, scale: float) -> None:
        super().__init__(None)
        self.number, self.dt_s, self.scale = number, dt_s, scale

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.calls = 0
        self.timings = {"generate_ms": 1.0}

    def act(self, obs: Observation) -> ActionChunk:
        self.calls += 1
        i = np.arange(1, 1 + self.number)
        x = self.scale * (10 * self.calls + i)
        return ActionChunk(
            {ARM: np.stack([pose(None, (each, 0, 0)) for each in x])}, {ARM: self.scale * 0.01 * i}, self.dt_s
        )


def follow(times_s: list[float], **options: Any) -> tuple[list[list[float]], list[list[float]], list[int], list[float]]:
    """x and openings that are asked for at each time, how many video plans were made by then, and milliseconds."""
    policy = Hierarchical(HierarchicalOptions(**options), Line(4, 1.0, 0.1), Line(2, 0.5, 1.0))
    policy.reset(TASK, 0)
    obs: Any = type("Obs", (), {"T_world_ee": {ARM: pose()}})
    x, openings, slow, ms = [], [], [], []
    for policy.clock_s in times_s:
        chunk = policy.act(obs)
        chunk.check(TASK.arms)
        assert chunk.dt_s == 0.5
        x.append([round(float(each), 6) for each in chunk.T_world_ee[ARM][:, 0, 3]])
        openings.append([round(float(each), 6) for each in chunk.opening_m[ARM]])
        slow.append(policy.slow.calls)  # type: ignore[attr-defined]
        ms.append(policy.timings["generate_ms"])
    return x, openings, slow, ms


def test_a_video_plan_is_followed_once_it_is_there_and_corrected_by_every_prediction() -> None:
    x, openings, slow, ms = follow([0.0, 1.0, 2.0, 3.5, 4.0], slow_latency=2.0, weight=0.25)
    assert x == [
        [11, 12],  # the first video plan is not there yet
        [21, 22],
        pytest.approx([0.75 * 1.25 + 0.25 * 31, 0.75 * 1.3 + 0.25 * 32]),  # 2.5 s and 3 s after it was asked for
        pytest.approx([0.75 * 1.4 + 0.25 * 41, 42]),  # it ends after 4 s
        pytest.approx([0.75 * 2.25 + 0.25 * 51, 0.75 * 2.3 + 0.25 * 52]),  # the one that was asked for at 2 s
    ]
    assert openings == [[0.01, 0.02], [0.01, 0.02], [0.003, 0.003], [0.004, 0.02], [0.003, 0.003]]
    assert slow == [1, 1, 2, 2, 3]  # asked for when 2 s are left
    assert ms == [2, 1, 2, 1, 2]


# Half a second on, the video plan is half way from the hand's place, 0, to its first waypoint.
@pytest.mark.parametrize(("weight", "expected"), [(0.0, [0.55, 1.1]), (1.0, [11.0, 12.0])])
def test_without_latency_and_with_one_weight_alone(weight: float, expected: list[float]) -> None:
    x, openings, slow, _ = follow([0.0, 3.9, 4.0], slow_latency=0.0, weight=weight)
    assert (x[0], openings[0]) == (expected, [0.001, 0.001])
    assert x[1] == [21.0, 22.0]  # the video plan is over at both moments
    assert slow == [1, 1, 2]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``slow`` makes video, ``fast`` and ``other`` predict trajectories, ``small`` does at another size: untrained."""
    from geo4d_bench.model.layered.generator import LayeredGenerator

    folder, config = tmp_path_factory.mktemp("checkpoints"), presets().get("layered_debug")
    fast = config.with_ablation("trajectory_regression")
    small = dataclasses.replace(fast, height=config.height + 16)
    for name, each in {"slow": config, "fast": fast, "other": fast, "small": small}.items():
        LayeredGenerator(each).save_pretrained(folder / name)
    return folder


def test_both_checkpoints_decide_the_rows(checkpoints: Path) -> None:
    def settings(fast: str, **options: Any) -> tuple[str, str, dict[str, Any]]:
        given = {"slow_latency": 0.4} | options
        own = HierarchicalOptions(checkpoint=checkpoints / "slow", fast_checkpoint=checkpoints / fast, **given)
        context = prepare(RolloutConfig(policy="hierarchical", options=own))
        assert set(map(type, (context.factory().slow, context.factory().fast))) == {  # type: ignore[attr-defined]
            policies.policy_class("layered"), policies.policy_class("trajectory_regression"),
        }  # fmt: skip
        return context.run_id, context.columns.checkpoint, context.settings

    one, again, other, slower = (settings(*a, **b) for a, b in (
        (("fast",), {}), (("fast",), {}), (("other",), {}), (("fast",), {"slow_latency": 0.8}),
    ))  # fmt: skip
    assert one == again
    assert len({one[0], other[0], slower[0]}) == 3
    assert (
        one[1]
        == other[1]
        == policies.load_policy(
            "layered", "store_cereal", policies.policy_class("layered").Options(checkpoint=checkpoints / "slow")
        ).checkpoint_sha256
    )
    assert "fast_checkpoint" not in one[2]["options"]
    assert len(one[2]["fast_checkpoint"]) == 64


@pytest.mark.parametrize(
    ("slow", "fast", "error", "words"),
    [
        ("slow", None, CheckpointError, "needs a trained checkpoint of trajectory_regression, and none is named"),
        ("slow", "nothing", CheckpointError, "there is none at .*nothing; name one with --fast-checkpoint"),
        ("fast", "fast", ConfigError, "for 'trajectory_regression', expected a policy that plans by video"),
        ("slow", "slow", ConfigError, "for the policy 'layered', not 'trajectory_regression'"),
        (
            "slow",
            "small",
            ConfigError,
            r"differ in image size \(\(\d+, \d+\) and \(\d+, \d+\)\); train both on the same",
        ),
        ("nothing", "fast", CheckpointError, "'hierarchical' needs a trained checkpoint and there is none at"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    checkpoints: Path, slow: str, fast: str | None, error: type[Exception], words: str
) -> None:
    own = HierarchicalOptions(
        checkpoint=checkpoints / slow,
        fast_checkpoint=None if fast is None else checkpoints / fast,
        slow_latency=0.4,
    )
    with pytest.raises(error, match=words):
        policies.load_policy("hierarchical", "store_cereal", own)


@pytest.mark.parametrize("options", [{"slow_latency": 4.0}, {"slow_latency": 0.8, "execute": 2}])
def test_a_video_plan_that_would_be_past_when_it_comes_is_refused(checkpoints: Path, options: dict[str, Any]) -> None:
    own = HierarchicalOptions(checkpoint=checkpoints / "slow", fast_checkpoint=checkpoints / "fast", **options)
    with pytest.raises(ConfigError, match=r"a video plan lasts \S+ s .* past when it comes, and would never be used"):
        policies.load_policy("hierarchical", "store_cereal", own)


@pytest.mark.parametrize("option", [{"weight": 1.5}, {"slow_latency": -1.0}, {"fast_execute": 0}])
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(option)).replace('_', '-')} is "):
        HierarchicalOptions(**option)
