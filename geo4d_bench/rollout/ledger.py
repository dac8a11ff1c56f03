"""The episode ledger ``episodes.csv``: one row an episode, appended as it ends, never torn, never doubled."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from geo4d_bench.errors import LedgerError
from geo4d_bench.io import write_atomic

Status = Literal["success", "failure", "timeout", "crash"]
WALL_TIME_COLUMNS = ("wall_s", "generate_ms", "track_ms")
"""The columns that two runs with one fingerprint may differ in, and ``commit``: not all that is committed is code."""


@dataclass(frozen=True)
class EpisodeRow:
    """One episode.

    Attributes:
        run_id: 16 hex digits over everything that decides the rows; with ``seed`` it names a row.  settings: the same
            but for the first seed: rows that share it are of one experiment.
        generator: what it planned with, by its registered name; empty where there is none.
        ablation: what that lacks, ``none``.
        task, task_version, policy, views, split: what was run; ``views`` is ``seen``, ``novel`` or a rig's name.
        rig: name of the one that ``seen`` and ``novel`` refer to.
        checkpoint: sha256 of the checkpoint's weights and settings, empty for policies without one.
        camera_n, camera_m: the views; view_angle_deg: the larger of their angles to the nearest training camera.
        sensor: how the depth that the policy saw was measured, see ``dataset.sensors``.
        steps: sampling steps that were asked for, 0 for the checkpoint's own number or where nothing is sampled.
        seed, episode: the episode's seed, and its index in the run.
        status: ``failure`` = cannot succeed any more, ``timeout`` = time is up, ``crash`` = an exception.
        success: whether the task was done.  phase: the last sub-goal reached.
        plans: calls of the policy.  control_steps: steps simulated.
        wall_s: the episode's own share of the time.  generate_ms, track_ms: mean of a plan, 0 where not measured.
        privileged: whether the policy was handed the simulator.
        fingerprint, commit: of packages and source.
    """

    run_id: str
    settings: str
    task: str
    task_version: str
    policy: str
    generator: str
    ablation: str
    checkpoint: str
    views: str
    rig: str
    camera_n: str
    camera_m: str
    view_angle_deg: float
    sensor: str
    steps: int
    split: str
    seed: int
    episode: int
    status: Status
    success: bool
    phase: str
    plans: int
    control_steps: int
    wall_s: float
    generate_ms: float
    track_ms: float
    privileged: bool
    fingerprint: str
    commit: str

    @property
    def title(self) -> str:
        """The policy with its ablation: ``layered, no_mv_attention``."""
        return self.policy if self.ablation == "none" else f"{self.policy}, {self.ablation}"

    def text(self) -> list[str]:
        """The row's cells as they stand in the file."""
        return [_to_text(getattr(self, name)) for name in COLUMNS]


COLUMNS = tuple(f.name for f in dataclasses.fields(EpisodeRow))
_TYPES = get_type_hints(EpisodeRow)


@dataclass(frozen=True)
class Contents:
    """What a ledger holds: its rows, and the cut-off last line where a write was interrupted (that row is lost)."""

    rows: tuple[EpisodeRow, ...]
    torn: str | None


class Ledger:
    """An append-only CSV file that several processes may write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Contents:
        """All rows, a crash replaced by the later row of the same episode; empty where there is no file.

        LedgerError where the columns are others, a value cannot be read, or an episode stands there twice.
        """
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return Contents((), None)
        whole, _, torn = text.rpartition("\n")
        lines = list(csv.reader(io.StringIO(whole)))
        if not lines:
            return Contents((), torn or None)
        columns = tuple(lines[0])
        if columns != COLUMNS:
            raise LedgerError(
                f"{self.path}: these are not the columns of an episode ledger "
                f"({_difference(lines[0])}); use another --out, or delete the file"
            )
        rows: dict[tuple[str, int], EpisodeRow] = {}
        for number, cells in enumerate(lines[1:], start=2):
            row = self._parse(cells, number)
            before = rows.get((row.run_id, row.seed))
            if before is not None and before.status != "crash":
                raise LedgerError(f"{self.path}, line {number}: seed {row.seed} of run {row.run_id} stands there twice")
            rows[row.run_id, row.seed] = row
        return Contents(tuple(rows.values()), torn or None)

    def append(self, row: EpisodeRow) -> bool:
        """Write one row in a single write; False where the episode is there already (a crash may be replaced).

        A cut-off last line, left by a power cut, is dropped first.
        """
        with self._locked():
            contents = self.read()
            for other in contents.rows:
                if (other.run_id, other.seed) == (row.run_id, row.seed) and other.status != "crash":
                    return False
            header = not contents.rows and self._is_without_header()
            self._write(([list(COLUMNS)] if header else []) + [row.text()])
        return True

    def tidy(self) -> None:
        """Sort the rows by run and seed, without the crashes that were made up for; readers see the old file or
        the new one, never a part."""
        with self._locked():
            self._rewrite(sorted(self.read().rows, key=lambda r: (r.run_id, r.seed)))

    def _rewrite(self, rows: Sequence[EpisodeRow]) -> None:
        write_atomic(self.path, _csv([list(COLUMNS), *(row.text() for row in rows)]))

    def _parse(self, cells: Sequence[str], number: int) -> EpisodeRow:
        where = f"{self.path}, line {number}"
        if len(cells) != len(COLUMNS):
            raise LedgerError(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}; delete the line to run it again")
        values: dict[str, object] = {}
        for name, cell in zip(COLUMNS, cells, strict=True):
            try:
                values[name] = _from_text(cell, _TYPES[name])
            except ValueError:
                kind = getattr(_TYPES[name], "__name__", "known value")
                raise LedgerError(
                    f"{where}: column {name} holds '{cell}', not a {kind}; delete the line to run it again"
                ) from None
        return EpisodeRow(**values)  # type: ignore[arg-type]

    def _is_without_header(self) -> bool:
        try:
            with self.path.open("rb") as file:
                return b"\n" not in file.read(4096)
        except FileNotFoundError:
            return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock lies beside the ledger, because tidy() replaces the ledger's own file.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, lines: list[list[str]]) -> None:
        data = _csv(lines).encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            whole = os.pread(descriptor, os.fstat(descriptor).st_size, 0).rfind(b"\n") + 1
            os.ftruncate(descriptor, whole)
            try:
                written = os.pwrite(descriptor, data, whole)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            if written != len(data):  # the disk is full, or a quota is
                os.ftruncate(descriptor, whole)
                raise LedgerError(f"{self.path}: the row could not be written whole; is the disk full?")
        finally:
            os.close(descriptor)


def canonical_sha256(rows: Sequence[EpisodeRow]) -> str:
    """sha256 of rows sorted by run and seed, wall times left out: equal for two runs at one commit."""
    ordered = sorted(rows, key=lambda r: (r.run_id, r.seed))
    blank = dict.fromkeys(WALL_TIME_COLUMNS, 0.0)
    lines = [dataclasses.replace(row, **blank).text() for row in ordered]  # type: ignore[arg-type]
    return hashlib.sha256(_csv(lines).encode()).hexdigest()


def _csv(lines: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if "\n" in text or "\r" in text:
        raise ValueError(f"a ledger cell must be one line, got {text!r}")
    return text


def _from_text(cell: str, kind: object) -> object:
    if kind is bool:
        if cell not in ("true", "false"):
            raise ValueError(cell)
        return cell == "true"
    if kind is int:
        return int(cell)
    if kind is float:
        return float(cell)
    if kind is not str and cell not in get_args(kind):
        raise ValueError(cell)
    return cell


def _difference(found: Sequence[str]) -> str:
    missing = [c for c in COLUMNS if c not in found]
    extra = [c for c in found if c not in COLUMNS]
    if not missing and not extra:
        return "their order is another"
    parts = (["missing: " + ", ".join(missing)] if missing else []) + (
        ["unknown: " + ", ".join(extra)] if extra else []
    )
    return "; ".join(parts)
