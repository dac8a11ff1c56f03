"""Error budgets of policies with a planted fault, on a task that is simulated in a moment."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from episode_rows import ledger
from hostile.quick_task import QuickTask

from geo4d_bench import tasks
from geo4d_bench.errors import ConfigError, LedgerError
from geo4d_bench.geometry.se3 import inverse, pose
from geo4d_bench.model.types import EETrajectory, Video4D
from geo4d_bench.policies import POLICIES, ActionChunk, Observation, Policy, PolicyFactory, load_policy
from geo4d_bench.policies.generated import GeneratedVideo, GeneratorOptions, Geo4D, Layered
from geo4d_bench.policies.oracles import OraclePose, OracleVideo
from geo4d_bench.policies.protocol import PlanOptions
from geo4d_bench.policies.trajectory_regression import TrajectoryRegression
from geo4d_bench.policies.true_stages import STAGES, lacking, with_truth
from geo4d_bench.rendering import renderer
from geo4d_bench.report import error_budget
from geo4d_bench.rollout import assets
from geo4d_bench.rollout.config import RolloutConfig
from geo4d_bench.rollout.leaderboard import CHOSEN_EPISODES, files_like_ledgers, find_ledgers
from geo4d_bench.rollout.ledger import EpisodeRow, Ledger
from geo4d_bench.rollout.rollout import Rollout
from geo4d_bench.tasks import TASKS
from geo4d_bench.tasks.base import Command, Expert

FAULTY_SEED = 1001
CLOSED_M, FRAMES, DT_S = 0.06, 2, 0.3


class Press(QuickTask):
    """Close the hand at a place 4 cm to the side, within one plan."""

    spec = dataclasses.replace(QuickTask.spec, id="press", max_seconds=FRAMES * DT_S)

    def reset(self, seed: int, split: str) -> None:
        super().reset(seed, split)
        self._goal[1, 3] -= 0.02

    def update_phases(self, done: dict[str, bool]) -> None:
        near = np.linalg.norm(self.ee_poses()["right"][:3, 3] - self._goal[:3, 3]) < 0.02
        done["task"] |= bool(near and self.openings()["right"] < CLOSED_M)

    def expert(self) -> Expert:
        return _Press(self._goal)


class _Press(Expert):
    def __init__(self, goal: np.ndarray) -> None:
        self._goal = goal

    def command(self) -> Command:
        return Command({"right": self._goal}, {"right": 0.0})


class OpenHand(OraclePose):
    """Where the hand goes is true, and it never closes."""

    name = "open_hand"

    def act(self, obs: Observation) -> ActionChunk:
        chunk = super().act(obs)
        return dataclasses.replace(chunk, opening_m={"right": np.full(len(chunk.opening_m["right"]), 0.08)})


class SometimesOpenHand(OpenHand):
    """The same, in one of the episodes."""

    name = "sometimes_open_hand"

    def act(self, obs: Observation) -> ActionChunk:
        faulty = self.simulator._seed == FAULTY_SEED  # type: ignore[union-attr]
        return super().act(obs) if faulty else OraclePose.act(self, obs)


class Still(OraclePose):
    """The hand closes where it is."""

    name = "still"

    def act(self, obs: Observation) -> ActionChunk:
        chunk = super().act(obs)
        here = np.repeat(obs.T_world_ee["right"][None], len(chunk.T_world_ee["right"]), 0)
        return dataclasses.replace(chunk, T_world_ee={"right": here})


class StillAndOpen(OpenHand, Still):
    name = "still_and_open"


class Projected(OraclePose):
    """Knows the true future in camera n's frame, and takes it to the world with the pose that it is told."""

    name = "projected"
    needs_images = True

    def act(self, obs: Observation) -> ActionChunk:
        chunk = super().act(obs)
        T_told_true = obs.T_world_cam_n @ inverse(self.simulator.cameras[0].T_world_cam)  # type: ignore[union-attr]
        return dataclasses.replace(chunk, T_world_ee={"right": T_told_true @ chunk.T_world_ee["right"]})


class Unlabelled(OracleVideo):
    """True frames in which nothing is labelled as a hand."""

    name = "unlabelled"

    def act(self, obs: Observation) -> ActionChunk:
        video = self.simulator.expert_future(FRAMES, DT_S, video=True).video  # type: ignore[union-attr]
        return self.chunk_from_video(dataclasses.replace(video, parts=np.zeros_like(video.parts)), obs)


class Lost(TrajectoryRegression):
    """A generator that knows the future in the world, and has its cameras 20 cm off."""

    name = "lost"
    needs_checkpoint, privileged = False, True
    Options: ClassVar[type] = PlanOptions

    @classmethod
    def load(cls, options: Any) -> PolicyFactory:
        def build() -> Policy:
            policy = cls(options, SimpleNamespace(cameras_given=False, config=CONFIG, predict_trajectory=None))
            policy.generator.predict_trajectory = lambda conditions: [policy.predict(*conditions)]
            return policy

        return PolicyFactory(cls, build, image_size=(CONFIG.height, CONFIG.width), finds_cameras=True)

    def predict(self, first: Any) -> EETrajectory:
        T_world_n = self.simulator.cameras[0].T_world_cam  # type: ignore[union-attr]
        found = first.T_world_cam[0] if self.generator.cameras_given else pose(np.eye(3), np.full(3, 0.2)) @ T_world_n
        future = self.simulator.expert_future(FRAMES, DT_S, video=False)  # type: ignore[union-attr]
        return EETrajectory((inverse(found) @ future.T_world_ee["right"])[None], future.opening_m["right"][None])


CONFIG = SimpleNamespace(height=64, width=80, dt_s=DT_S)
SHARED: dict[str, Any] = {}
"""The simulation and what is drawn of it, made once: an episode begins it anew."""
POLICIES_WITH_FAULTS = (OpenHand, SometimesOpenHand, Still, StillAndOpen, Projected, Unlabelled, Lost)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._entries, "press", Press)
    if not SHARED:
        task = tasks.make("press")
        drawn = assets.make_assets(task)
        SHARED.update(task=task, assets=drawn, renderer=renderer.Renderer(drawn.scene, 64, 80))
    monkeypatch.setattr(tasks, "make", lambda _: SHARED["task"])
    monkeypatch.setattr(assets, "make_assets", lambda *_: SHARED["assets"])
    monkeypatch.setattr(renderer, "Renderer", lambda *_: SHARED["renderer"])
    monkeypatch.setattr(SHARED["renderer"], "close", lambda: None)
    for policy in POLICIES_WITH_FAULTS:
        monkeypatch.setitem(POLICIES._entries, policy.name, policy)


def budget(out: Path, policy: type[Policy], **options: Any) -> error_budget.ErrorBudget:
    given = {"episodes": 1, "seed": FAULTY_SEED} | options
    return error_budget.run(
        RolloutConfig("press", policy.name, workers=1, options=policy.Options(execute=FRAMES), out=out, **given)
    )


@pytest.mark.parametrize(
    ("policy", "options", "expected"),
    [
        (Still, {}, "poses"),
        (StillAndOpen, {}, "several stages together"),
        (Projected, {"calibration_cm": 20.0}, "first_frames or poses"),
        (Unlabelled, {}, "parts"),
        (Lost, {}, "cameras or poses"),
    ],
)
def test_the_stage_with_the_fault_is_to_blame(
    tmp_path: Path, policy: type[Policy], options: dict[str, Any], expected: str
) -> None:
    found = budget(tmp_path, policy, **options)
    assert found.blame["blame"].tolist() == [expected]
    assert f"to blame: {expected}: 1" in str(found)
    assert found.exit_code == 0


def test_lost_episodes_alone_are_played_again_and_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = budget(folder, SometimesOpenHand, seed=FAULTY_SEED - 1, episodes=2)
    assert [row.success for row in found.played.rows] == [True, False]
    out = folder / "error_budget"
    table = pd.read_csv(out / "replacements.csv")
    assert [tuple(row) for row in table.to_numpy()] == [
        (FAULTY_SEED, "poses", "timeout", False),
        (FAULTY_SEED, "openings", "success", True),
        (FAULTY_SEED, "plan", "success", True),
    ]
    shares = pd.read_csv(out / "shares.csv").set_index("replacement").loc["openings"]
    assert tuple(shares.drop("p")) == pytest.approx((1, 1, 1.0, 0.2065, 1.0, 1))
    assert np.isnan(shares["p"])  # the policy has no noise
    assert (out / "error_budget.png").stat().st_size > 5000
    assert "left out: true first frames: it looks at nothing" in str(found)
    (before,), path = found.played.rows[1:], out / "openings" / CHOSEN_EPISODES
    (row,) = Ledger(path).rows()
    same = ("camera_n", "camera_m", "seed", "episode", "task", "views", "sensor", "fingerprint")
    assert all(getattr(row, name) == getattr(before, name) for name in same)
    assert (row.title, row.privileged) == ("sometimes_open_hand, true openings", True)
    boards = [folder / "episodes.csv"]
    assert (find_ledgers(tmp_path), files_like_ledgers(tmp_path)) == (boards, boards)
    for find in (find_ledgers, files_like_ledgers):
        with pytest.raises(LedgerError, match="seeds were chosen by how an episode ended"):
            find(path)
    text, written = str(found), path.stat().st_mtime_ns
    assert str(budget(folder, SometimesOpenHand, seed=FAULTY_SEED - 1, episodes=2)) == text
    assert path.stat().st_mtime_ns == written


def test_a_crash_under_a_replacement_is_not_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(STAGES["openings"].mixin, "_mended", fail)
        found = budget(tmp_path, OpenHand)
    assert found.blame["blame"].tolist() == ["unknown"]
    assert found.exit_code == 1
    assert "1 crashed with openings replaced" in str(found)
    assert budget(tmp_path, OpenHand).blame["blame"].tolist() == ["openings"]


def test_nothing_lost_has_no_budget(tmp_path: Path) -> None:
    found = budget(tmp_path, OraclePose)
    assert "0 of 1 episodes lost" in str(found)
    assert (len(found.replacements), found.exit_code) == (0, 0)
    with pytest.raises(ConfigError, match="replaces every stage in turn, got replacement 'poses'"):
        budget(tmp_path, OraclePose, replacement="poses")


def test_a_policy_whose_stages_cannot_be_replaced_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(OpenHand):
        @classmethod
        def load(cls, options: Any) -> PolicyFactory:
            return PolicyFactory(cls, lambda: Fixed(options))

    monkeypatch.setitem(POLICIES._entries, "fixed", Fixed)
    with pytest.raises(ConfigError, match=r"load\(\) of Fixed .* with cls\("):
        load_policy("fixed", "press", replacement="poses")


def test_shares_and_picture_of_a_made_up_policy(tmp_path: Path) -> None:
    """Openings alone win every second episode, poses every third, the last one needs both."""
    wins = {"openings": 2, "poses": 3, "noise": 8}
    found: dict[Any, dict[int, EpisodeRow]] = {}
    for name in STAGES:
        rows = Ledger(ledger(tmp_path / name, "made_up", 0, n=24) / "episodes.csv").rows()
        won = [name == "plan" or (name in wins and row.episode % wins[name] == 1 and row.episode < 23) for row in rows]
        found[name] = {
            row.seed: dataclasses.replace(row, success=success, status="success" if success else "timeout")
            for row, success in zip(rows, won, strict=True)
        }
    rows = Ledger(ledger(tmp_path, "made_up", 0, n=24) / "episodes.csv").rows()
    played = Rollout(rows, 0, SimpleNamespace(exit_code=0), tmp_path)  # type: ignore[arg-type]
    made = error_budget._budget(played, rows, found, (), tmp_path)
    counts = made.blame["blame"].value_counts().to_dict()
    # Openings: 1, 3, .. 21; poses: 1, 4, .. 22; of both: 1, 7, 13, 19.
    assert counts == {"openings": 7, "poses": 4, "poses or openings": 4, "several stages together": 9}
    shares = made.shares.set_index("replacement")
    assert shares["won"].to_dict() == {
        "first_frames": 0, "cameras": 0, "parts": 0, "poses": 8, "openings": 11, "plan": 24, "noise": 3,
    }  # fmt: skip
    assert made.blame["won_with_other_noise"].sum() == 3
    # Other noise wins 1, 9, 17: openings these and 8 more, poses one of them and 7 more. Exact McNemar, Holm of five.
    assert shares["p"].to_dict() == pytest.approx(
        {
            "first_frames": 3 * 2 / 2**3, "cameras": 3 * 2 / 2**3, "parts": 3 * 2 / 2**3,
            "poses": 4 * 2 * (1 + 9 + 36) / 2**9, "openings": 5 * 2 / 2**8, "plan": np.nan, "noise": np.nan,
        },
        nan_ok=True,
    )  # fmt: skip
    error_budget._picture(made, tmp_path / "made_up.png")
    assert (tmp_path / "made_up.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("won", "expected"),
    [
        ({"plan", "poses", "openings"}, "poses or openings"),
        ({"plan", "first_frames"}, "first_frames"),
        ({"plan", "noise"}, "several stages together"),
        ({"openings"}, "openings"),
        ({"noise"}, "not the plan"),
        (set(), "not the plan"),
    ],
)
def test_blame(won: set[str], expected: str) -> None:
    assert error_budget.blame({name: name in won for name in STAGES}) == expected


@pytest.mark.parametrize(
    ("policy", "sees_truth", "expected"),
    [
        ("layered", True, {"first_frames"}),
        ("layered", False, set()),
        ("layered_calibrated", False, {"cameras"}),
        ("geo4d", False, set()),  # its tracker searches
        ("geo4d_calibrated", False, {"cameras"}),
        ("trajectory_regression", False, {"parts", "noise"}),
        ("hierarchical", False, {"cameras", "parts", "noise"}),  # of two policies
        ("random", True, {"first_frames", "cameras", "parts", "noise"}),
    ],
)
def test_stages_that_a_policy_does_not_have_are_left_out(policy: str, sees_truth: bool, expected: set[str]) -> None:
    kind = POLICIES.get(policy)
    factory = PolicyFactory(
        kind,
        lambda: kind(GeneratorOptions()),
        finds_cameras=policy in ("layered", "trajectory_regression", "hierarchical"),
    )
    assert {name for name in STAGES if lacking(name, factory, sees_truth)} == expected


class Stub(SimpleNamespace):
    """What a policy keeps of a generator until it plans."""

    config = CONFIG
    cameras_given = False


def test_true_cameras_of_a_video_are_those_of_the_simulator() -> None:
    generator = Stub()
    policy = with_truth(Geo4D, "cameras")(GeneratorOptions(), generator)  # type: ignore[call-arg]
    assert generator.cameras_given
    T_n, T_m = pose(np.eye(3), np.array([1.0, 0, 0])), pose(np.eye(3), np.array([0, 2.0, 0]))
    true = SimpleNamespace(T_world_cam_n=T_n, T_world_cam_m=T_m)
    policy.simulator = SimpleNamespace(true_observation=lambda **_: true)  # type: ignore[attr-defined]
    np.testing.assert_allclose(policy.view_m(None)[:3, 3], [-1, 2, 0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Geo4D, Layered])
def test_other_noise_is_other_noise_at_every_plan(kind: type[GeneratedVideo]) -> None:
    drawn = set()
    for made in (kind, with_truth(kind, "noise")):
        policy: Any = made(GeneratorOptions(), Stub())  # type: ignore[call-arg]
        policy.task, policy.seed, policy._plans = SimpleNamespace(id="press", version="v1"), 7, 0
        drawn |= {policy.next_seed() for _ in range(4)}
    assert len(drawn) == 8


def test_true_parts_leave_generated_openings_as_they_are() -> None:
    parts, points = np.zeros((2, 3, 4, 5), dtype=np.uint8), np.zeros((2, 3, 4, 5, 3), dtype=np.float32)
    video = Video4D(points.astype(np.uint8), points, parts, np.tile(np.eye(3), (2, 1, 1)), DT_S, np.full((1, 3), 0.02))
    policy = with_truth(OracleVideo, "parts")(OracleVideo.Options())
    future = SimpleNamespace(video=dataclasses.replace(video, parts=parts + 1, opening_m=None))
    policy.simulator = SimpleNamespace(expert_future=lambda *_, **__: future)  # type: ignore[attr-defined]
    labelled = policy.labelled(video, np.eye(4)[None], np.zeros(1))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(labelled.parts, parts + 1)
    np.testing.assert_array_equal(labelled.opening_m, video.opening_m)
