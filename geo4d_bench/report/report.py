"""``geo4d-bench report``: everything found about a task on one page, with the pictures and one leaderboard.

Nothing is invented: a part that has not been made yet is named as missing, with the command that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geo4d_bench import __version__
from geo4d_bench.errors import ConfigError
from geo4d_bench.io import write_atomic
from geo4d_bench.report import rollouts, sections
from geo4d_bench.report.sections import Gap, Page


@dataclass(frozen=True)
class ReportConfig:
    """Gather results and pictures on one page."""

    task: str = "store_cereal"
    """The task to report on."""
    runs: Path | None = None
    """Folder with rollouts, checkpoints and evaluations; runs/<task> where not given."""
    data: Path | None = None
    """The dataset whose cameras are shown; data/<task> where not given."""
    out: Path | None = None
    """Where to write; <runs>/report where not given."""


@dataclass(frozen=True)
class Report:
    """Where the page, the board and the pictures are.

    Attributes:
        page: ``report.html``.  board: ``leaderboard.csv``, None where there is no rollout.
        pictures: every picture on the page.  gaps: what is missing.
        leaderboard: the board as lines of text.
    """

    page: Path
    board: Path | None
    pictures: tuple[Path, ...]
    gaps: tuple[Gap, ...]
    leaderboard: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [*self.leaderboard, ""] if self.leaderboard else []
        lines += [f"missing: {gap.what}; make it with: {gap.command}" for gap in self.gaps]
        lines += ["pictures:", *(f"  {p}" for p in self.pictures)] if self.pictures else ["no pictures yet"]
        if self.board is not None:
            lines.append(f"leaderboard: {self.board}")
        lines.append(f"report: {self.page}")
        return "\n".join(lines)


def run(config: ReportConfig) -> Report:
    """Write ``report.html``, its pictures and ``leaderboard.csv``.

    Raises:
        ConfigError: the folder of runs does not exist.
        LedgerError, DatasetError: a file that is there cannot be read.
    """
    runs = config.runs or Path("runs") / config.task
    data = config.data or Path("data") / config.task
    if not runs.is_dir() and not data.is_dir():
        raise ConfigError(
            f"report: neither {runs} nor {data} is a folder; begin with 'geo4d-bench datagen --task {config.task}'"
        )
    out = config.out or runs / "report"
    out.mkdir(parents=True, exist_ok=True)
    page = Page(config.task, out)
    rows = rollouts.episodes(runs, config.task)
    board = rollouts.add_rollouts(page, rows)
    rollouts.add_trajectories(page, rows)
    sections.add_evaluations(page, runs)
    sections.add_trainings(page, runs)
    sections.add_cameras(page, data)
    return Report(
        page=_write(page),
        board=None if board is None else board.out,
        pictures=tuple(page.files),
        gaps=tuple(page.absent.values()),
        leaderboard=() if board is None else (*board.table(), *board.notes()),
    )


def _write(page: Page) -> Path:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("geo4d_bench.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.get_template("report.html.j2")
    pictures = {"success": None, "contact_sheet": None, **page.pictures}
    absent = dict.fromkeys(("rollouts", "trajectories", "evaluation", "training", "data")) | page.absent
    text = template.render(
        task=page.task, version=__version__, pictures=pictures, absent=absent, gaps=list(page.absent.values()),
        **page.values,
    )  # fmt: skip
    path = page.out / "report.html"
    write_atomic(path, text)
    return path
