"""The episode ledger ``episodes.csv``: one row an episode, added as it ends, never torn, never doubled."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from geo4d_bench.csv_files import RESTORE, CsvFile, read_csv
from geo4d_bench.errors import LedgerError
from geo4d_bench.io import write_atomic

Status = Literal["success", "failure", "timeout", "crash"]
WALL_TIME_COLUMNS = ("wall_s", "generate_ms", "track_ms")
"""The columns, beside ``commit``, that two runs with one fingerprint may differ in."""


@dataclass(frozen=True)
class RunColumns:
    """What all rows of a run share.

    Attributes:
        task, task_version, policy, views: what was run; ``views`` is ``seen``, ``novel`` or a rig's name.
        generator: what the policy plans with, by its registered name; empty where there is none.
        ablation: what that lacks, or ``none``.
        checkpoint: sha256 of the checkpoint's weights and settings, empty for policies without one.
        rig: name of the one that ``seen`` and ``novel`` refer to.
        rooms: the set that the room of each episode was drawn from.
        sensor: how the depth that the policy saw was measured, see ``dataset.sensors``.
        tracker, segmenter: what followed the gripper through the policy's videos, and what labelled it there; empty for
            policies without video, and where the videos carry their own labels.
        steps: sampling steps that were asked for, 0 for the checkpoint's own number or where nothing is sampled.
        settings: 16 hex digits over everything that decides the rows but the first seed: rows that share it are of one
            experiment.
        privileged: whether the policy was handed the simulator.
        fingerprint: of packages and source.
        calibration_deg, calibration_cm: by how much the cameras' poses that the policy was told were off.
        latency_s: for how long the world went on while a plan was made; 0 where it stood still.
    """

    task: str
    task_version: str
    policy: str
    generator: str
    ablation: str
    checkpoint: str
    views: str
    rig: str
    sensor: str
    tracker: str
    segmenter: str
    steps: int
    settings: str
    privileged: bool
    fingerprint: str
    rooms: str = field(default="fixed", kw_only=True)
    calibration_deg: float = field(default=0.0, kw_only=True)
    calibration_cm: float = field(default=0.0, kw_only=True)
    latency_s: float = field(default=0.0, kw_only=True)

    @property
    def as_usual(self) -> bool:
        """Whether rooms are fixed, depth is perfect, the checkpoint's own number of steps was taken, the poses told
        were true, and the world stood still while plans were made."""
        unusual = self.steps, self.calibration_deg, self.calibration_cm, self.latency_s
        return (self.rooms, self.sensor) == ("fixed", "perfect") and not any(unusual)

    @property
    def title(self) -> str:
        """The policy with what is not as usual: ``layered, no_mv_attention``, ``oracle_video, tracker median``."""
        unusual = {
            self.ablation: self.ablation != "none",
            f"tracker {self.tracker}": self.tracker not in ("", "point_cloud"),
            f"segmenter {self.segmenter}": self.segmenter != "",
            f"{self.rooms} rooms": self.rooms != "fixed",
            f"calibration {self.calibration_deg:g} deg {self.calibration_cm:g} cm off": (
                self.calibration_deg > 0 or self.calibration_cm > 0
            ),
            f"real time {self.latency_s:g} s": self.latency_s > 0,
        }
        return ", ".join([self.policy, *(what for what, is_so in unusual.items() if is_so)])


@dataclass(frozen=True)
class EpisodeRow(RunColumns):
    """One episode.

    Attributes:
        run_id: 16 hex digits over ``settings`` and the first seed; with ``seed`` it names a row.
        camera_n, camera_m: the views; view_angle_deg: the larger of their angles to the nearest training camera.
        elevation_deg, distance_m, fovy_deg, baseline_m: of the two cameras, see ``geometry.rig.PairGeometry``; None in
            rows of versions that did not write them.
        stale_share: share of the control steps during which a newer plan was being made.  idle_share: share of the
            control steps during which the robot held still, because it had no plan left (docs/realtime.md).
            plan_hz: plans a simulated second. None where the world stood still while plans were made.
        seed, episode: the episode's seed, and its index in the run.
        status: ``failure`` = cannot succeed any more, ``timeout`` = time is up, ``crash`` = an exception.
        success: whether the task was done.  phase: the last sub-goal reached.
        plans: calls of the policy.  control_steps: steps simulated.
        wall_s: the episode's own share of the time.  generate_ms, track_ms: mean of a plan, 0 where not measured.
        commit: of the source.
    """

    run_id: str
    camera_n: str
    camera_m: str
    view_angle_deg: float
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
    commit: str
    elevation_deg: float | None = field(default=None, kw_only=True)
    distance_m: float | None = field(default=None, kw_only=True)
    fovy_deg: float | None = field(default=None, kw_only=True)
    baseline_m: float | None = field(default=None, kw_only=True)
    stale_share: float | None = field(default=None, kw_only=True)
    idle_share: float | None = field(default=None, kw_only=True)
    plan_hz: float | None = field(default=None, kw_only=True)

    @property
    def key(self) -> tuple[str, int]:
        """Names the episode in any ledger."""
        return self.run_id, self.seed

    def text(self, columns: Sequence[str] | None = None) -> list[str]:
        """The row's cells as they stand in a file with these columns, all by default."""
        return [_to_text(getattr(self, name)) for name in columns or COLUMNS]


COLUMNS = (
    "run_id", "settings", "task", "task_version", "policy", "generator", "ablation", "checkpoint", "views", "rig",
    "rooms", "camera_n", "camera_m", "view_angle_deg", "elevation_deg", "distance_m", "fovy_deg", "baseline_m",
    "sensor", "calibration_deg", "calibration_cm", "tracker", "segmenter", "steps", "split", "seed", "episode",
    "status",
    "success", "phase", "plans", "control_steps", "wall_s", "generate_ms", "track_ms", "privileged", "fingerprint",
    "commit", "latency_s", "stale_share", "idle_share", "plan_hz",
)  # fmt: skip
REALTIME = COLUMNS[-4:]
"""Columns that only files with a rollout in real time have."""
LATER = {f.name: f.default for f in dataclasses.fields(EpisodeRow) if f.default is not dataclasses.MISSING}
"""Columns that ledgers of older versions lack, and what their rows hold instead."""
_LENGTHS = {"run_id": 16, "settings": 16, "checkpoint": 64, "fingerprint": 16, "commit": 12}
"""Of hexadecimal numbers, which other programs may take for decimal ones."""
_NUMBER = re.compile(r"\d+(\.\d+)?([eE]\+?\d+)?|inf")
_COMMIT = re.compile(r"[0-9a-f]{12}\+?|unknown")


def _integer(cell: str) -> int:
    return int(cell.removesuffix(".0"))  # pandas writes 1000.0 where an integer is missing in another row


def _finite(cell: str) -> float:
    if not math.isfinite(number := float(cell)):
        raise ValueError
    return number


_PARSERS: dict[object, Callable[[str], object]] = {
    str: str,
    int: _integer,
    float: _finite,
    float | None: lambda cell: _finite(cell) if cell else None,
    bool: lambda cell: {"true": True, "false": False}[cell.lower()],
    Status: {status: status for status in get_args(Status)}.__getitem__,
}
_TYPES = get_type_hints(EpisodeRow)


@dataclass(frozen=True)
class Contents:
    """What a ledger holds: its rows, and the last line where it is cut off (that row is lost)."""

    rows: tuple[EpisodeRow, ...]
    torn: str | None


class Ledger:
    """A CSV file that several processes may add rows to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> tuple[EpisodeRow, ...]:
        """All rows, see :meth:`read`; LedgerError where the last line is cut off."""
        contents = self.read()
        if contents.torn is not None:
            raise LedgerError(
                f"{self.path}: the last line has no end and may be cut off ('...{contents.torn[-20:]}'); if it is "
                "whole, end it, else give the same rollout again, which plays that episode anew"
            )
        return contents.rows

    def read(self) -> Contents:
        """All rows, a crash replaced by the later row of the same episode; empty where there is no file.

        Other programs may have written the file anew, see :mod:`geo4d_bench.csv_files`.

        LedgerError where the columns are others, a value cannot be read, or an episode stands there twice.
        """
        try:
            table = read_csv(self.path, lambda column, cell: column == "commit" and bool(_COMMIT.fullmatch(cell)))
        except FileNotFoundError:
            return Contents((), None)
        if table.columns and not (table.lines or table.torn) and ",".join(COLUMNS).startswith(",".join(table.columns)):
            return Contents((), None)  # nothing but a header, which may be cut off
        self._check_columns(table)
        rows: dict[tuple[str, int], EpisodeRow] = {}
        lines: dict[tuple[str, int], int] = {}
        first_seeds: dict[str, int] = {}
        for number, cells in table.lines:
            where = f"{self.path}, line {number}"
            row = _parse(dict(zip(table.columns, cells, strict=True)), where)
            first = row.seed - row.episode
            if first_seeds.setdefault(row.run_id, first) != first:
                raise LedgerError(
                    f"{where}: seed {row.seed} is not that of episode {row.episode}, expected "
                    f"{first_seeds[row.run_id] + row.episode}: a column was rounded or sorted alone; {RESTORE}"
                )
            before = rows.get(row.key)
            if before is not None and before.status != "crash":
                raise LedgerError(
                    f"{where}: seed {row.seed} of run {row.run_id} stands there twice, before in line "
                    f"{lines[row.key]}; keep the right one of the two"
                )
            rows[row.key], lines[row.key] = row, number
        return Contents(tuple(rows.values()), table.torn)

    def append(self, row: EpisodeRow) -> bool:
        """Add one row; False where the episode is there already. A crash is replaced, a cut-off last line dropped.

        The file, sorted by run and seed, is written anew: readers see the old one or the new one, never a part.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The lock lies beside the ledger, because the ledger's own file is replaced.
        with self.path.with_name(f".{self.path.name}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            rows = {other.key: other for other in self.read().rows}
            if row.key in rows and rows[row.key].status != "crash":
                return False
            rows[row.key] = row
            write_atomic(self.path, ledger_text(rows.values()))
        return True

    def _check_columns(self, table: CsvFile) -> None:
        found = set(table.columns)
        if found | LATER.keys() == set(COLUMNS):
            return
        if not found & set(COLUMNS):
            raise LedgerError(
                f"{self.path}: the first line is not the header of an episode ledger; put it in front: "
                f"{','.join(COLUMNS)}"
            )
        missing, unknown = (
            [c for c in COLUMNS if c not in found | LATER.keys()],
            [c for c in table.columns if c not in COLUMNS],
        )
        sides = [f"{word}: {', '.join(n)}" for word, n in (("missing", missing), ("unknown", unknown)) if n]
        raise LedgerError(
            f"{self.path}: these are not the columns of an episode ledger ({'; '.join(sides)}); keep what you add in a "
            "file of its own, read ledgers of another version with that version, or give another --out"
        )


def _parse(cells: dict[str, str], where: str) -> EpisodeRow:
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        try:
            values[name] = _PARSERS[_TYPES[name]](cell)
        except (ValueError, KeyError):
            kind = "known value" if _TYPES[name] == Status else getattr(_TYPES[name], "__name__", "number")
            raise LedgerError(f"{where}: column {name} holds '{cell}', not a {kind}; {RESTORE}") from None
        if _NUMBER.fullmatch(cell) and len(cell) != _LENGTHS.get(name, len(cell)):
            raise LedgerError(
                f"{where}: column {name} holds '{cell}', expected {_LENGTHS[name]} hexadecimal digits, which another "
                f"program took for a decimal number; {RESTORE}"
            )
    row = EpisodeRow(**values)
    if row.success != (row.status == "success") or not 0 <= row.view_angle_deg <= 180:
        raise LedgerError(
            f"{where}: status {row.status} with success {cells['success']} and view_angle_deg "
            f"{cells['view_angle_deg']} cannot be: a column was sorted alone or its decimal points are lost; {RESTORE}"
        )
    return row


def ledger_text(rows: Collection[EpisodeRow], header: Collection[str] | None = None) -> str:
    """The file of rows, as :meth:`Ledger.append` writes it: sorted by run and seed. Of LATER, the columns in ``header``
    alone; where it is not given, those that are used."""
    header = used_columns(COLUMNS, rows) if header is None else header
    columns = [name for name in COLUMNS if name in header or name not in LATER]
    return _csv([columns, *(row.text(columns) for row in sorted(rows, key=lambda row: row.key))])


def used_columns(names: Iterable[str], rows: Iterable[RunColumns]) -> list[str]:
    """Names of columns, without those of REALTIME where no row is of a rollout in real time."""
    realtime = any(row.latency_s for row in rows)
    return [name for name in names if realtime or name not in REALTIME]


def canonical_sha256(rows: Iterable[EpisodeRow]) -> str:
    """sha256 of rows sorted by run and seed, wall times left out: equal for two runs at one commit.

    What rows hold in columns of LATER stands behind the others, where it is not what older rows hold: theirs stay as
    they were.
    """
    blank: dict[str, Any] = dict.fromkeys(WALL_TIME_COLUMNS, 0.0)
    lines = []
    for row in sorted(rows, key=lambda row: row.key):
        cells = dict(zip(COLUMNS, dataclasses.replace(row, **blank).text(), strict=True))
        later = [f"{name}={cells.pop(name)}" for name in LATER if getattr(row, name) != LATER[name]]
        lines.append([*(cell for name, cell in cells.items() if name not in LATER), *later])
    return hashlib.sha256(_csv(lines).encode()).hexdigest()


def _csv(lines: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if "\n" in text or "\r" in text:
        raise ValueError(f"a ledger cell must be one line, got {text!r}")
    return text
