"""``geo4d-bench tables``: the tables of Markdown pages, made from the CSV files that each page names beside them.

A block begins with a comment that says what to show, and ends with ``<!-- end -->``; what stands between is replaced::

    <!-- success
    `layered`, seen | results/store_cereal-v1/demo/rollout_layered_seen.csv
    | results/*-v1/ladder/rollout_*_novel.csv
    -->
    <!-- metrics novel generated: gripper_cm miou
    `layered` | results/store_cereal-v1/ablations/metrics_layered.csv | results/.../rollout_layered_novel.csv
    -->

    <!-- grid seen cameras | novel cameras
    `layered` | results/store_cereal-v1/demo/rollout_layered_seen.csv | results/.../rollout_layered_novel.csv
    -->

A line of ``metrics`` may name a ledger too; ``grid`` has a ledger's successes in each cell. A label that is left out
is the ledger's task and policy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tyro.conf import Positional

from geo4d_bench.csv_files import read_frame
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.statistics import wilson
from geo4d_bench.evaluation.summary import with_interval
from geo4d_bench.io import write_atomic
from geo4d_bench.registry import task_name
from geo4d_bench.rollout.leaderboard import failed_after, phase_counts
from geo4d_bench.rollout.ledger import EpisodeRow, Ledger

_BLOCK = re.compile(r"(<!-- (success|(?:metrics|grid) [^\n]*)\n(.*?)-->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = {
    "gripper_cm": ("gripper error", 2, " cm"),
    "gripper_cm_undisturbed": ("gripper error, undisturbed", 2, " cm"),
    "gripper_cm_frames_1_4": ("the same, frames 1 to 4", 2, " cm"),
    "rotation_deg": ("rotation error", 1, "°"),
    "opening_cm": ("opening error", 2, " cm"),
    "lost_share": ("frames lost", 2, ""),
    "abs_rel_n": ("AbsRel n", 3, ""),
    "abs_rel_m": ("AbsRel m", 3, ""),
    "abs_rel_n_moved": ("AbsRel n, what moved", 3, ""),
    "psnr_n_moved_db": ("PSNR n, what moved", 1, " dB"),
    "ssim_n": ("SSIM n", 3, ""),
    "missing_n": ("missing n", 3, ""),
    "extra_n": ("extra n", 3, ""),
    "miou": ("mIoU", 2, ""),
    "hand_view_gap_cm": ("views' gap on the gripper", 1, " cm"),
    "off_ray_n": ("gripper off its rays n", 3, ""),
    "off_ray_m": ("gripper off its rays m", 3, ""),
    "frechet_derivatives_n": ("Fréchet n (`derivatives`)", 2, ""),
}
"""Of ``metrics.csv``: heading, decimals, unit."""


@dataclass(frozen=True)
class TablesConfig:
    pages: Positional[tuple[Path, ...]]
    """Markdown pages whose tables are made again; paths in a page are relative to it."""
    check: bool = False
    """Change nothing; exit 1 where tables are not what the files say."""


@dataclass(frozen=True)
class Tables:
    """How many tables each page has, and which pages were out of date; exit code 1 where they still are."""

    counts: dict[Path, int]
    stale: tuple[Path, ...]
    exit_code: int

    def __str__(self) -> str:
        made = "are out of date" if self.exit_code else "were made again"
        return "\n".join(
            f"{page}: {count} tables {made if page in self.stale else 'are up to date'}"
            for page, count in self.counts.items()
        )


def run(config: TablesConfig) -> Tables:
    """Make the pages' tables; ConfigError where there is no page, or a page, a file or a column is missing."""
    if not config.pages:
        raise ConfigError("name the pages whose tables to make, such as BENCHMARK.md")
    counts, stale = {}, []
    for page in config.pages:
        before = _read(page)
        after, counts[page] = _BLOCK.subn(partial(_made_again, page), before)
        if before != after:
            stale.append(page)
            if not config.check:
                write_atomic(page, after)
    return Tables(counts, tuple(stale), int(bool(stale) and config.check))


def _made_again(page: Path, block: re.Match[str]) -> str:
    return f"{block[1]}{_table(block[2], block[3], page)}\n{block[4]}"


def _read(page: Path) -> str:
    if not page.is_file():
        raise ConfigError(f"{page}: no such page")
    try:
        return page.read_text(encoding="utf-8")
    except ValueError as error:
        raise ConfigError(f"{page}: not a page of UTF-8 ({error})") from None


def _table(kind: str, body: str, page: Path) -> str:
    rows = [[part.strip() for part in line.split("|")] for line in body.strip().splitlines()]
    success = ["successes", "95 % interval", "failed after"]
    if kind == "success":
        found = [(label, path) for label, pattern in rows for path in _files(page, pattern)]
        return markdown(["", *success], [[label or _name(path), *_success(path)] for label, path in found])
    if kind.startswith("grid "):
        heads = [head.strip() for head in kind.removeprefix("grid ").split("|")]
        if wrong := [row[0] for row in rows if len(row) != 1 + len(heads)]:
            raise ConfigError(f"{page}: the grid's line {wrong[0]} does not name {len(heads)} ledgers")
        return markdown(
            ["", *heads], [[label, *(_cell(page, ledger) for ledger in ledgers)] for label, *ledgers in rows]
        )
    which, _, names = kind.removeprefix("metrics ").partition(":")
    columns = names.split()
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"{page}: no column '{unknown[0]}'; known: {', '.join(COLUMNS)}")
    played = any(len(row) > 2 for row in rows)
    heads = ["", *(COLUMNS[name][0] for name in columns), *(success[:2] if played else ())]
    lines = []
    for label, metrics, *rollout in rows:
        cells = _metrics(_files(page, metrics)[0], which.split(), columns)
        own = _success(_files(page, rollout[0])[0])[:2] if rollout else ["", ""]
        lines.append([label, *cells, *(own if played else ())])
    return markdown(heads, lines)


def _files(page: Path, pattern: str) -> list[Path]:
    found = sorted(page.parent.glob(pattern))
    if not found:
        raise ConfigError(f"{page}: {pattern} is not there")
    return found


def _name(path: Path) -> str:
    row = _rows(path)[0]
    return f"`{task_name(row.task, row.task_version)}`, `{row.policy}`"


def _rows(path: Path) -> tuple[EpisodeRow, ...]:
    if not (rows := Ledger(path).rows()):
        raise ConfigError(f"{path}: a ledger without an episode")
    return rows


def _success(path: Path) -> list[str]:
    rows = _rows(path)
    n, k = len(rows), sum(row.success for row in rows)
    low, high = wilson(k, n)
    return [f"{k} / {n}", f"{low:.2f} to {high:.2f}", phase_counts(failed_after(rows)) or "-"]


def _cell(page: Path, ledger: str) -> str:
    successes, interval, _ = _success(_files(page, ledger)[0])
    return f"{successes} ({interval})"


def _metrics(path: Path, which: Sequence[str], columns: Sequence[str]) -> list[str]:
    views, source = which
    table = read_frame(path, ("views", "source"), ConfigError)
    table = table[(table["views"] == views) & (table["source"] == source)]
    if len(table) != 1:
        raise ConfigError(f"{path}: {len(table)} rows of {views} {source}, expected one")
    cells = []
    for name in columns:
        _, digits, unit = COLUMNS[name]
        try:
            value, interval = with_interval(table.iloc[0], name, digits)
        except ValueError as error:
            raise ConfigError(f"{path}: column {name} holds no number ({error}); run the evaluation again") from None
        cells.append(value and f"{value}{unit}" + (f" ({interval})" if interval else ""))
    return cells


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
