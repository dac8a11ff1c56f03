"""The episode ledger ``episodes.csv``: one row an episode, added as it ends, never torn, never doubled."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from geo4d_bench.errors import LedgerError
from geo4d_bench.io import read_file, write_atomic

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
        sensor: how the depth that the policy saw was measured, see ``dataset.sensors``.
        tracker, segmenter: what followed the gripper through the policy's videos, and what labelled it there; empty for
            policies without video, and where the videos carry their own labels.
        steps: sampling steps that were asked for, 0 for the checkpoint's own number or where nothing is sampled.
        settings: 16 hex digits over everything that decides the rows but the first seed: rows that share it are of one
            experiment.
        privileged: whether the policy was handed the simulator.
        fingerprint: of packages and source.
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

    @property
    def title(self) -> str:
        """The policy with what is not as usual: ``layered, no_mv_attention``, ``oracle_video, tracker median``."""
        unusual = {
            self.ablation: self.ablation != "none",
            f"tracker {self.tracker}": self.tracker not in ("", "point_cloud"),
            f"segmenter {self.segmenter}": self.segmenter != "",
        }
        return ", ".join([self.policy, *(what for what, is_so in unusual.items() if is_so)])


@dataclass(frozen=True)
class EpisodeRow(RunColumns):
    """One episode.

    Attributes:
        run_id: 16 hex digits over ``settings`` and the first seed; with ``seed`` it names a row.
        camera_n, camera_m: the views; view_angle_deg: the larger of their angles to the nearest training camera.
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

    @property
    def key(self) -> tuple[str, int]:
        """Names the episode in any ledger."""
        return self.run_id, self.seed

    def text(self) -> list[str]:
        """The row's cells as they stand in the file."""
        return [_to_text(getattr(self, name)) for name in COLUMNS]


COLUMNS = (
    "run_id", "settings", "task", "task_version", "policy", "generator", "ablation", "checkpoint", "views", "rig",
    "camera_n", "camera_m", "view_angle_deg", "sensor", "tracker", "segmenter", "steps", "split", "seed", "episode",
    "status", "success", "phase", "plans", "control_steps", "wall_s", "generate_ms", "track_ms", "privileged",
    "fingerprint", "commit",
)  # fmt: skip
_PARSERS: dict[object, Callable[[str], object]] = {
    str: str,
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
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

    def read(self) -> Contents:
        """All rows, a crash replaced by the later row of the same episode; empty where there is no file.

        LedgerError where the columns are others, a value cannot be read, or an episode stands there twice.
        """
        try:
            text = read_file(self.path).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return Contents((), None)
        whole, _, torn = text.rpartition("\n")
        try:
            begun = torn.startswith(COLUMNS[0])  # the heading itself is cut off
            header, *lines = list(csv.reader(io.StringIO(whole))) or [list(COLUMNS) if begun else []]
        except csv.Error as error:
            raise LedgerError(f"{self.path}: no episode ledger ({error}); use another --out, or delete it") from None
        if tuple(header) != COLUMNS:
            raise LedgerError(
                f"{self.path}: these are not the columns of an episode ledger "
                f"({_difference(header)}); use another --out, or delete the file"
            )
        rows: dict[tuple[str, int], EpisodeRow] = {}
        for number, cells in enumerate(lines, start=2):
            row = self._parse(cells, f"{self.path}, line {number}")
            before = rows.get(row.key)
            if before is not None and before.status != "crash":
                raise LedgerError(f"{self.path}, line {number}: seed {row.seed} of run {row.run_id} stands there twice")
            rows[row.key] = row
        return Contents(tuple(rows.values()), torn or None)

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
            write_atomic(self.path, _csv([COLUMNS, *_sorted_text(rows.values())]))
        return True

    def _parse(self, cells: Sequence[str], where: str) -> EpisodeRow:
        if len(cells) != len(COLUMNS):
            raise LedgerError(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}; delete the line to run it again")
        values: dict[str, Any] = {}
        for name, cell in zip(COLUMNS, cells, strict=True):
            try:
                values[name] = _PARSERS[_TYPES[name]](cell)
            except (ValueError, KeyError):
                kind = "known value" if _TYPES[name] == Status else _TYPES[name].__name__
                raise LedgerError(
                    f"{where}: column {name} holds '{cell}', not a {kind}; delete the line to run it again"
                ) from None
        return EpisodeRow(**values)


def canonical_sha256(rows: Iterable[EpisodeRow]) -> str:
    """sha256 of rows sorted by run and seed, wall times left out: equal for two runs at one commit."""
    blank: dict[str, Any] = dict.fromkeys(WALL_TIME_COLUMNS, 0.0)
    without_times = [dataclasses.replace(row, **blank) for row in rows]
    return hashlib.sha256(_csv(_sorted_text(without_times)).encode()).hexdigest()


def _sorted_text(rows: Iterable[EpisodeRow]) -> list[list[str]]:
    return [row.text() for row in sorted(rows, key=lambda row: row.key)]


def _csv(lines: Iterable[Sequence[str]]) -> str:
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


def _difference(found: Sequence[str]) -> str:
    missing, unknown = [c for c in COLUMNS if c not in found], [c for c in found if c not in COLUMNS]
    sides = [f"{word}: {', '.join(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
    return "; ".join(sides) or "their order is another"
