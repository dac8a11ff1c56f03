"""``geo4d-bench report``: everything found about a task on one page, with the pictures and one leaderboard.

Nothing is invented: a part that has not been made yet is named as missing, with the command that makes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from geo4d_bench import __version__
from geo4d_bench.errors import ConfigError
from geo4d_bench.io import write_atomic
from geo4d_bench.registry import task_name
from geo4d_bench.report import audit, curves, rollouts, sections
from geo4d_bench.report.curve_pictures import draw_curves
from geo4d_bench.report.sections import Gap, Page
from geo4d_bench.rollout import leaderboard
from geo4d_bench.rollout.leaderboard import Leaderboard


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
    """The page ``report.html``, its leaderboard (None where there is no rollout), its pictures, and what is missing."""

    page: Path
    board: Leaderboard | None
    pictures: tuple[Path, ...]
    gaps: tuple[Gap, ...]

    def __str__(self) -> str:
        lines = [*self.board.table(), *self.board.notes(), ""] if self.board else []
        lines += [f"missing: {gap.what}; make it with: {gap.command}" for gap in self.gaps]
        lines += ["pictures:", *(f"  {p}" for p in self.pictures)] if self.pictures else ["no pictures yet"]
        lines += [f"leaderboard: {self.board.out}"] if self.board else []
        return "\n".join([*lines, f"report: {self.page}"])


def run(config: ReportConfig) -> Report:
    """Write ``report.html``, its pictures and ``leaderboard.csv``.

    Raises:
        ConfigError: the folder of runs does not exist.
        LedgerError, DatasetError: a file that is there cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    runs = config.runs or Path("runs") / config.task
    data = config.data or Path("data") / config.task
    if not runs.is_dir() and not data.is_dir():
        raise ConfigError(
            f"report: neither {runs} nor {data} is a folder; begin with 'geo4d-bench datagen --task {config.task}'"
        )
    page = Page(config.task, config.out or runs / "report")
    page.out.mkdir(parents=True, exist_ok=True)
    episodes = leaderboard.read_all(leaderboard.find_ledgers(runs))
    rows = {
        row: path for row, path in episodes.items() if config.task in (row.task, task_name(row.task, row.task_version))
    }
    board = rollouts.add_rollouts(page, rows)
    rollouts.add_trajectories(page, rows)
    sections.add_evaluations(page, runs)
    drawn = curves.compute((runs,), page.out, page.task)
    pictures = draw_curves(drawn.curves, drawn.halving, page.out) if drawn else ()
    page.values["curves"] = [path.name for path in pictures]
    page.values["curve_notes"] = drawn.halving_lines if drawn else []
    page.files += [page.out / name for name in page.values["curves"]]
    ended = {row: path for row, path in rows.items() if row.status != "crash"}
    page.values["audit"] = audit.diagnose(ended, (runs,), data.parent) if ended else ()
    sections.add_trainings(page, runs)
    sections.add_cameras(page, data)
    loader = PackageLoader("geo4d_bench.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = lambda text: Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text))))
    template = environment.get_template("report.html.j2")
    path = page.out / "report.html"
    write_atomic(path, template.render(task=page.task, version=__version__, absent=page.absent, **page.values))
    return Report(path, board, tuple(page.files), tuple(page.absent.values()))
