"""``geo4d-bench leaderboard verify``: that boards say what their episodes say, to the digit."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tyro.conf import Positional

from geo4d_bench.errors import Geo4DError, LedgerError
from geo4d_bench.rollout import leaderboard
from geo4d_bench.rollout.ledger import Ledger, ledger_text


@dataclass(frozen=True)
class BoardCheckConfig:
    boards: Positional[tuple[Path, ...]]
    """Leaderboards (CSV), or folders that are searched for them."""


@dataclass(frozen=True)
class BoardCheck:
    """What was found; exit code 1 where there are faults.

    Attributes:
        boards, rows, ledgers: how many were checked.
        faults: a line each.
        notes: on what could not be checked.
    """

    boards: int
    rows: int
    ledgers: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where a check failed."""
        return 1 if self.faults else 0

    def __str__(self) -> str:
        found = f"{len(self.faults)} faults" if self.faults else "as computed from their episodes"
        total = f"{self.boards} leaderboards, {self.rows} rows, {self.ledgers} ledgers: {found}"
        return "\n".join([*self.faults, *self.notes, total])


def run(config: BoardCheckConfig) -> BoardCheck:
    """Check boards and the ledgers behind them; LedgerError where there is no board."""
    leaderboard.require_paths(config.boards, "leaderboards (CSV), or folders of them")
    boards = list(dict.fromkeys(board for given in config.boards for board in _boards(given)))
    if not boards:
        given = ", ".join(map(str, config.boards)) or "nothing"
        raise LedgerError(f"no leaderboard.csv in {given}; 'geo4d-bench leaderboard' writes one")
    faults: list[str] = []
    notes: list[str] = []
    checked: set[Path] = set()
    rows = 0
    for board in boards:
        ledgers, told = _sums(board, faults)
        if not told:
            notes.append(
                f"{board}: no {leaderboard.sums_path(board).name} beside it, so that nothing tells whether wall times "
                f"were changed; write the board anew with 'geo4d-bench leaderboard {board.parent} --out {board}'"
            )
        rows += _check_board(board, ledgers, told, faults, notes)
        checked.update(path.resolve() for path in ledgers)
    for path in sorted(checked):
        _check_ledger(path, faults)
    below = (path for given in config.boards if given.is_dir() for path in leaderboard.files_like_ledgers(given))
    unranked = sorted({path.resolve() for path in below} - checked)
    for path in unranked:
        _check_ledger(path, faults)
    if unranked:
        notes.append(
            f"{len(unranked)} ledger(s) on no board, so that nothing tells whether a digit was changed: "
            f"{', '.join(os.path.relpath(path) for path in unranked[:3])}{' ...' if len(unranked) > 3 else ''}"
        )
    return BoardCheck(len(boards), rows, len(checked | set(unranked)), tuple(dict.fromkeys(faults)), tuple(notes))


def _boards(given: Path) -> list[Path]:
    """Those that a path names: itself, or all in and below a folder."""
    if not given.is_dir():
        return [given]
    with_sums = {path.with_suffix("") for path in given.rglob(str(leaderboard.sums_path(Path("*.csv"))))}
    return sorted(with_sums | set(given.rglob("leaderboard.csv")))


def _sums(board: Path, faults: list[str]) -> tuple[list[Path], bool]:
    """The ledgers of a board and whether its sums name them; faults of files whose bytes are others."""
    try:
        lines = leaderboard.sums_path(board).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return leaderboard.files_like_ledgers(board.parent), False
    except ValueError as error:
        faults.append(f"{leaderboard.sums_path(board)}: is not text ({error})")
        return leaderboard.files_like_ledgers(board.parent), False
    paths = []
    for line in lines:
        sha256, _, name = line.partition("  ")
        path = board.parent / name
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                faults.append(f"{path}: changed since the board was written (its sha256 is not that of {board}.sha256)")
        except (OSError, ValueError) as error:  # ValueError: no file has such a name
            reason = getattr(error, "strerror", None) or error
            faults.append(f"{path}: {reason}, and the board {board} was computed from it")
            continue
        paths.append(path)
    ledgers = [path for path in paths if path.resolve() != board.resolve()]
    if len(ledgers) == len(paths):
        faults.append(f"{leaderboard.sums_path(board)}: does not name {board.name}, whose sums it is to hold")
    if not ledgers:
        faults.append(f"{leaderboard.sums_path(board)}: names no ledger that the board could be computed from")
    return ledgers, True


def _check_board(board: Path, ledgers: Sequence[Path], told: bool, faults: list[str], notes: list[str]) -> int:
    """Compute it anew; returns how many rows it should have."""
    try:
        expected = leaderboard.compute(leaderboard.read_all(ledgers), board)
        actual = board.read_bytes().decode("utf-8", "replace")
    except (Geo4DError, OSError) as error:
        faults.append(f"{board}: cannot be computed anew: {error}")
        return 0
    _differences(board, leaderboard.csv_text(expected), actual, "its episodes say", faults)
    if expected.unranked and not told:
        notes += [
            f"{board}: of what is not ranked nothing tells whether it was changed: {e}" for e in expected.unranked
        ]
    return len(expected.rows)


def _check_ledger(path: Path, faults: list[str]) -> None:
    """Its rows can be read, and stand there as they are written: no other text for the same number."""
    try:
        rows = Ledger(path).rows()
        actual = path.read_bytes().decode("utf-8", "replace")
    except (Geo4DError, OSError) as error:
        faults.append(str(error))
        return
    expected = ledger_text(rows, _cells(actual.split("\n")[0]))
    _differences(path, expected, actual, "a rollout writes", faults)


def _differences(path: Path, expected: str, actual: str, whose: str, faults: list[str]) -> None:
    """A fault for every line that is not as expected, with the cells that differ."""
    header = next(csv.reader([expected.split("\n")[0]]))
    for number, (right, found) in enumerate(zip_longest(expected.split("\n"), actual.split("\n")), 1):
        if right == found:
            continue
        if not right or not found:
            too_much = right is None or found
            faults.append(
                f"{path}, line {number}: " + ("is too much" if too_much else f"is missing, {whose} '{right[:80]}'")
            )
            continue
        cells = zip_longest(header, _cells(right), _cells(found), fillvalue="")
        differing = [f"{name} is '{b}', {whose} '{a}'" for name, a, b in cells if a != b]
        faults.append(f"{path}, line {number}: {'; '.join(differing) or f'is written otherwise than {whose}'}")


def _cells(line: str) -> list[str]:
    return next(csv.reader([line.replace("\r", "\\r")]), [])  # which the csv module refuses within a cell
