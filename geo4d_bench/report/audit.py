"""``geo4d-bench audit RESULTS``: what success rates do not show, after the diagnostics of arXiv 2606.04233.

Whether a task can be solved without looking, which claimed differences chance explains, whether a policy fits its
seeds, cameras or room, and what it was trained on. From episode rows alone; what is missing is named, with the command
that makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.schema import MANIFEST
from geo4d_bench.errors import DatasetError, LedgerError
from geo4d_bench.io import write_atomic
from geo4d_bench.report import audit_sections as sections
from geo4d_bench.report.audit_sections import Rows, Section
from geo4d_bench.rollout import leaderboard, trainings
from geo4d_bench.rollout.ledger import EpisodeRow


@dataclass(frozen=True)
class AuditConfig:
    results: Positional[tuple[Path, ...]]
    """Folders with rollouts and trainings, or ledgers."""
    data: Path = Path("data")
    """Folder in which the datasets that policies were trained on are looked for."""
    out: Path = Path("audit.md")
    """The page to write."""


@dataclass(frozen=True)
class Audit:
    """The page ``out``: how much it is of, and its sections."""

    summary: str
    sections: tuple[Section, ...]
    out: Path

    def __str__(self) -> str:
        lines = [self.summary]
        for section in self.sections:
            lines.append(f"{section.title}: {len(section.rows)} rows, {len(section.warnings)} warnings")
            lines += [f"  {warning}" for warning in section.warnings]
            lines += [f"  missing: {what}; make it with: {command}" for what, command in section.missing]
        return "\n".join([*lines, f"audit: {self.out}"])


def run(config: AuditConfig) -> Audit:
    """Write the page; LedgerError where there are no episodes."""
    leaderboard.require_paths(config.results, "folders with rollouts and trainings, or ledgers")
    files = [path for given in config.results for path in leaderboard.files_like_ledgers(given)]
    everything = leaderboard.read_all(files)
    rows = {row: path for row, path in everything.items() if row.status != "crash"}
    if not rows:
        given = ", ".join(map(str, config.results)) or "nothing"
        raise LedgerError(f"no episodes in {given}; 'geo4d-bench rollout' plays some")
    found = diagnose(rows, config.results, config.data)
    summary = f"{len(rows)} episodes, {len(_runs(rows))} runs"
    if crashed := len(everything) - len(rows):
        summary += f"; {crashed} crashed episodes are left out, run those rollouts again"
    head = f"# Audit of {', '.join(map(str, config.results))}\n\n{summary}."
    write_atomic(config.out, "\n\n".join([head, *(section.markdown() for section in found)]) + "\n")
    return Audit(summary, found, config.out)


def diagnose(rows: Mapping[EpisodeRow, Path], results: Iterable[Path], data: Path) -> tuple[Section, ...]:
    """All sections, of episodes and where they come from; trainings are looked for in ``results`` and beside the
    episodes, datasets in ``results`` and below ``data``."""
    results = tuple(results)
    known = trainings.find({*results, *trainings.folders_of(rows, rows)})
    runs = _runs(rows)
    return (
        sections.shortcuts(runs),
        sections.differences(runs),
        sections.seeds(runs),
        sections.cameras(runs),
        sections.rooms(runs),
        sections.data(runs, known, _datasets((data, *results))),
    )


def _runs(rows: Iterable[EpisodeRow]) -> list[Rows]:
    """Episodes that differ in their seeds alone, by seed."""
    found: dict[tuple[str, ...], list[EpisodeRow]] = {}
    for row in sorted(rows, key=lambda row: (leaderboard.comparable(row), row.title, row.seed)):
        found.setdefault((*leaderboard.comparable(row), row.title, row.checkpoint, row.settings), []).append(row)
    return list(found.values())


def _datasets(roots: Iterable[Path]) -> dict[str, Dataset]:
    folders = {path.parent for root in roots if root.is_dir() for path in root.rglob(MANIFEST)}
    found = {}
    for folder in sorted(folders):
        try:
            dataset = Dataset(folder, images=False)
        except DatasetError:
            continue  # another program's manifest.json, or a damaged dataset: its checkpoints are named as unknown
        found[dataset.identity] = dataset
    return found
