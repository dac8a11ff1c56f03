"""Rollouts: a policy plays seeded episodes from seen or novel views; every episode is a row the moment it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from geo4d_bench.errors import LedgerError
from geo4d_bench.io import held
from geo4d_bench.rollout import leaderboard, workers
from geo4d_bench.rollout.config import RolloutConfig, RolloutContext, config_type, prepare
from geo4d_bench.rollout.leaderboard import Leaderboard
from geo4d_bench.rollout.ledger import EpisodeRow, Ledger
from geo4d_bench.runs import claim, read_run

__all__ = ["Rollout", "RolloutConfig", "config_type", "run"]


@dataclass(frozen=True)
class Rollout:
    """A finished rollout.

    Attributes:
        rows: all rows of the ledger, this call's and earlier ones'.  made: how many this call made.
    """

    rows: tuple[EpisodeRow, ...]
    made: int
    board: Leaderboard
    out: Path

    @property
    def exit_code(self) -> int:
        """1 where an episode crashed, else 0: failing at the task is a result, not an error."""
        return self.board.exit_code

    def __str__(self) -> str:
        first = self.rows[0]
        count = Counter(row.status for row in self.rows)
        status = ", ".join(f"{count[s]} {s}" for s in ("success", "failure", "timeout", "crash") if count[s])
        failed = leaderboard.phase_counts(leaderboard.failed_after(self.rows))
        lines = [
            f"{first.title} on {first.views} views: {status} ({self.made} of {len(self.rows)} made now)",
            *([f"without success, last phase reached: {failed}"] if failed else []),
            *self.board.table(),
            *self.board.notes(),
            f"rows, leaderboard and trajectories: {self.out}",
            f"compare: geo4d-bench leaderboard {self.out.parent}",
        ]
        return "\n".join(lines)


def run(config: RolloutConfig) -> Rollout:
    """Play the episodes that are not in the ledger yet.

    Raises:
        UnknownNameError, ConfigError, CheckpointError: see :func:`~geo4d_bench.rollout.config.prepare`.
        RunError: ``out`` holds another run.
        SceneError: no OpenGL draws here what the policy or the film shall see.
        BusyError: another command is writing ``out``.
        SceneError: a camera sees nothing.
    """
    from geo4d_bench.tasks.rigs import warn_of_unseen_workspace

    context = prepare(config)
    warn_of_unseen_workspace(context.views.rig, *(context.settings["image_size"] or (config.height, config.width)))
    with held(config.folder):
        context = with_latency(context)
        rows, made = play_missing(context, range(config.seed, config.seed + config.episodes))
        board = leaderboard.run(leaderboard.LeaderboardConfig((config.folder,), config.folder / "leaderboard.csv"))
    return Rollout(rows, made, board, config.folder)


def with_latency(context: RolloutContext) -> RolloutContext:
    """The same with a number for ``--realtime measured``: that of the run in the folder, so that a second call goes on
    with it, or measured where there is none. The folder must be held."""
    config = context.config
    if config.realtime != "measured":
        return context
    before = read_run(config.folder)
    if before is not None and "latency_s" in before["settings"]:
        latency_s = float(before["settings"]["latency_s"])
    else:
        _require_opengl(context)
        latency_s = workers.measure_latency_s(context)
        print(f"a plan of {config.policy} takes {latency_s:g} s here (median of {workers.MEASURED_PLANS})")
    return prepare(replace(config, realtime=latency_s, out=config.folder), context.factory)


def _require_opengl(context: RolloutContext) -> None:
    config = context.config
    if config.cluster is None and (context.settings["image_size"] or config.video):
        from geo4d_bench.rendering.opengl import require_opengl

        require_opengl()


def play_missing(context: RolloutContext, seeds: Iterable[int]) -> tuple[tuple[EpisodeRow, ...], int]:
    """Play those episodes of ``seeds`` that are not in the run's ledger yet; all its rows, and how many were made.

    The folder must be held.
    """
    config = context.config
    run_id = claim(config.folder, "rollout", config.ledger.name, context.settings, **vars(config))
    ledger = Ledger(config.ledger)
    finished = {row.seed for row in _present(ledger, run_id) if row.status != "crash"}
    missing = [seed for seed in seeds if seed not in finished]
    if missing:
        _require_opengl(context)
        workers.play_all(context, missing)
    return ledger.read().rows, len(missing)


def _present(ledger: Ledger, run_id: str) -> tuple[EpisodeRow, ...]:
    """This run's rows; LedgerError where the ledger holds another's."""
    contents = ledger.read()
    others = {row.run_id for row in contents.rows} - {run_id}
    if others:
        raise LedgerError(
            f"{ledger.path} holds rows of another run ({', '.join(sorted(others))}, not {run_id}); give another --out"
        )
    if contents.torn is not None:
        print(f"{ledger.path}: the last line was cut off and is dropped; its episode is run again")
    return contents.rows
