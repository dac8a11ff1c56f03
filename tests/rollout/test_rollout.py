"""Rollouts of the real task through their public door: reproducible, resumable, honest about crashes."""

import csv
import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geo4d_bench.errors import CheckpointError, ConfigError, LedgerError, RunError, SceneError, UnknownNameError
from geo4d_bench.geometry.se3 import pose_error
from geo4d_bench.model.generators import presets
from geo4d_bench.model.types import FirstFrames, Video4D
from geo4d_bench.policies import ActionChunk, Observation, Policy, policy_class
from geo4d_bench.policies.random import Random
from geo4d_bench.rollout import leaderboard
from geo4d_bench.rollout.config import RolloutConfig
from geo4d_bench.rollout.episodes import play
from geo4d_bench.rollout.leaderboard import LeaderboardConfig
from geo4d_bench.rollout.ledger import COLUMNS, REALTIME, WALL_TIME_COLUMNS
from geo4d_bench.rollout.rollout import Rollout, run
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.rollout.views import resolve
from geo4d_bench.tasks import TASKS
from geo4d_bench.tasks.protocols import PROTOCOLS
from geo4d_bench.tasks.rigs import make_rig
from geo4d_bench.tasks.store_cereal import StoreCereal

VIEW_COLUMNS = (
    "run_id",
    "settings",
    "views",
    "camera_n",
    "camera_m",
    "view_angle_deg",
    "elevation_deg",
    "distance_m",
    "baseline_m",
)


def roll(out: Path, **options: object) -> Rollout:
    defaults: dict[str, object] = {"policy": "random", "episodes": 3, "workers": 1, "out": out}
    given = defaults | options
    own = policy_class(str(given["policy"])).Options
    mine = {f.name: given.pop(f.name) for f in dataclasses.fields(own) if f.name in given}
    return run(RolloutConfig(**given, options=own(**mine)))  # type: ignore[arg-type]


def without(folder: Path, columns: Sequence[str] = WALL_TIME_COLUMNS) -> list[dict[str, str]]:
    with (folder / "episodes.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in columns} for row in csv.DictReader(file)]


def test_the_expert_succeeds_and_rows_depend_on_neither_workers_nor_views(tmp_path: Path) -> None:
    one = roll(tmp_path / "one", policy="expert", episodes=2)
    two = roll(tmp_path / "two", policy="expert", episodes=2, workers=2)
    seen = roll(tmp_path / "seen", policy="expert", episodes=1, views="seen")
    assert [row.status for row in one.rows] == ["success", "success"]
    assert [row.phase for row in one.rows] == ["task", "task"]
    assert all(row.privileged for row in one.rows)
    assert without(tmp_path / "one") == without(tmp_path / "two")
    assert one.board.rows == two.board.rows
    also = (*WALL_TIME_COLUMNS, *VIEW_COLUMNS)
    assert without(tmp_path / "one", also)[:1] == without(tmp_path / "seen", also)
    assert one.rows[0].camera_n != seen.rows[0].camera_n
    assert "2/2" in str(one)
    assert one.exit_code == 0


@pytest.mark.usefixtures("short_episodes")
def test_a_second_call_makes_only_what_is_missing(tmp_path: Path) -> None:
    whole = roll(tmp_path, episodes=4)
    assert whole.made == 4
    assert [row.status for row in whole.rows] == ["timeout"] * 4
    assert [row.control_steps for row in whole.rows] == [20] * 4
    before = without(tmp_path)
    ledger = tmp_path / "episodes.csv"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join([*lines[:2], lines[3], lines[4][:30]]))  # one line lost, one cut off
    again = roll(tmp_path, episodes=4)
    assert again.made == 2
    assert without(tmp_path) == before
    assert roll(tmp_path, episodes=4).made == 0
    more = roll(tmp_path, episodes=5)
    assert more.made == 1
    assert without(tmp_path)[:4] == before


@pytest.mark.usefixtures("short_episodes")
def test_a_rollout_goes_on_in_a_ledger_that_other_programs_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roll(tmp_path, episodes=2)
    ledger = tmp_path / "episodes.csv"
    text = ledger.read_text()
    for touched in (
        text.replace(",", ";").replace("\n", "\r\n"),
        pd.read_csv(ledger).to_csv(),
        text.removesuffix("\n"),
    ):
        ledger.write_text(touched)
        assert roll(tmp_path, episodes=2).made == 0
    assert roll(tmp_path, episodes=3).made == 1
    assert "".join(ledger.read_text().splitlines(keepends=True)[:3]) == text
    assert "cut off" not in capsys.readouterr().out
    whole = ledger.read_text()
    ledger.write_text(whole[:-30])
    assert roll(tmp_path, episodes=3).made == 1
    assert "last line was cut off and is dropped; its episode is run again" in capsys.readouterr().out
    ledger.write_text(whole.replace(",timeout,", ",timeout,,"))
    with pytest.raises(LedgerError, match="line 2: 39 cells, expected 38"):
        roll(tmp_path, episodes=4)
    assert ledger.read_text().count(",timeout,,") == 3


PUBLISHED_VIEWS = (*PROTOCOLS, "ring_360", "zoom")
PUBLISHED = [(task, views) for task in TASKS for views in PUBLISHED_VIEWS]
PLAYED = {(task, views) for i, task in enumerate(TASKS) for views in PUBLISHED_VIEWS[i :: len([*TASKS])]}
"""Each task once and each view once; all pairs of them are ``exhaustive``."""


@pytest.mark.parametrize(
    ("task", "views"),
    [pytest.param(*case, marks=() if case in PLAYED else pytest.mark.exhaustive) for case in PUBLISHED],
)
def test_published_protocols_are_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, views: str) -> None:
    spec = TASKS.get(task).spec
    monkeypatch.setattr(TASKS.get(task), "spec", dataclasses.replace(spec, max_seconds=0.1))
    monkeypatch.setattr(Random, "needs_images", True)  # the cheapest policy that looks through cameras
    result = roll(tmp_path, task=task, views=views, episodes=1)
    (row,) = result.rows
    assert (f"{row.task}-{row.task_version}", row.views, row.status) == (spec.key, views, "timeout")
    n, m = resolve(views, make_rig("hemisphere16", spec.workspace)).pair(spec.key, "eval", 1000)
    at = [camera.T_world_cam[:3, 3] for camera in (n, m)]
    away = [float(np.linalg.norm(p - spec.workspace)) for p in at]
    up = [np.arcsin((p[2] - spec.workspace[2]) / r) for p, r in zip(at, away, strict=True)]
    assert (row.camera_n, row.camera_m) == (n.name, m.name)
    found = (row.elevation_deg, row.distance_m, row.fovy_deg, row.baseline_m)
    expected = (np.degrees(np.mean(up)), np.mean(away), np.degrees(n.fovy_rad), np.linalg.norm(at[0] - at[1]))
    assert found == pytest.approx(expected, abs=6e-4)
    assert [line.views for line in result.board.rows] == [views]


def test_a_calibration_error_stands_in_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'random' does not look through cameras, so that --calibration-deg"):
        roll(tmp_path, calibration_deg=2.0)
    with pytest.raises(ConfigError, match=r"--calibration-cm is -1\.0, expected at least 0"):
        roll(tmp_path, calibration_cm=-1.0)
    monkeypatch.setattr(StoreCereal, "spec", dataclasses.replace(StoreCereal.spec, max_seconds=0.1))
    monkeypatch.setattr(Random, "needs_images", True)
    told: list[Observation] = []
    act = Random.act
    monkeypatch.setattr(Random, "act", lambda self, obs: told.append(obs) or act(self, obs))
    sizes = ((0.0, 0.0), (3.0, 0.0), (3.0, 4.0))
    runs = [roll(tmp_path / f"{d}{c}", episodes=1, calibration_deg=d, calibration_cm=c) for d, c in sizes]
    rows = [run.rows[0] for run in runs]
    assert [(row.calibration_deg, row.calibration_cm) for row in rows] == list(sizes)
    assert len({row.settings for row in rows}) == 3
    assert rows[2].title == "random, calibration 3 deg 4 cm off"
    true, turned, both = told
    np.testing.assert_array_equal(true.rgb, both.rgb)
    assert [pose_error(true.T_world_cam_n, obs.T_world_cam_n) for obs in (turned, both)] == [
        pytest.approx((0.0, np.radians(3)), abs=1e-9), pytest.approx((0.04, np.radians(3)), abs=1e-9),
    ]  # fmt: skip
    np.testing.assert_allclose(turned.T_world_cam_n[:3, :3], both.T_world_cam_n[:3, :3])  # one direction a seed


@pytest.mark.usefixtures("short_episodes")
def test_what_a_rollout_leaves(tmp_path: Path) -> None:
    result = roll(tmp_path, episodes=1, video=True)
    with (tmp_path / "episodes.csv").open() as file:
        assert (*next(csv.reader(file)), *REALTIME) == COLUMNS
    assert (tmp_path / "leaderboard.csv").is_file()
    assert (tmp_path / "run.json").is_file()
    with np.load(tmp_path / "trajectories" / "1000.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    assert arrays["right/T_world_ee"].shape == (21, 4, 4)
    assert arrays["right/commanded"].shape == (20, 4, 4)
    plans = arrays["right/plan_T_world_ee"]
    assert plans.shape == (result.rows[0].plans, 4, 4, 4)  # random plans 4 waypoints of 0.4 s
    np.testing.assert_allclose(arrays["plan_time_s"][0], [0.4, 0.8, 1.2, 1.6])
    # The commanded path passes through the first waypoint when it is due.
    np.testing.assert_allclose(arrays["right/commanded"][7], plans[0, 0], atol=1e-6)
    import imageio_ffmpeg

    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "videos" / "1000.mp4")]
    raw = subprocess.run([*decode, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, 256, 640, 3)
    assert len(frames) == 6  # 5 Hz, start and end included
    assert frames[0].std() > 10


@pytest.mark.usefixtures("short_episodes")
def test_a_crash_is_a_row_is_not_ranked_and_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = roll(tmp_path / "clean")
    act = Random.act

    def fragile(self: Random, obs: Observation) -> ActionChunk:
        if abs(obs.T_world_ee["right"][0, 3] - start_x) < 1e-12:
            raise RuntimeError("the roof fell in")
        return act(self, obs)

    task = StoreCereal()
    task.reset(1001, "eval")
    start_x = task.ee_poses()["right"][0, 3]
    with monkeypatch.context() as patch:
        patch.setattr(Random, "act", fragile)
        broken = roll(tmp_path / "broken")
    assert [row.status for row in broken.rows] == ["timeout", "crash", "timeout"]
    assert broken.exit_code == 1
    assert broken.board.rows == ()
    assert "NOT RANKED: random on store_cereal-v1, novel views of hemisphere16, 1 crashed (seed 1001)" in str(broken)
    log = (tmp_path / "broken" / "crashes.log").read_text()
    assert "seed 1001" in log
    assert "the roof fell in" in log
    healed = roll(tmp_path / "broken")
    assert healed.made == 1
    assert healed.exit_code == 0
    assert without(tmp_path / "broken") == without(tmp_path / "clean")
    assert healed.board.rows == clean.board.rows


class Shared(Random):
    """Plans for several episodes in one call, which fails whenever the seed 1001 takes part."""

    calls: list[int] = []  # noqa: RUF012

    @classmethod
    def act_many(cls, policies: Sequence[Policy], observations: Sequence[Observation]) -> list[ActionChunk]:
        cls.calls.append(len(policies))
        if any(getattr(p, "unlucky", False) for p in policies):
            raise RuntimeError("one bad apple")
        return super().act_many(policies, observations)


@pytest.mark.usefixtures("short_episodes")
def test_one_call_serves_several_episodes_and_only_the_one_at_fault_crashes(simulator: Simulator) -> None:
    from geo4d_bench.seeding import derive_seed

    class Unlucky(Shared):
        def reset(self, task, seed):  # type: ignore[no-untyped-def]
            super().reset(task, seed)
            self.unlucky = unlucky_seed is not None and seed == derive_seed(
                "store_cereal-v1", "eval", unlucky_seed, "policy"
            )

    blind = dataclasses.replace(simulator.assets, renderer=None)
    group = [Simulator(StoreCereal(), "eval", simulator.views, blind) for _ in range(2)]

    def ends(simulators: Sequence[Simulator]) -> dict[int, tuple[str | None, list[float]]]:
        found: dict[int, tuple[str | None, list[float]]] = {}

        for e in play([1000, 1001, 1002], simulators, lambda: Unlucky(None)):
            assert e.seed not in found
            found[e.seed] = (e.status, e.simulator.task.physics_state().tolist())
        return found

    unlucky_seed = None
    Shared.calls.clear()
    together = ends(group)
    assert max(Shared.calls) == 2
    assert together == ends(group[:1])
    unlucky_seed = 1001
    with_crash = ends(group)
    assert with_crash[1001][0] == "crash"
    assert {seed: end for seed, end in with_crash.items() if seed != 1001} == {
        seed: end for seed, end in together.items() if seed != 1001
    }


@pytest.mark.usefixtures("short_episodes")
def test_other_rigs_are_views_and_rows_and_trajectories_tell_their_cameras(tmp_path: Path) -> None:
    results = {v: roll(tmp_path / v, policy="expert", views=v, seed=5000) for v in ("orbit", "random16")}
    assert len({result.rows[0].run_id for result in results.values()}) == 2
    poses = []
    for views, result in results.items():
        for row in result.rows:
            assert row.views == views
            assert row.status == "timeout"
            stored = np.load(tmp_path / views / "trajectories" / f"{row.seed}.npz")
            assert stored["camera_names"].tolist() == [row.camera_n, row.camera_m]
            # All three look at the task's workspace, so that azimuths are told by the viewing direction.
            azimuth = np.degrees(np.arctan2(*-stored["T_world_cam"][:, [1, 0], 2].T))
            if views == "orbit":
                np.testing.assert_allclose(azimuth, [int(row.camera_n[2:]), int(row.camera_m[2:])], atol=1e-6)
            else:
                poses.append(stored["T_world_cam"])
    assert len(np.unique(np.round(np.concatenate(poses)[:, :3, 3], 6), axis=0)) == 6


@pytest.mark.usefixtures("short_episodes")
def test_rows_say_through_which_sensor_the_policy_saw(tmp_path: Path) -> None:

    from geo4d_bench.model.layered.generator import LayeredGenerator

    LayeredGenerator(presets().get("layered_debug")).save_pretrained(tmp_path / "debug")
    perfect, stereo = (
        roll(tmp_path / str(s), policy="layered", checkpoint=tmp_path / "debug", episodes=1, sensor=s)
        for s in (None, "stereo")
    )
    assert [result.rows[0].sensor for result in (perfect, stereo)] == ["perfect", "stereo"]
    assert [result.board.rows[0].sensor for result in (perfect, stereo)] == ["perfect", "stereo"]
    assert perfect.rows[0].run_id != stereo.rows[0].run_id
    with pytest.raises(ConfigError, match="given no measured depth, so that --sensor stereo would change nothing"):
        roll(tmp_path / "expert", policy="expert", episodes=1, sensor="stereo")


@pytest.mark.usefixtures("short_episodes")
def test_seen_cameras_are_those_of_the_rig_that_the_checkpoint_was_trained_on(tmp_path: Path) -> None:
    from geo4d_bench.model.layered.generator import LayeredGenerator

    def trained_on(rig: str) -> Path:
        LayeredGenerator(dataclasses.replace(presets().get("layered_debug"), rig=rig)).save_pretrained(tmp_path / rig)
        return tmp_path / rig

    wide = trained_on("wide16")
    ((row,), (same,), (other,)) = (
        roll(tmp_path / str(rig), policy="layered", checkpoint=wide, episodes=1, views="seen", rig=rig).rows
        for rig in (None, "wide16", "hemisphere16")
    )
    assert (row.rig, row.run_id) == ("wide16", same.run_id)
    assert (other.rig, other.run_id == row.run_id) == ("hemisphere16", False)
    assert other.distance_m != row.distance_m
    with pytest.raises(
        ConfigError, match=r"was trained on the rig 'mine', which is none of .*; give its file with --rig"
    ):
        roll(tmp_path / "unknown", policy="layered", checkpoint=trained_on("mine"), episodes=1)


@pytest.mark.usefixtures("short_episodes")
def test_rows_say_which_rooms_were_played_in(tmp_path: Path) -> None:
    results = [roll(tmp_path / r, episodes=1, policy="oracle_video", rooms=r) for r in ("fixed", "held_out")]
    assert [result.rows[0].rooms for result in results] == ["fixed", "held_out"]
    assert [result.board.rows[0].rooms for result in results] == ["fixed", "held_out"]
    assert "oracle_video, held_out rooms on novel views" in str(results[1])
    states = [np.load(tmp_path / r / "trajectories" / "1000.npz")["right/T_world_ee"][0] for r in ("fixed", "held_out")]
    assert np.array_equal(*states)
    board = leaderboard.run(LeaderboardConfig((tmp_path,), tmp_path / "both.csv"))
    assert [(row.rooms, row.group) for row in board.rows] == [("fixed", "a"), ("held_out", "a")]
    with pytest.raises(RunError, match="rooms held_out there, varied asked for"):
        roll(tmp_path / "held_out", episodes=1, policy="oracle_video", rooms="varied")


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=() if task in ("store_cereal", "apple_to_bin") else pytest.mark.exhaustive)
        for task in TASKS
    ],
)
def test_equal_seeds_move_alike_in_all_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    spec = TASKS.get(task).spec
    monkeypatch.setattr(TASKS.get(task), "spec", dataclasses.replace(spec, max_seconds=2.0))
    for rooms in ("fixed", "varied", "held_out"):
        roll(tmp_path / rooms, task=task, policy="expert", episodes=2, rooms=rooms)
    for seed in (1000, 1001):
        fixed, *others = (
            np.load(tmp_path / rooms / "trajectories" / f"{seed}.npz") for rooms in ("fixed", "varied", "held_out")
        )
        for other in others:
            assert {*fixed} == {*other} > {f"{arm}/T_world_ee" for arm in spec.arms}
            assert all(np.array_equal(fixed[name], other[name]) for name in fixed)


@pytest.mark.usefixtures("short_episodes")
def test_the_number_of_steps_reaches_the_generator_and_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    from geo4d_bench.model.layered.generator import LayeredGenerator

    LayeredGenerator(presets().get("layered_debug")).save_pretrained(tmp_path / "debug")
    sampled, generate_batch = [], LayeredGenerator.generate_batch

    def recorded(
        self: LayeredGenerator, first: Sequence[FirstFrames], seeds: Sequence[int], steps: int
    ) -> list[Video4D]:
        sampled.append(steps)
        return generate_batch(self, first, seeds, steps)

    monkeypatch.setattr(LayeredGenerator, "generate_batch", recorded)
    results = []
    for steps, asked in ((None, presets().get("layered_debug").sample_steps), (3, 3)):
        sampled.clear()
        folder = tmp_path / str(steps)
        results.append(roll(folder, policy="layered", checkpoint=tmp_path / "debug", episodes=1, steps=steps))
        assert len(sampled) == results[-1].rows[0].plans > 0
        assert set(sampled) == {asked}
    assert [result.rows[0].steps for result in results] == [0, 3]
    assert [result.board.rows[0].steps for result in results] == [0, 3]
    assert results[0].rows[0].checkpoint == results[1].rows[0].checkpoint
    assert results[0].rows[0].run_id != results[1].rows[0].run_id
    with pytest.raises(RunError, match=r"holds another rollout: steps None there, 3 asked for"):
        roll(tmp_path / "None", policy="layered", checkpoint=tmp_path / "debug", episodes=1, steps=3)


@pytest.mark.usefixtures("short_episodes")
def test_rows_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    roll(tmp_path, episodes=1)
    with pytest.raises(RunError, match=r"another rollout: views novel there, seen asked for; .*another --out"):
        roll(tmp_path, episodes=1, views="seen")


def test_a_missing_checkpoint_names_the_command_that_makes_one(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    with pytest.raises(CheckpointError, match=rf"train --data data/store_cereal --preset layered_nano --out {folder}"):
        roll(tmp_path, policy="layered", checkpoint=folder)
    assert not (tmp_path / "episodes.csv").exists()


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        ({"policy": "oracle_pos"}, UnknownNameError, "oracle_pose"),
        ({"task": "store_cerial"}, UnknownNameError, "store_cereal"),
        ({"rig": "hemisfere16"}, UnknownNameError, "hemisphere16"),
        ({"views": "nowel"}, UnknownNameError, "did you mean 'novel'"),
        ({"rooms": "held"}, UnknownNameError, "did you mean 'held_out'"),
        ({"rig": "orbit"}, ConfigError, "has no seen camera"),
        ({"episodes": 0}, ConfigError, "--episodes is 0"),
        ({"policy": "layered", "steps": 0}, ConfigError, "--steps is 0, expected at least 1"),
        ({"policy": "oracle_video", "tracker": "point_clouds"}, UnknownNameError, "did you mean 'point_cloud'"),
    ],
)
def test_mistakes_are_told_at_once(
    tmp_path: Path, options: dict[str, object], error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        roll(tmp_path, **options)
    assert not (tmp_path / "episodes.csv").exists()


@pytest.mark.parametrize("drawn", [False, True])
def test_a_camera_that_sees_nothing_ends_a_rollout_before_it_plays(tmp_path: Path, drawn: bool) -> None:
    """Of a fixed rig, also one that the first pairs do not use; of a drawn one, the episode's own."""
    away = [f"{{name: c{i}, position: [0.4, -0.{8 - i}, 1.7]}}" for i in range(6)]
    away.append("{name: away, position: [0.9, 0, 1.5], look_at: [0.9, 0, 5]}")
    (rig := tmp_path / "mine.YML").write_text(
        "shell: {azimuth_deg: [80, 90], elevation_deg: [10, 20], radius_m: [8, 9], novel: 2}"
        if drawn
        else f"cameras: [{', '.join(away)}]"
    )
    with pytest.raises(SceneError, match=f"camera '{'cam0.' if drawn else 'away'}' at .* sees nothing"):
        roll(tmp_path / "out", policy="random", views=str(rig), video=True, episodes=1)
    assert not (tmp_path / "out" / "episodes.csv").exists()
