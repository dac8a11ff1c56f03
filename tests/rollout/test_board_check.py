"""``leaderboard verify`` on damaged boards and ledgers, and on the repository's own results."""

from __future__ import annotations

import dataclasses
import random
import string
from pathlib import Path

import pytest
from episode_rows import ledger

from geo4d_bench import cli
from geo4d_bench.rollout import board_check, leaderboard
from geo4d_bench.rollout.board_check import BoardCheckConfig
from geo4d_bench.rollout.leaderboard import LeaderboardConfig
from geo4d_bench.rollout.ledger import COLUMNS, WALL_TIME_COLUMNS, Ledger, ledger_text

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n\r\t"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs with their board, the numbers of their rows as various as in real ones."""
    rng = random.Random(0)
    for policy, k in (("mine", 2), ("expert", 4)):
        path = ledger(tmp_path / "runs", policy, k, n=4, checkpoint="" if policy == "expert" else "c" * 64)
        rows = [
            dataclasses.replace(
                row, view_angle_deg=rng.choice([rng.uniform(0, 90), 14.5, 30.0]), plans=rng.randrange(300),
                control_steps=rng.randrange(300), wall_s=rng.uniform(0, 9), track_ms=rng.uniform(0, 99),
            )
            for row in Ledger(path / "episodes.csv").rows()
        ]  # fmt: skip
        (path / "episodes.csv").write_text(ledger_text(rows))
    leaderboard.run(LeaderboardConfig((tmp_path / "runs",), tmp_path / "runs" / "leaderboard.csv"))
    return tmp_path / "runs"


def faults(path: Path) -> tuple[str, ...]:
    return board_check.run(BoardCheckConfig((path,))).faults


@pytest.mark.parametrize(
    ("sums", "changes"),
    [(False, 30), (True, 10), pytest.param(False, 200, marks=pytest.mark.exhaustive)],
    ids=["without sums", "wall times, with sums", "without sums, often"],
)
def test_every_changed_character_is_found(runs: Path, sums: bool, changes: int) -> None:
    assert faults(runs) == ()
    files = [runs / "leaderboard.csv", runs / "mine" / "episodes.csv", runs / "expert" / "episodes.csv"]
    if not sums:
        leaderboard.sums_path(files[0]).unlink()
    rng = random.Random(1)
    for _ in range(changes):
        path = rng.choice(files[1:] if sums else files)
        text = path.read_text()
        places = list(range(len(text)))
        if path != files[0]:
            places = [i for i in places if wall_time(text, i) == sums]  # the only bytes that rows_sha256 leaves out
        at = rng.choice(places)
        new = rng.choice(CHARACTERS.replace(text[at], ""))
        path.write_text(text[:at] + new + text[at + 1 :], newline="")
        assert faults(runs), f"{path.name}: {text[at]!r} at {at} became {new!r} ({text[at - 20 : at + 20]!r})"
        path.write_text(text)
    assert faults(runs) == ()


def wall_time(text: str, at: int) -> bool:
    """Whether a character of a ledger is a digit of a wall time."""
    line = text[: at + 1].rpartition("\n")[2]
    in_header = "\n" not in text[:at]
    return not in_header and text[at] not in ",\n" and COLUMNS[line.count(",")] in WALL_TIME_COLUMNS


def test_a_fault_is_a_line_that_says_where(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = runs / "leaderboard.csv"
    board.write_text(board.read_text().replace("0.5000", "0.9000"))
    assert cli.main(["leaderboard", "verify", str(board)]) == 1
    changed, cell, total = capsys.readouterr().out.splitlines()
    assert changed.startswith(f"{board}: changed since the board was written")
    assert cell == f"{board}, line 3: success_rate is '0.9000', its episodes say '0.5000'"
    assert total == "1 leaderboards, 2 rows, 2 ledgers: 2 faults"


def test_more_episodes_than_the_board_has_are_found_until_it_is_written_anew(runs: Path) -> None:
    ledger(runs, "mine", 2, n=5, checkpoint="c" * 64)
    assert any("n is '4', its episodes say '5'" in fault for fault in faults(runs))
    leaderboard.run(LeaderboardConfig((runs,), runs / "leaderboard.csv"))
    assert faults(runs) == ()


def test_a_board_elsewhere_knows_its_ledgers_and_misses_them(runs: Path, tmp_path: Path) -> None:
    board = tmp_path / "elsewhere" / "b.csv"
    board.parent.mkdir()
    leaderboard.run(LeaderboardConfig((runs,), board))
    assert faults(board.parent) == ()
    (runs / "mine" / "episodes.csv").unlink()
    assert any("mine/episodes.csv: No such file" in fault for fault in faults(board))


def test_ledgers_on_no_board_are_named(runs: Path) -> None:
    ledger(runs, "other", 1, n=2)
    found = board_check.run(BoardCheckConfig((runs,)))
    assert found.exit_code == 0
    assert "1 ledger(s) on no board" in str(found)


def test_sums_that_lack_their_board_or_its_ledgers_are_faults(runs: Path) -> None:
    board = runs / "leaderboard.csv"
    sums = leaderboard.sums_path(board)
    text = sums.read_text()
    sums.write_text("".join(line for line in text.splitlines(keepends=True) if "leaderboard.csv" not in line))
    assert faults(runs) == (f"{sums}: does not name leaderboard.csv, whose sums it is to hold",)
    board.write_text(board.read_text().splitlines(keepends=True)[0])
    sums.write_text("")
    assert f"{sums}: names no ledger that the board could be computed from" in faults(runs)


def test_what_is_not_ranked_is_named_where_no_sums_tell_of_it(runs: Path) -> None:
    ledger(runs, "gone", 0, n=2, status="crash", success=False)
    leaderboard.run(LeaderboardConfig((runs,), runs / "leaderboard.csv"))
    assert "NOT RANKED" not in str(board_check.run(BoardCheckConfig((runs,))))
    leaderboard.sums_path(runs / "leaderboard.csv").unlink()
    assert "nothing tells whether it was changed: NOT RANKED: gone" in str(board_check.run(BoardCheckConfig((runs,))))


def test_a_last_line_without_end_and_a_damaged_list_of_sums_are_faults(runs: Path) -> None:
    board = runs / "leaderboard.csv"
    board.write_text(board.read_text()[:-1])
    assert f"{board}, line 4: is missing, its episodes say ''" in faults(runs)
    sums = leaderboard.sums_path(board)
    sums.write_text(sums.read_text().replace("mine/", "mi\0e/"))
    assert any("null byte" in fault for fault in faults(runs))


def test_no_board_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["leaderboard", "verify", str(tmp_path)]) == 2
    assert f"no leaderboard.csv in {tmp_path}" in capsys.readouterr().err
    assert cli.main(["leaderboard", "verify", str(tmp_path / "b.csv")]) == 2
    assert f"there is no {tmp_path / 'b.csv'}; give leaderboards" in capsys.readouterr().err


def test_the_repository_s_results_are_as_computed() -> None:
    found = board_check.run(BoardCheckConfig((ROOT / "results",)))
    assert found.faults == ()
    assert found.boards >= 11
