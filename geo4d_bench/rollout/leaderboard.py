"""The leaderboard: success rates with intervals and significance letters, computed from episode rows alone."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from tyro.conf import Positional

from geo4d_bench.errors import LedgerError, RunError
from geo4d_bench.io import write_atomic
from geo4d_bench.rollout import trainings
from geo4d_bench.rollout.ledger import COLUMNS, REALTIME, EpisodeRow, Ledger, RunColumns, canonical_sha256, used_columns
from geo4d_bench.runs import read_run

FLOOR_AND_CEILING = ("random", "expert")
"""Policies that stand on every board, so that a rate can be read."""
WITHOUT_EYES = ("blind", "replay", "proprioception")
"""Policies that see nothing, whose checkpoint is the dataset that they were made of."""
CHOSEN_EPISODES = "chosen_episodes.csv"
"""Name of ledgers whose seeds were chosen by how they ended, as an error budget's: they are on no board."""
CSV_COLUMNS = (
    "task", "task_version", "policy", "generator", "ablation", "checkpoint", "views", "rig", "rooms", "sensor",
    "calibration_deg", "calibration_cm", "tracker", "segmenter", "steps", "n", "k", "success_rate", "ci_low", "ci_high",
    "group", "privileged", "rows_sha256", "settings", "fingerprint", *REALTIME,
)  # fmt: skip


@dataclass(frozen=True)
class LeaderboardConfig:
    runs: Positional[tuple[Path, ...]]
    """Rollout folders or ledgers; a folder without episodes.csv is searched for rollouts below it, and where there are
    none for ledgers of other names. Further commands: leaderboard compare, leaderboard plan, leaderboard verify."""
    out: Path = Path("leaderboard.csv")
    """The CSV to write."""


@dataclass(frozen=True)
class BoardRow(RunColumns):
    """One run on the board.

    Attributes:
        n, k: episodes and successes.  ci_low, ci_high: 95 % Wilson interval of the success rate k / n.
        group: of policies of one task, choice of cameras and set of rooms those without a shared letter differ at
            0.05 (exact McNemar on the seeds both have, Holm-corrected).
        rows_sha256: of the episode rows behind the line, wall times left out.
        failed_after: the last phase that episodes without success reached, and how many of them, most first. Not in
            the CSV.
        stale_share, idle_share, plan_hz: means over the episodes; None where the world stood still.
    """

    n: int
    k: int
    success_rate: float
    ci_low: float
    ci_high: float
    group: str
    rows_sha256: str
    failed_after: tuple[tuple[str, int], ...]
    stale_share: float | None = field(default=None, kw_only=True)
    idle_share: float | None = field(default=None, kw_only=True)
    plan_hz: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Leaderboard:
    """The board, best first within a task and a choice of views, and notes on what is missing from it.

    Attributes:
        unranked: on runs that are left out, because episodes of them crashed.
        unfinished: on runs that were stopped before their last episode.
        out: its file.  ledgers: the files of the episodes behind it.
        methods: of policies with several checkpoints whose trainings differ in their seed alone.
    """

    rows: tuple[BoardRow, ...]
    unranked: tuple[str, ...]
    unfinished: tuple[str, ...]
    out: Path
    ledgers: tuple[Path, ...]
    methods: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where a run could not be ranked."""
        return 1 if self.unranked else 0

    def __str__(self) -> str:
        return "\n".join([*self.table(), *self.notes(), f"leaderboard: {self.out}"])

    def table(self) -> list[str]:
        """The board as lines of text."""
        header = "task|views|rig|rooms|policy|checkpoint|sensor|steps|k/n|success|95 % interval|group||failed after"
        lines = [header.split("|")]
        lines += [
            [
                f"{row.task}-{row.task_version}", row.views, row.rig, row.rooms, row.title, row.checkpoint[:8],
                row.sensor, str(row.steps or ""), f"{row.k}/{row.n}", f"{row.success_rate:.2f}",
                f"{row.ci_low:.2f} to {row.ci_high:.2f}", row.group, "oracle" if row.privileged else "",
                phase_counts(row.failed_after),
            ]
            for row in self.rows
        ]  # fmt: skip
        if any(row.latency_s for row in self.rows):
            lines[0] += ["stale", "idle", "plans/s"]
            for line, row in zip(lines[1:], self.rows, strict=True):
                told = row.stale_share, row.idle_share, row.plan_hz
                line += ["" if value is None else f"{value:.2f}" for value in told]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]

    def notes(self) -> list[str]:
        """What a reader must know: runs left out, and missing floor or ceiling rows."""
        notes = [*self.methods, *self.unranked, *self.unfinished, *self._like_random()]
        notes += [
            f"{row.title} on {_where(row)} never moved: when a plan came, its waypoints were past; give it more of "
            "them (--execute, where the policy has it), or a smaller --realtime"
            for row in self.rows
            if row.idle_share == 1
        ]
        for key in sorted({_place(row) for row in self.rows}):
            rows = [row for row in self.rows if _place(row) == key]
            there = {row.policy for row in rows}
            missing = " and no ".join(policy for policy in FLOOR_AND_CEILING if policy not in there)
            if missing and len(there) > 1:
                notes.append(f"no {missing} row on {_where(rows[0])}: the board lacks its floor or ceiling")
        return notes

    def _like_random(self) -> list[str]:
        """Trained policies whose interval overlaps that of ``random``, with what would tell them apart."""
        floors = {_place(row): row for row in self.rows if row.policy == "random"}
        notes = []
        for row in self.rows:
            floor = floors.get(_place(row))
            learned = row.checkpoint and row.policy not in WITHOUT_EYES
            if learned and floor is not None and row.ci_low <= floor.ci_high:
                mine, chance = (f"{r.k}/{r.n}, {r.ci_low:.2f} to {r.ci_high:.2f}" for r in (row, floor))
                notes.append(
                    f"the intervals of {row.title} on {_where(row)} ({mine}) and random ({chance}) overlap: train "
                    f"longer, or play more than {min(row.n, floor.n)} episodes"
                )
        return notes


def run(config: LeaderboardConfig) -> Leaderboard:
    """Read the ledgers, compute the board and write it; LedgerError where there is nothing to rank."""
    require_paths(config.runs, "rollout folders or ledgers")
    paths = [path for given in config.runs for path in find_ledgers(given)]
    if not paths:
        given = ", ".join(map(str, config.runs)) or "nothing"
        raise LedgerError(f"no episodes in {given}; 'geo4d-bench rollout' writes an episodes.csv")
    board = compute(read_all(paths), config.out)
    write(board)
    return board


def require_paths(paths: Iterable[Path], what: str) -> None:
    """LedgerError where one of them, each of which is one of ``what``, is not there."""
    if missing := [str(path) for path in paths if not path.exists()]:
        raise LedgerError(f"there is no {', '.join(missing)}; give {what}")


def find_ledgers(path: Path) -> list[Path]:
    """The ledger that a path names: itself, the one inside a folder, or all those below; of other names than
    episodes.csv where none is called so."""
    if path.is_file():
        return [_a_ledger(path)]
    if (path / "episodes.csv").is_file():
        return [path / "episodes.csv"]
    return sorted(path.rglob("episodes.csv")) or files_like_ledgers(path)


def _a_ledger(path: Path) -> Path:
    if path.name == CHOSEN_EPISODES:
        raise LedgerError(
            f"{path}: its seeds were chosen by how an episode ended, so that its success rate is none of a policy; "
            "'geo4d-bench error-budget' made and reads it"
        )
    return path


def files_like_ledgers(path: Path) -> list[Path]:
    """The ledgers that a path names, also those that have other names than episodes.csv: they begin alike."""
    if path.is_file():
        return [_a_ledger(path)]
    head, found = ",".join(COLUMNS[:3]).encode(), []
    for each in sorted(each for each in path.rglob("*.csv") if each.name != CHOSEN_EPISODES and each.is_file()):
        with each.open("rb") as file:
            if file.read(len(head)) == head:
                found.append(each)
    return found


def read_all(paths: Iterable[Path]) -> dict[EpisodeRow, Path]:
    """Rows of several ledgers with where they come from; a row given twice counts once, at whatever commit it was made.

    LedgerError where two ledgers tell different outcomes of the same episode of the same run.
    """
    found: dict[tuple[str, int], tuple[EpisodeRow, Path]] = {}
    for path in dict.fromkeys(p.resolve() for p in paths):
        for row in Ledger(path).rows():
            other, source = found.setdefault(row.key, (row, path))
            if canonical_sha256([replace(other, commit=row.commit)]) != canonical_sha256([row]):
                raise LedgerError(
                    f"{path} and {source} differ on seed {row.seed} of run {row.run_id}, which must be the same "
                    "everywhere; leave one of them out"
                )
    return dict(found.values())


def compute(rows: dict[EpisodeRow, Path], out: Path) -> Leaderboard:
    """The board of episode rows."""
    runs: dict[str, dict[int, EpisodeRow]] = {}
    for row in rows:
        of_run = *comparable(row), row.policy, row.ablation, row.checkpoint, row.sensor, str(row.steps), row.settings
        other = runs.setdefault("/".join(of_run), {}).setdefault(row.seed, row)
        if other is not row:
            raise LedgerError(
                f"{row.title} on {row.views} views has seed {row.seed} twice, in runs {other.run_id} and "
                f"{row.run_id}; an episode counts once: leave one of them out"
            )
    unranked = []
    ranked: dict[str, list[EpisodeRow]] = {}
    for key, by_seed in sorted(runs.items()):
        members = list(by_seed.values())
        crashed = sorted(row.seed for row in members if row.status == "crash")
        if crashed:
            unranked.append(
                f"NOT RANKED: {members[0].title} on {_where(members[0])}, {len(crashed)} crashed (seed "
                f"{', '.join(map(str, crashed))}); see {rows[members[0]].parent / 'crashes.log'}, mend the cause "
                "and run the same rollout again"
            )
        else:
            ranked[key] = members
    letters = _letters(ranked)
    board = [_board_row(members, letters[key]) for key, members in ranked.items()]
    board.sort(key=lambda row: (*_place(row), -row.success_rate, row.title))
    ledgers = tuple(sorted(set(rows.values())))
    return Leaderboard(tuple(board), tuple(unranked), tuple(_unfinished(rows)), out, ledgers, _methods(rows, ranked))


def _methods(rows: dict[EpisodeRow, Path], ranked: dict[str, list[EpisodeRow]]) -> tuple[str, ...]:
    """A line for every policy that several training seeds of one method played on equal terms."""
    from geo4d_bench.evaluation.statistics import hierarchical_mean, wilson

    alike: dict[tuple[str, ...], dict[str, list[EpisodeRow]]] = {}
    for members in ranked.values():
        row = members[0]
        if row.checkpoint and row.policy not in WITHOUT_EYES:
            terms = *comparable(row), row.title, row.sensor, str(row.steps)
            alike.setdefault(terms, {}).setdefault(row.checkpoint, []).extend(members)
    several = {terms: seeds for terms, seeds in alike.items() if len(seeds) > 1}
    if not several:
        return ()
    members = [row for seeds in several.values() for each in seeds.values() for row in each]
    known = trainings.find(trainings.folders_of(members, rows))
    lines = []
    for seeds in several.values():
        row = next(iter(seeds.values()))[0]
        same_episodes = all(len({r.seed for r in each}) == len(each) for each in seeds.values())
        if not same_episodes or trainings.doubt(seeds, known):
            continue
        mean = hierarchical_mean([{r.seed: r.success for r in each} for each in seeds.values()])
        played = [r for each in seeds.values() for r in each]
        low, high = wilson(sum(r.success for r in played), len(played))
        lines.append(
            f"{row.title} as a method on {_where(row)}: {mean.value:.2f}, {mean.low:.2f} to {mean.high:.2f} over "
            f"{len(seeds)} training seeds (hierarchical bootstrap); {low:.2f} to {high:.2f} over its {len(played)} "
            "episodes alone (Wilson)"
        )
    return tuple(lines)


def csv_text(board: Leaderboard) -> str:
    """The board's file."""
    import pandas as pd

    table = pd.DataFrame([vars(row) for row in board.rows], columns=used_columns(CSV_COLUMNS, board.rows))
    table["privileged"] = table["privileged"].map({True: "true", False: "false"})
    text: str = table.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    return text


def sums_path(board: Path) -> Path:
    """Of the file beside a board with the sha256 of the board and of its ledgers, which 'sha256sum -c' reads, too."""
    return board.with_name(f"{board.name}.sha256")


def write(board: Leaderboard) -> None:
    """Write the CSV and its sums, each under a temporary name first: a file that exists is whole."""
    write_atomic(board.out, csv_text(board))
    folder = board.out.absolute().parent
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {os.path.relpath(path.resolve(), folder.resolve())}\n"
        for path in (board.out, *board.ledgers)
    ]
    write_atomic(sums_path(board.out), "".join(lines))


def _unfinished(rows: dict[EpisodeRow, Path]) -> Iterator[str]:
    """Of the ledgers that lie beside their rollout's ``run.json``, which says how many episodes it was to have."""
    for path in sorted(set(rows.values())):
        config = read_run(path.parent)
        if config is None:
            continue
        options = config.get("options")
        first, episodes = (options.get(name) if isinstance(options, dict) else None for name in ("seed", "episodes"))
        there = [row for row, source in rows.items() if source == path and row.run_id == config.get("run_id")]
        if type(first) is not int or type(episodes) is not int or not there:
            raise RunError(
                f"{path.parent / 'run.json'}: does not say which of the episodes beside it are missing; run it "
                "again, or delete it"
            )
        missing = episodes - len({row.seed for row in there if first <= row.seed < first + episodes})
        if missing > 0:
            yield (
                f"NOT COMPLETE: {there[0].title} on {_where(there[0])} lacks {missing} of {episodes} "
                f"episodes, and those that take long are missing first; run the same rollout again ({path.parent})"
            )


def comparable(row: EpisodeRow) -> tuple[str, ...]:
    """What runs must share for their seeds to be the same episodes."""
    return row.task, row.task_version, row.split, *_cameras(row), row.rooms


def _place(row: RunColumns) -> tuple[str, ...]:
    """Where runs of the board stand together."""
    return row.task, row.task_version, *_cameras(row), row.rooms


def _cameras(row: RunColumns) -> tuple[str, str]:
    """Views, and the rig where they are its seen or novel cameras: others stand where they do for every rig."""
    return row.views, row.rig if row.views in ("seen", "novel") else ""


def _where(row: RunColumns) -> str:
    """The task, version and views of a row, with the rig where it decides them, as notes say it; titles have rooms."""
    views, rig = _cameras(row)
    return f"{row.task}-{row.task_version}, {views} views" + (f" of {rig}" if rig else "")


def _letters(ranked: dict[str, list[EpisodeRow]]) -> dict[str, str]:
    from geo4d_bench.evaluation.statistics import significance_groups

    outcomes: dict[tuple[str, ...], dict[str, dict[int, bool]]] = {}
    for key, members in ranked.items():
        by_seed = {row.seed: row.success for row in members}
        outcomes.setdefault(comparable(members[0]), {})[key] = by_seed
    return {key: group for rivals in outcomes.values() for key, group in significance_groups(rivals).items()}


def _board_row(members: Sequence[EpisodeRow], group: str) -> BoardRow:
    from geo4d_bench.evaluation.statistics import wilson

    n, k = len(members), sum(row.success for row in members)
    low, high = wilson(k, n)
    return BoardRow(
        **{each.name: getattr(members[0], each.name) for each in fields(RunColumns)},
        n=n,
        k=k,
        success_rate=k / n,
        ci_low=low,
        ci_high=high,
        group=group,
        rows_sha256=canonical_sha256(members),
        failed_after=failed_after(members),
        stale_share=_mean(row.stale_share for row in members),
        idle_share=_mean(row.idle_share for row in members),
        plan_hz=_mean(row.plan_hz for row in members),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def failed_after(rows: Iterable[EpisodeRow]) -> tuple[tuple[str, int], ...]:
    """The last phase that the episodes without success reached, with their numbers, most first, then by name."""
    counts = Counter(row.phase for row in rows if not row.success)
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def phase_counts(counts: Iterable[tuple[str, int]]) -> str:
    """``grasped 3, start 1``"""
    return ", ".join(f"{phase} {number}" for phase, number in counts)
