"""The report's sections on rollouts: success rates, what is lost from rung to rung, and trajectories."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.errors import LedgerError
from geo4d_bench.policies import Policy
from geo4d_bench.report.sections import Gap, Page

if TYPE_CHECKING:
    from geo4d_bench.report.figures import ArmPaths
    from geo4d_bench.rollout.leaderboard import BoardRow, Leaderboard
    from geo4d_bench.rollout.ledger import EpisodeRow


def episodes(runs: Path, task: str) -> dict[EpisodeRow, Path]:
    from geo4d_bench.rollout import leaderboard

    ledgers = leaderboard.find_ledgers(runs) if runs.is_dir() else []
    return {row: path for row, path in leaderboard.read_all(ledgers).items() if row.task == task}


def add_rollouts(page: Page, rows: dict[EpisodeRow, Path]) -> Leaderboard | None:
    from geo4d_bench.report import figures
    from geo4d_bench.rollout import leaderboard

    page.values |= {"cards": [], "board": [], "board_notes": [], "losses": [], "loss_views": [], "fingerprints": []}
    if not rows:
        page.absent["rollouts"] = Gap(
            "rollouts, so no success rates and no leaderboard",
            f"geo4d-bench rollout --task {page.task} --policy expert --views seen",
        )
        return None
    board = leaderboard.compute(rows, page.out / "leaderboard.csv")
    leaderboard.write(board)
    page.values["board"] = [replace(row, policy=_named(board, row, sensor=False)) for row in board.rows]
    page.values["board_notes"] = board.notes()
    page.values["fingerprints"] = sorted({row.fingerprint for row in board.rows})
    page.values["cards"] = [card for policy in (*_planners(rows), "expert") for card in _cards(board, policy)]
    page.values |= _losses(list(rows))
    if board.rows:
        import pandas as pd

        path = page.picture("success.png")
        shown = pd.DataFrame([vars(row) for row in board.rows])
        shown["label"] = [_named(board, row) for row in board.rows]
        declared = [_declared(row.policy) for row in board.rows]
        shown["rank"], shown["colour"] = [d.rank for d in declared], [d.colour for d in declared]
        figures.success_chart(shown, path)
        page.pictures["success"] = path.name
    there = {(row.policy, row.views) for row in board.rows}
    lacking = [(p, v) for p in _ladder(rows) for v in ("seen", "novel") if (p, v) not in there]
    if lacking:
        names = ", ".join(f"{p} on {v} views" for p, v in lacking)
        page.absent["rollouts"] = Gap(
            f"rungs of the ladder ({names})",
            f"geo4d-bench rollout --task {page.task} --policy {lacking[0][0]} --views {lacking[0][1]}",
        )
    return board


def _named(board: Leaderboard, row: BoardRow, sensor: bool = True) -> str:
    """``layered (stereo, 4 steps)``: a run's policy with what is unusual about the run."""
    words = ", ".join(_unusual(board, row, sensor))
    return f"{row.title} ({words})" if words else row.title


def _unusual(board: Leaderboard, row: BoardRow, sensor: bool = True) -> list[str]:
    """What tells a run from the usual one of its policy, and from the others on the board."""
    alike = [
        other
        for other in board.rows
        if (other.title, other.views, other.sensor, other.steps) == (row.title, row.views, row.sensor, row.steps)
    ]
    words = [f"{row.sensor} depth"] if sensor and row.sensor != "perfect" else []
    words += [f"{row.steps} step{'' if row.steps == 1 else 's'}"] if row.steps else []
    for name, length in (("rig", None), ("checkpoint", 8), ("settings", 8)):
        values = {getattr(other, name) for other in alike}
        if len(values) > 1:
            words.append(getattr(row, name)[:length])
            alike = [other for other in alike if getattr(other, name) == getattr(row, name)]
    return words


def _declared(policy: str) -> type[Policy]:
    """What a policy declares; the defaults of one that is not installed here."""
    from geo4d_bench import policies

    return policies.policy_class(policy) if policy in policies.names() else Policy


def _planners(rows: Iterable[EpisodeRow]) -> list[str]:
    """The policies among the rows that are compared with a rung of the ladder and are none themselves."""
    found = {row.policy for row in rows if _declared(row.policy).rung_above and not row.privileged}
    return sorted(found, key=lambda name: (_declared(name).rank, name))


def _ladder(rows: Iterable[EpisodeRow]) -> list[str]:
    """The rungs that a whole report has: the floor, what plans, and the oracles above it."""
    from geo4d_bench.rollout.config import RolloutConfig

    rungs = ["random", *(_planners(rows) or [RolloutConfig.policy])]
    above = _declared(rungs[-1]).rung_above
    while above:
        rungs.append(above)
        above = _declared(above).rung_above
    return rungs


def _cards(board: Leaderboard, policy: str) -> list[dict[str, str]]:
    return [
        {
            "label": ", ".join([row.title, f"{row.views} views", *_unusual(board, row)]),
            "kind": row.views,
            "value": f"{row.success_rate:.0%}",
            "note": f"{row.k} of {row.n} episodes, 95 % interval {row.ci_low:.0%} to {row.ci_high:.0%}",
        }
        for views in ("seen", "novel")
        for row in board.rows
        if (row.policy, row.views) == (policy, views)
    ]


def _losses(rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    """Change of success from each rung to the one below it, and to each checkpoint of that, on the seeds that both
    have; with perfect depth and the checkpoint's own sampling steps alone."""
    outcomes: dict[tuple[str, str, str, str], dict[int, bool]] = {}
    for row in rows:
        if row.status != "crash" and (row.sensor, row.steps) == ("perfect", 0):
            outcomes.setdefault((row.policy, row.ablation, row.checkpoint, row.views), {})[row.seed] = row.success
    views = [v for v in ("seen", "novel") if any(key[3] == v for key in outcomes)]
    losses = []
    rungs = [name for name in [*_ladder(rows), *_planners(rows)] if _declared(name).rung_above]
    for lower in sorted(set(rungs), key=lambda name: (-_declared(name).rank, name)):
        upper, stage = _declared(lower).rung_above, _declared(lower).stage
        runs = sorted({key[1:3] for key in outcomes if key[0] == lower}) or [("none", "")]
        for ablation, checkpoint in runs:
            change = {}
            for v in views:
                a, b = outcomes.get((upper, "none", "", v), {}), outcomes.get((lower, ablation, checkpoint, v), {})
                seeds = sorted(a.keys() & b.keys())
                change[v] = "not run"
                if seeds:
                    lost, gained = sum(a[s] and not b[s] for s in seeds), sum(b[s] and not a[s] for s in seeds)
                    percent = 100 * (gained - lost) / len(seeds)
                    change[v] = f"{percent:+.0f} ({lost} lost, {gained} gained of {len(seeds)})"
            name = lower if ablation == "none" else f"{lower}, {ablation}"
            name = f"{name} ({checkpoint[:8]})" if len(runs) > 1 else name
            losses.append({"upper": upper, "lower": name, "stage": stage, "change": change})
    return {"losses": losses, "loss_views": views}


def add_trajectories(page: Page, rows: dict[EpisodeRow, Path]) -> None:
    """Plans and executed paths of the first success and the first failure of a policy that plans by video."""
    from geo4d_bench.report import figures
    from geo4d_bench.rollout.config import RolloutConfig

    for policy in (*reversed(_planners(rows)), "oracle_video"):
        for views in ("seen", "novel"):
            key = (policy, views, "perfect", 0)
            mine = sorted((r for r in rows if (r.policy, r.views, r.sensor, r.steps) == key), key=lambda r: r.seed)
            if mine:  # of several runs the last
                last = max(mine, key=lambda r: rows[r].stat().st_mtime)
                mine = [r for r in mine if (r.settings, r.checkpoint) == (last.settings, last.checkpoint)]
            for success in (True, False):
                found = [(r, rows[r].parent / "trajectories" / f"{r.seed}.npz") for r in mine if r.success == success]
                found = [(r, path) for r, path in found if path.is_file()]
                if not found:
                    continue
                row, source = found[0]
                arms = _read_trajectory(source)
                outcome = "success" if success else f"{row.status} after '{row.phase}'"
                title = f"{policy}, {views} views, seed {row.seed}: {outcome}"
                alike = sum(r.success == success for r in mine)
                note = (
                    f"Lowest seed of the {alike} of {len(mine)} episodes that {'succeeded' if success else 'failed'}; "
                    f"view n is {row.camera_n}, view m {row.camera_m}; {row.plans} plans. World frame."
                )
                picture = page.picture(f"trajectory_{policy}_{views}_{'success' if success else 'failure'}.png")
                figures.trajectory_chart(arms, title, note, picture)
                page.pictures["trajectories"].append({"file": picture.name, "caption": f"{title}. {note}"})
        if page.pictures["trajectories"]:
            return
    page.absent["trajectories"] = Gap(
        "trajectories of a policy that plans by video",
        f"geo4d-bench rollout --task {page.task} --policy {RolloutConfig.policy} --views novel",
    )


def _read_trajectory(path: Path) -> list[ArmPaths]:
    """The executed path of each arm, and each whole plan from where it began."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            arms = [name.split("/")[0] for name in arrays.files if name.endswith("/T_world_ee")]
            return [_arm_paths(arm, arrays) for arm in arms]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LedgerError(f"{path}: not a trajectory of a rollout ({error}); run that rollout again") from None


def _arm_paths(arm: str, arrays: Mapping[str, Any]) -> ArmPaths:
    from geo4d_bench.report.figures import ArmPaths, Path3D

    position, dt_s = arrays[f"{arm}/T_world_ee"][:, :3, 3], float(arrays["dt_s"])
    waypoints = arrays[f"{arm}/plan_T_world_ee"][:, :, :3, 3]
    plans = []
    for step, seconds, plan in zip(arrays["plan_step"], arrays["plan_time_s"], waypoints, strict=True):
        there = np.isfinite(plan).all(-1)
        time_s = np.concatenate([[step * dt_s], seconds[there]])
        plans.append(Path3D(time_s, np.concatenate([position[step : step + 1], plan[there]])))
    return ArmPaths(arm, Path3D(dt_s * np.arange(len(position)), position), plans)
