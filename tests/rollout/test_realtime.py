"""Real time: which actions are late, by hand, on a toy world; and the same rows again on the real one."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geo4d_bench.errors import ConfigError, RunError
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.model.generators import presets
from geo4d_bench.policies import ActionChunk, Observation, Policy, TaskInfo
from geo4d_bench.policies.generated import Layered
from geo4d_bench.policies.hierarchical import HierarchicalOptions
from geo4d_bench.policies.random import Random
from geo4d_bench.rollout import board_check, leaderboard, workers
from geo4d_bench.rollout.board_check import BoardCheckConfig
from geo4d_bench.rollout.config import RolloutConfig, prepare
from geo4d_bench.rollout.episodes import Episode, play
from geo4d_bench.rollout.leaderboard import LeaderboardConfig
from geo4d_bench.rollout.ledger import REALTIME, WALL_TIME_COLUMNS
from geo4d_bench.rollout.rollout import Rollout, run
from geo4d_bench.rollout.simulator import Simulator, commands
from geo4d_bench.tasks import Command

ARM, HZ, STEPS = "arm", 10.0, 12


def roll(out: Path, **options: Any) -> Rollout:
    return run(RolloutConfig(**{"policy": "random", "workers": 1, "out": out} | options))


def without(folder: Path) -> list[dict[str, str]]:
    """Rows without wall times."""
    with (folder / "episodes.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in WALL_TIME_COLUMNS} for row in csv.DictReader(file)]


class ToyTask:
    """A hand that is at once where it is commanded, and a target that moves by 1 m a control step."""

    spec = SimpleNamespace(
        id="toy", version="v1", key="toy-v1", arms=(ARM,), language="", control_hz=HZ, max_seconds=STEPS / HZ,
        closed_below_m=0.01,
    )  # fmt: skip

    def reset(self, seed: int, split: str) -> None:
        self.at, self.opening, self.target = 0.0, 0.05, 0

    def step(self, command: Command) -> None:
        self.at, self.opening = float(command.T_world_ee[ARM][0, 3]), command.opening_m[ARM]
        self.target += 1

    def ee_poses(self) -> dict[str, np.ndarray]:
        return {ARM: pose(np.eye(3), (self.at, 0, 0))}

    def openings(self) -> dict[str, float]:
        return {ARM: self.opening}

    def success(self) -> dict[str, bool]:
        return {"task": False}

    def failure(self) -> None:
        return None

    def expert(self) -> None:
        return None


class Numbered(Policy):
    """Its k-th plan goes to k + .01, k + .02 ..., a waypoint a control step, with openings of the same numbers."""

    name, needs_images, number = "numbered", False, 4

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.made = 0
        self.clock: list[float] = []

    def places(self) -> np.ndarray:
        self.made += 1
        return self.made + 0.01 * np.arange(1, 1 + self.number)

    def act(self, obs: Observation) -> ActionChunk:
        self.clock.append(self.clock_s)
        x = self.places()
        return ActionChunk({ARM: np.stack([pose(np.eye(3), (each, 0, 0)) for each in x])}, {ARM: x}, 1 / HZ)


class Chasing(Numbered):
    """Sees the target, and goes there and nowhere else."""

    privileged = True

    def places(self) -> np.ndarray:
        return np.full(self.number, float(self.simulator.task.target))  # type: ignore[union-attr]


def played(policy: type[Numbered], number: int, latency_s: float) -> tuple[Episode, list[float]]:
    """The episode, and where the hand was commanded at each control step."""
    camera = SimpleNamespace(T_world_cam=np.eye(4), K=lambda height, width: np.eye(3))
    views: Any = SimpleNamespace(pair=lambda *_: (camera, camera), angle_deg=lambda _: 0.0)
    assets: Any = SimpleNamespace(renderer=None, hand=None)
    task: Any = ToyTask()
    simulator = Simulator(task, "eval", views, assets, latency_s=latency_s)
    made = type("Policy", (policy,), {"number": number})
    (episode,) = play([1], [simulator], lambda: made(None))
    assert episode.crash is None, episode.crash
    return episode, [round(float(T[0, 3]), 9) for T in simulator.record.commanded[ARM]]


# By hand: of a plan of four, the first ``late`` actions are past when it comes, and the last ``late`` are carried out
# while the next one is made.
@pytest.mark.parametrize(
    ("latency_s", "commanded", "made_at", "stale", "idle"),
    [
        (0.0, [1.01, 1.02, 1.03, 1.04, 2.01, 2.02, 2.03, 2.04, 3.01, 3.02, 3.03, 3.04], [0, 4, 8], 0, 0),
        (0.1, [0, 1.02, 1.03, 1.04, 2.02, 2.03, 2.04, 3.02, 3.03, 3.04, 4.02, 4.03], [0, 3, 6, 9], 4, 1),
        (0.05, [0, 1.02, 1.03, 1.04, 2.02, 2.03, 2.04, 3.02, 3.03, 3.04, 4.02, 4.03], [0, 3, 6, 9], 4, 1),  # rounded up
        (0.2, [0, 0, 1.03, 1.04, 2.03, 2.04, 3.03, 3.04, 4.03, 4.04, 5.03, 5.04], [0, 2, 4, 6, 8, 10], 12, 2),
        (0.3, [0, 0, 0, 1.04, 1.04, 1.04, 2.04, 2.04, 2.04, 3.04, 3.04, 3.04], [0, 3, 6, 9], 12, 9),
        (0.4, [0] * 12, [0, 4, 8], 12, 12),
    ],
)
def test_late_actions_are_as_computed_by_hand(
    latency_s: float, commanded: list[float], made_at: list[int], stale: int, idle: int
) -> None:
    episode, found = played(Numbered, 4, latency_s)
    assert found == commanded
    assert [round(t * HZ) for t in episode.policy.clock] == made_at  # type: ignore[attr-defined]
    simulator = episode.simulator
    assert (episode.plans, simulator.stale_steps, simulator.idle_steps) == (len(made_at), stale, idle)
    assert simulator.record.plan_step == made_at[: len(simulator.record.plans)]
    openings = [round(each, 9) for each in simulator.record.opening_m[ARM]][1:]
    assert openings == [x or 0.05 for x in commanded]  # held as it was until the first plan came


def test_a_moving_target_is_missed_by_how_far_it_goes_while_the_policy_plans() -> None:
    distance = []
    for late, number in ((0, 1), (1, 2), (2, 3)):
        _, at = played(Chasing, number, late / HZ)
        distance.append([step - x for step, x in enumerate(at, 1)])
    assert distance == [[1] * 12, [1, *[2] * 11], [1, 2, *[3, 4] * 5]]


def test_a_late_plan_goes_from_where_the_hand_was_told_to_be_to_its_next_waypoint() -> None:
    chunk = ActionChunk(
        {ARM: np.stack([pose(np.eye(3), (x, 0, 0)) for x in (0.1, 0.3)])}, {ARM: np.array([0.0, 0.08])}, 0.4
    )

    def x(past: int) -> list[float]:
        return [float(c.T_world_ee[ARM][0, 3]) for c in commands(chunk, {ARM: pose(np.eye(3), (0.5, 0, 0))}, HZ, past)]

    np.testing.assert_allclose(x(2), [0.3, 0.1, 0.15, 0.2, 0.25, 0.3])
    np.testing.assert_allclose(x(4), [0.45, 0.4, 0.35, 0.3])  # the first waypoint is just past
    np.testing.assert_allclose(x(7), [0.3])
    assert x(8) == x(9) == []
    assert [c.opening_m[ARM] for c in commands(chunk, {ARM: pose()}, HZ, 2)] == [0.0, 0.0, *[0.08] * 4]


@pytest.mark.usefixtures("short_episodes")
def test_rows_in_real_time_are_the_same_again_and_those_of_a_stopped_clock_are_as_ever(tmp_path: Path) -> None:
    stopped = roll(tmp_path / "stopped", episodes=1)
    assert not set(REALTIME) & without(tmp_path / "stopped")[0].keys()
    assert stopped.rows[0].run_id == prepare(RolloutConfig(policy="random", realtime=0.0)).run_id

    once = roll(tmp_path / "once", episodes=2, realtime=0.5)
    roll(tmp_path / "twice", episodes=1, realtime=0.5)
    assert roll(tmp_path / "twice", episodes=2, realtime=0.5).made == 1
    assert without(tmp_path / "once") == without(tmp_path / "twice")
    (row, *_) = once.rows
    # Of a second, the first half waits; then a plan of 1.6 s is carried out, of which 1.1 s are left.
    assert (row.latency_s, row.stale_share, row.idle_share, row.plan_hz) == (0.5, 0.5, 0.5, 1.0)
    assert row.settings != stopped.rows[0].settings
    assert row.title == "random, real time 0.5 s"
    with pytest.raises(RunError, match=r"latency_s 0\.5 there, 0\.2 asked for"):
        roll(tmp_path / "once", realtime=0.2)
    with pytest.raises(RunError, match=r"latency_s 0\.5 there, None asked for"):
        roll(tmp_path / "once")

    board = leaderboard.run(LeaderboardConfig((tmp_path / "stopped", tmp_path / "once"), tmp_path / "leaderboard.csv"))
    assert [(r.latency_s, r.stale_share, r.plan_hz) for r in board.rows] == [(0.0, None, None), (0.5, 0.5, 1.0)]
    assert board.table()[0].endswith("stale  idle  plans/s")
    assert board_check.run(BoardCheckConfig((tmp_path / "leaderboard.csv",))).faults == ()
    ledger = tmp_path / "once" / "episodes.csv"
    ledger.write_text(ledger.read_text().replace(",0.500,0.500,0.500,1.000", ",0.500,0.500,0.500,1.100", 1))
    assert board_check.run(BoardCheckConfig((tmp_path / "leaderboard.csv",))).faults


@pytest.mark.usefixtures("short_episodes")
def test_a_measured_latency_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = workers.measure_latency_s
    first = roll(tmp_path / "a", episodes=1, realtime="measured")
    assert "a plan of random takes" in capsys.readouterr().out
    assert first.rows[0].latency_s >= 0.05
    assert first.rows[0].latency_s % 0.05 == pytest.approx(0.0, abs=1e-9)

    for measured, made in ((0.31, 1), (0.62, 0)):
        monkeypatch.setattr(workers, "measure_latency_s", lambda _, seconds=measured: seconds)
        again = roll(tmp_path / "b", episodes=1, realtime="measured")
        assert (again.rows[0].latency_s, again.made) == (0.35, made)  # in whole control steps
    assert roll(tmp_path / "b", episodes=1, realtime=0.35).made == 0
    monkeypatch.setattr(workers, "measure_latency_s", measure)

    def fail(self: Random, obs: Observation) -> ActionChunk:
        raise ValueError("no plan")

    monkeypatch.setattr(Random, "act", fail)
    with pytest.raises(RunError, match="while its latency was measured on seed 1000: ValueError: no plan; mend"):
        roll(tmp_path / "c", realtime="measured")


@pytest.mark.usefixtures("short_episodes")
def test_plans_that_are_always_past_are_said_to_be(tmp_path: Path) -> None:
    result = roll(tmp_path, policy="expert", episodes=1, realtime=0.1)
    assert result.rows[0].idle_share == 1.0
    assert (
        "expert, real time 0.1 s on store_cereal-v1, novel views of hemisphere16 never moved: when a plan came, its "
        "waypoints were past"
    ) in str(result)


@pytest.mark.usefixtures("short_episodes")
def test_a_slow_and_a_fast_policy_play_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geo4d_bench.model.layered.generator import LayeredGenerator

    config = presets().get("layered_debug")
    for name, each in (("slow", config), ("fast", config.with_ablation("trajectory_regression"))):
        LayeredGenerator(each).save_pretrained(tmp_path / name)
    videos: list[float] = []
    act = Layered.act
    monkeypatch.setattr(Layered, "act", lambda self, obs: videos.append(1.0) or act(self, obs))
    own = HierarchicalOptions(
        checkpoint=tmp_path / "slow", fast_checkpoint=tmp_path / "fast", execute=2, slow_latency=0.4
    )
    (row,) = roll(tmp_path / "run", policy="hierarchical", episodes=1, realtime=0.1, options=own).rows
    assert (row.status, row.latency_s, row.generator) == ("timeout", 0.1, "layered")
    # A correction every .3 s. A video plan of .8 s is there .6 s after it was asked for, when .2 s of it are left.
    assert (row.plans, len(videos)) == (4, 2)
    assert (row.stale_share, row.idle_share) == (0.4, 0.1)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 101.0])
def test_a_latency_out_of_range_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match=f"--realtime is {seconds}, expected at (least 0|most 100)"):
        roll(tmp_path, realtime=seconds)
