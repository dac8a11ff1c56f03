"""``geo4d-bench error-budget``: the stage to blame for each lost episode of a rollout.

The lost episodes are played again on the same seeds, each time with one stage of the policy replaced by the truth
(``policies.true_stages``). docs/error_budget.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geo4d_bench.drawing import BLUE, GREY, caption, figure
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.statistics import mcnemar_exact, wilson
from geo4d_bench.io import held, write_atomic
from geo4d_bench.policies.true_stages import STAGES, Replacement, lacking
from geo4d_bench.rollout import rollout
from geo4d_bench.rollout.config import RolloutConfig, config_type, prepare
from geo4d_bench.rollout.ledger import EpisodeRow

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ErrorBudget", "RolloutConfig", "blame", "config_type", "run"]

TOGETHER, NOT_THE_PLAN, UNKNOWN = "several stages together", "not the plan", "unknown"
REPLACEMENTS = ("seed", "replacement", "status", "success")
BLAME = ("seed", "phase", "blame", "won_with_other_noise")
SHARES = ("replacement", "n", "won", "share", "low", "high", "won_alone", "p")


@dataclass(frozen=True)
class ErrorBudget:
    """Why episodes were lost.

    Attributes:
        played: the rollout.
        replacements: a row for each lost episode and replacement, columns REPLACEMENTS.
        blame: a row for each lost episode, columns BLAME, see :func:`blame`.
        shares: a row for each replacement, columns SHARES: of the n lost episodes how many it won, with a 95 % Wilson
            interval, how many no other stage won, and p of the exact McNemar test against other noise on the same
            episodes, with Holm's correction over the stages (NaN for controls, and where there is no other noise).
        left_out: the stages that this policy does not have, and why.
        out: the folder of the files.
    """

    played: rollout.Rollout
    replacements: pd.DataFrame
    blame: pd.DataFrame
    shares: pd.DataFrame
    left_out: tuple[str, ...]
    out: Path

    @property
    def exit_code(self) -> int:
        """1 where an episode crashed."""
        return max(self.played.exit_code, int((self.replacements["status"] == "crash").any()))

    def __str__(self) -> str:
        first, crashes = self.played.rows[0], self.replacements[self.replacements["status"] == "crash"]
        number = len(self.played.rows)
        lines = [f"{first.title} on {first.views} views: {len(self.blame)} of {number} episodes lost"]
        if crashed := sum(row.status == "crash" for row in self.played.rows):
            lines.append(f"{crashed} more crashed and are left out ({self.played.out / 'crashes.log'})")
        if len(self.blame):
            lines += self._table()
            lines += [f"to blame: {what}: {n}" for what, n in self.blame["blame"].value_counts(sort=False).items()]
        lines += [f"left out: {line}" for line in self.left_out]
        for name, group in crashes.groupby("replacement", sort=False):
            log = self.out / str(name) / "crashes.log"
            lines.append(f"{len(group)} crashed with {name} replaced ({log}); the same command plays them again")
        if len(self.blame):
            lines.append(f"picture: {self.out / 'error_budget.png'}")
        return "\n".join([*lines, f"numbers: {self.out / 'replacements.csv'}, blame.csv, shares.csv"])

    def _table(self) -> list[str]:
        cells = [["with", "won", "95 % interval", "no other stage wins", "p against other noise"]]
        for _, row in self.shares.iterrows():
            stage = STAGES[row["replacement"]]
            interval = f"{row['low']:.2f} to {row['high']:.2f}" if row["n"] else ""
            alone = str(row["won_alone"]) if stage.blamed else "(control)"
            p = "" if np.isnan(row["p"]) else f"{row['p']:.2g}"
            cells.append([stage.words, f"{row['won']}/{row['n']}", interval, alone, p])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def run(config: RolloutConfig) -> ErrorBudget:
    """Play the rollout as far as it is missing, then its lost episodes with each stage replaced in turn.

    Raises:
        ConfigError: a stage of ``config`` is replaced already.
        Whatever :func:`geo4d_bench.rollout.rollout.run` raises.
    """
    if config.replacement is not None:
        raise ConfigError(f"an error budget replaces every stage in turn, got replacement '{config.replacement}'")
    context = prepare(config)
    columns = context.columns
    sees_truth = columns.sensor == "perfect" and not (columns.calibration_deg or columns.calibration_cm)
    reasons = {name: lacking(name, context.factory, sees_truth) for name in STAGES}
    left_out = tuple(f"{STAGES[name].words}: {reason}" for name, reason in reasons.items() if reason)
    played = rollout.run(config)
    lost = sorted((row for row in played.rows if row.status in ("failure", "timeout")), key=lambda row: row.seed)
    seeds = [row.seed for row in lost]
    out = config.folder / "error_budget"
    found: dict[Replacement, dict[int, EpisodeRow]] = {}
    for name in [name for name, reason in reasons.items() if not reason] if lost else []:
        again = replace(config, replacement=name, realtime=played.rows[0].latency_s, out=out / name)
        with held(again.folder):
            rows, _ = rollout.play_missing(prepare(again), seeds)
        found[name] = {row.seed: row for row in rows if row.seed in seeds}
    budget = _budget(played, lost, found, left_out, out)
    for file, table in (("replacements", budget.replacements), ("blame", budget.blame), ("shares", budget.shares)):
        write_atomic(out / f"{file}.csv", table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    if lost:
        _picture(budget, out / "error_budget.png")
    return budget


def blame(won: Mapping[Replacement, bool]) -> str:
    """What an episode was lost by, given whether each replacement won it.

    The stages of which each alone wins it; several are joined by "or". Where none does, several stages together, or,
    where even a true plan loses, not the plan but what comes after it.
    """
    stages = [name for name, stage in STAGES.items() if stage.blamed and won.get(name)]
    return " or ".join(stages) or (TOGETHER if won["plan"] else NOT_THE_PLAN)


def _budget(
    played: rollout.Rollout,
    lost: Sequence[EpisodeRow],
    found: Mapping[Replacement, Mapping[int, EpisodeRow]],
    left_out: tuple[str, ...],
    out: Path,
) -> ErrorBudget:
    import pandas as pd

    verdicts: list[tuple[int, str, str, bool]] = []
    for row in lost:
        rows = {name: of_seed[row.seed] for name, of_seed in found.items()}
        won = {name: each.success for name, each in rows.items()}
        crashed = any(each.status == "crash" for each in rows.values())
        verdicts.append((row.seed, row.phase, UNKNOWN if crashed else blame(won), won.get("noise", False)))
    against_noise = _against_noise(found)
    shares = []
    for name, of_seed in found.items():
        ended = [row.success for row in of_seed.values() if row.status != "crash"]
        interval = wilson(sum(ended), len(ended)) if ended else (np.nan, np.nan)
        alone = sum(verdict == name for _, _, verdict, _ in verdicts)
        share = np.mean(ended) if ended else np.nan
        shares.append((name, len(ended), sum(ended), share, *interval, alone, against_noise.get(name, np.nan)))
    cells = [(row.seed, name, found[name][row.seed]) for row in lost for name in found]
    return ErrorBudget(
        played,
        pd.DataFrame([(seed, name, row.status, row.success) for seed, name, row in cells], columns=list(REPLACEMENTS)),
        pd.DataFrame(verdicts, columns=list(BLAME)),
        pd.DataFrame(shares, columns=list(SHARES)),
        left_out,
        out,
    )


def _against_noise(found: Mapping[Replacement, Mapping[int, EpisodeRow]]) -> dict[Replacement, float]:
    """p of each stage, see :class:`ErrorBudget`."""
    from statsmodels.stats.multitest import multipletests

    noise = {seed: row for seed, row in found.get("noise", {}).items() if row.status != "crash"}
    tested: dict[Replacement, float] = {}
    for name, of_seed in found.items():
        both = [seed for seed, row in of_seed.items() if row.status != "crash" and seed in noise]
        if STAGES[name].blamed and both:
            tested[name] = mcnemar_exact([of_seed[s].success for s in both], [noise[s].success for s in both])
    corrected = multipletests(list(tested.values()), method="holm")[1] if tested else ()
    return dict(zip(tested, map(float, corrected), strict=True))


def _picture(budget: ErrorBudget, path: Path) -> None:
    """Left how many of the lost episodes each replacement wins, right which."""
    shares, row = budget.shares, budget.played.rows[0]
    seeds = budget.blame.sort_values(["blame", "seed"])["seed"].tolist()
    colours = [BLUE if STAGES[name].blamed else GREY for name in shares["replacement"]]
    y = np.arange(len(shares))
    with figure(7.4 + min(16.0, 0.16 * len(seeds)), 1.6 + 0.36 * len(shares), path) as fig:
        left, right = fig.subplots(1, 2, sharey=True, width_ratios=(4.0, 1.4 + min(16.0, 0.16 * len(seeds))))
        left.hlines(y, shares["low"], shares["high"], color=colours, lw=5, alpha=0.28)
        left.scatter(shares["share"], y, color=colours, s=45, zorder=3, clip_on=False)
        for at, (won, n) in enumerate(zip(shares["won"], shares["n"], strict=True)):
            left.text(1.04, at, f"{won} / {n}", va="center", fontsize=8.5, color=colours[at])
        left.set_yticks(y, [STAGES[name].words for name in shares["replacement"]])
        left.set_xlim(0, 1)
        left.set_xticks(np.linspace(0, 1, 5), [f"{x:.0%}" for x in np.linspace(0, 1, 5)])
        left.set_title("share of the lost episodes won")
        left.grid(axis="x")
        won = budget.replacements[budget.replacements["success"]]
        names = shares["replacement"].tolist()
        rows = won["replacement"].map(names.index)
        right.scatter(won["seed"].map(seeds.index), rows, marker="s", s=30, color=[colours[i] for i in rows])
        right.set_xlim(-0.7, len(seeds) - 0.3)
        right.set_ylim(len(shares) - 0.5, -0.5)
        right.set_xticks(range(len(seeds)), seeds, rotation=90, fontsize=6.5)
        right.set_title("which, by seed")
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
        title = f"What wins lost episodes: {row.title}, {row.views} views, {row.task}-{row.task_version}"
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
        caption(fig, "Bars: 95 % Wilson intervals.   Right: lost episodes, by blame.   Grey: controls, no stage.")
