"""Leaderboards from episode rows alone."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from episode_rows import ledger

from geo4d_bench.errors import LedgerError
from geo4d_bench.evaluation.statistics import wilson
from geo4d_bench.rollout.leaderboard import LeaderboardConfig, run
from geo4d_bench.rollout.ledger import Ledger

COLUMNS = (
    "task,task_version,policy,generator,ablation,checkpoint,views,rig,rooms,sensor,calibration_deg,calibration_cm,tracker,segmenter,"
    "steps,n,k,success_rate,ci_low,ci_high,group,privileged,rows_sha256,settings,fingerprint"
)


def test_the_board_says_rates_intervals_and_groups(tmp_path: Path) -> None:
    runs = tuple(ledger(tmp_path, policy, k) for policy, k in (("random", 0), ("mine", 12), ("expert", 20)))
    board = run(LeaderboardConfig(runs, tmp_path / "board.csv"))
    assert [(row.policy, row.k, row.n, row.group) for row in board.rows] == [
        ("expert", 20, 20, "a"),
        ("mine", 12, 20, "b"),
        ("random", 0, 20, "c"),
    ]
    assert (board.rows[1].ci_low, board.rows[1].ci_high) == wilson(12, 20)
    lines = (tmp_path / "board.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    written = list(csv.DictReader(lines))
    assert [w["privileged"] for w in written] == ["true", "false", "false"]
    assert "12/20" in str(board)
    assert board.exit_code == 0


@pytest.mark.parametrize(("k", "told_apart"), [(7, True), (5, False)])
def test_a_trained_policy_that_may_be_chance_is_said_to_be(tmp_path: Path, k: int, told_apart: bool) -> None:
    runs = ledger(tmp_path, "random", 0, n=10), ledger(tmp_path, "mine", k, n=10, checkpoint="c" * 64)
    notes = run(LeaderboardConfig(runs, tmp_path / "board.csv")).notes()
    said = [
        note
        for note in notes
        if note.startswith(f"the intervals of mine on store_cereal-v1, novel views of hemisphere16 ({k}/10")
    ]
    assert bool(said) != told_apart


def test_failures_are_told_by_phase_beside_the_rate(tmp_path: Path) -> None:
    folder = ledger(tmp_path, "mine", 3, n=3)
    for first, number, phase in ((3, 2, "lifted"), (5, 4, "start"), (9, 2, "grasped")):
        for seed in range(1000 + first, 1000 + first + number):
            row = dataclasses.replace(Ledger(folder / "episodes.csv").read().rows[0], seed=seed, episode=seed - 1000)
            failed = dataclasses.replace(row, status="failure", success=False, phase=phase)
            Ledger(folder / "episodes.csv").append(failed)
    board = run(LeaderboardConfig((folder,), tmp_path / "board.csv"))
    assert (board.rows[0].k, board.rows[0].n) == (3, 11)
    assert board.rows[0].failed_after == (("start", 4), ("grasped", 2), ("lifted", 2))
    header, line = board.table()
    assert header.endswith("failed after")
    assert line.endswith("start 4, grasped 2, lifted 2")
    assert (tmp_path / "board.csv").read_text().splitlines()[0] == COLUMNS  # scripts read these and no others


def test_a_run_with_a_crash_is_not_ranked_until_run_again(tmp_path: Path) -> None:
    runs = (ledger(tmp_path, "expert", 20), ledger(tmp_path, "mine", 3, n=6, status="crash", success=False))
    config = LeaderboardConfig(runs, tmp_path / "board.csv")
    board = run(config)
    assert [row.policy for row in board.rows] == ["expert"]
    assert board.exit_code == 1
    assert "NOT RANKED: mine on store_cereal-v1, novel views of hemisphere16, 6 crashed (seed 1000, 1001" in str(board)
    ledger(tmp_path, "mine", 3, n=6)
    assert [(row.policy, row.n) for row in run(config).rows] == [("expert", 20), ("mine", 6)]


def test_wall_times_do_not_change_the_hash(tmp_path: Path) -> None:
    boards = [
        run(LeaderboardConfig((ledger(tmp_path / name, "mine", 3, wall_s=wall_s),), tmp_path / f"{name}.csv"))
        for name, wall_s in (("slow", 9.0), ("fast", 1.0))
    ]
    assert boards[0].rows == boards[1].rows
    assert (tmp_path / "slow.csv").read_bytes() == (tmp_path / "fast.csv").read_bytes()


def test_a_run_given_twice_counts_once_but_a_contradiction_is_refused(tmp_path: Path) -> None:
    one = ledger(tmp_path / "a", "mine", 3)
    assert run(LeaderboardConfig((one, one / "episodes.csv", tmp_path / "a"), tmp_path / "b.csv")).rows[0].n == 20
    other = ledger(tmp_path / "b", "mine", 4)
    with pytest.raises(LedgerError, match="differ on seed 1003"):
        run(LeaderboardConfig((one, other), tmp_path / "b.csv"))
    overlapping = ledger(tmp_path / "c", "mine", 4, run_id="f" * 16)
    with pytest.raises(LedgerError, match="seed 1000 twice"):
        run(LeaderboardConfig((one, overlapping), tmp_path / "b.csv"))


def test_a_run_at_another_commit_of_the_same_code_is_the_same_run(tmp_path: Path) -> None:
    runs = tuple(ledger(tmp_path / commit, "mine", 3, commit=commit) for commit in ("abc", "def+"))
    assert [(row.k, row.n) for row in run(LeaderboardConfig(runs, tmp_path / "b.csv")).rows] == [(3, 20)]


def shifted(folder: Path, by: int) -> None:
    """The ledger's episodes with other seeds, as a run that began elsewhere."""
    rows = Ledger(folder / "episodes.csv").read().rows
    (folder / "episodes.csv").unlink()
    for row in rows:
        Ledger(folder / "episodes.csv").append(dataclasses.replace(row, seed=row.seed + by, run_id="f" * 16))


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, [(18, 40)]),  # one setting, more seeds
        ({"settings": "e" * 16}, [(15, 20), (3, 20)]),  # say, another --execute
        ({"rig": "random16", "settings": "e" * 16}, [(15, 20), (3, 20)]),
    ],
)
def test_only_runs_of_equal_settings_are_counted_together(
    tmp_path: Path, changes: dict[str, str], lines: list[tuple[int, int]]
) -> None:
    one, other = ledger(tmp_path / "a", "mine", 15), ledger(tmp_path / "b", "mine", 3, **changes)
    shifted(other, 1000)
    board = run(LeaderboardConfig((one, other), tmp_path / "b.csv"))
    assert sorted((row.k, row.n) for row in board.rows) == sorted(lines)


def test_runs_from_other_rigs_are_not_paired_by_seed(tmp_path: Path) -> None:
    one = ledger(tmp_path / "a", "mine", 20)
    other = ledger(tmp_path / "b", "other", 0, rig="random16")
    board = run(LeaderboardConfig((one, other), tmp_path / "b.csv"))
    assert [row.group for row in board.rows] == ["a", "a"]  # the best of each rig, as nothing else is there


def test_a_run_that_was_stopped_is_said_to_be_incomplete(tmp_path: Path) -> None:
    folder = ledger(tmp_path, "mine", 12)
    options = {"seed": 1000, "episodes": 20}
    for episodes, noted in ((20, False), (50, True)):
        config = {"run_id": "mine".ljust(16, "0"), "settings": {}, "options": options | {"episodes": episodes}}
        (folder / "run.json").write_text(json.dumps(config))
        board = run(LeaderboardConfig((folder,), tmp_path / "b.csv"))
        assert ("lacks 30 of 50 episodes" in str(board)) == noted


def test_ledgers_of_other_names_are_found_where_there_is_no_run(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for policy, k in (("mine", 12), ("expert", 20)):
        (ledger(tmp_path / "runs", policy, k) / "episodes.csv").rename(results / f"rollout_{policy}.csv")
    board = run(LeaderboardConfig((results,), results / "leaderboard.csv"))
    again = run(LeaderboardConfig((results,), results / "leaderboard.csv"))  # a board is no ledger
    assert [(row.policy, row.k) for row in board.rows] == [(row.policy, row.k) for row in again.rows]
    assert [row.policy for row in board.rows] == ["expert", "mine"]


@pytest.mark.parametrize(("views", "groups"), [("ring_360", ["a", "b"]), ("novel", ["a", "a"])])
def test_runs_are_compared_where_their_cameras_are_the_same(tmp_path: Path, views: str, groups: list[str]) -> None:
    """A rig's seen and novel cameras are its own; other views do not hang on the rig that was trained on."""
    runs = (
        ledger(tmp_path, "good", 20, views=views, rig="wide16"),
        ledger(tmp_path, "bad", 5, views=views, rig="hemisphere16"),
    )
    board = run(LeaderboardConfig(runs, tmp_path / "board.csv"))
    assert sorted(row.group for row in board.rows) == groups


def test_nothing_to_rank_is_said(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no episodes in"):
        run(LeaderboardConfig((tmp_path,), tmp_path / "b.csv"))


def test_a_missing_floor_is_said(tmp_path: Path) -> None:
    runs = (ledger(tmp_path, "expert", 20), ledger(tmp_path, "mine", 3))
    assert "no random row on store_cereal-v1, novel views of hemisphere16" in str(
        run(LeaderboardConfig(runs, tmp_path / "board.csv"))
    )


def test_a_policy_has_a_line_for_each_sensor(tmp_path: Path) -> None:
    runs = tuple(
        ledger(tmp_path / sensor, "mine", successes, sensor=sensor, run_id=sensor.ljust(16, "0"), settings=sensor)
        for sensor, successes in (("perfect", 15), ("stereo", 5))
    )
    board = run(LeaderboardConfig(runs, tmp_path / "board.csv"))
    assert [(row.sensor, row.k, row.group) for row in board.rows] == [("perfect", 15, "a"), ("stereo", 5, "b")]


def test_a_policy_has_a_line_for_each_number_of_steps(tmp_path: Path) -> None:
    runs = tuple(
        ledger(
            tmp_path / str(steps),
            "mine",
            successes,
            steps=steps,
            run_id=str(steps).ljust(16, "0"),
            settings=f"steps {steps}",
        )
        for steps, successes in ((0, 5), (4, 15))
    )
    board = run(LeaderboardConfig(runs, tmp_path / "board.csv"))
    assert [(row.steps, row.n, row.k, row.group) for row in board.rows] == [(4, 20, 15, "a"), (0, 20, 5, "b")]
    written = list(csv.DictReader((tmp_path / "board.csv").read_text().splitlines()))
    assert [w["steps"] for w in written] == ["4", "0"]
    assert [line.split()[6:8] for line in board.table()] == [["sensor", "steps"], ["4", "15/20"], ["5/20", "0.25"]]
