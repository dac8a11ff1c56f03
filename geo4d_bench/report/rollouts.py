"""The report's sections on rollouts: success rates, what is lost from rung to rung, and trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench import policies
from geo4d_bench.errors import LedgerError
from geo4d_bench.io import read_npz
from geo4d_bench.report import figures
from geo4d_bench.report.sections import Gap, Page
from geo4d_bench.rollout import leaderboard
from geo4d_bench.rollout.config import RolloutConfig
from geo4d_bench.rollout.leaderboard import BoardRow, Leaderboard
from geo4d_bench.rollout.ledger import EpisodeRow


def add_rollouts(page: Page, rows: dict[EpisodeRow, Path]) -> Leaderboard | None:
    """The leaderboard, also written as CSV; None where there are no rows."""
    page.values |= {"cards": [], "board": [], "board_notes": [], "losses": [], "loss_views": [], "fingerprints": []}
    page.values["success"] = None
    if not rows:
        what = "rollouts, so no success rates and no leaderboard"
        page.absent["rollouts"] = Gap(what, f"geo4d-bench rollout --task {page.task} --policy expert --views seen")
        return None
    board = leaderboard.compute(rows, page.out / "leaderboard.csv")
    leaderboard.write(board)
    page.values |= _losses(rows) | {
        "board": [replace(row, policy=_named(board, row, sensor=False)) for row in board.rows],
        "board_notes": board.notes(),
        "fingerprints": sorted({row.fingerprint for row in board.rows}),
        "cards": [card for policy in (*_planners(rows), "expert") for card in _cards(board, policy)],
    }
    if board.rows:
        import pandas as pd

        chart = pd.DataFrame([vars(row) for row in board.rows])
        chart["label"] = [_named(board, row) for row in board.rows]
        chart["rank"] = [_declared(row.policy).rank for row in board.rows]
        chart["colour"] = [_declared(row.policy).colour for row in board.rows]
        path = page.picture("success.png")
        figures.success_chart(chart, path)
        page.values["success"] = path.name
    there = {(row.policy, row.views) for row in board.rows if row.rooms == "fixed"}
    lacking = [(p, v) for p in _ladder(rows) for v in ("seen", "novel") if (p, v) not in there]
    if lacking:
        names = ", ".join(f"{p} on {v} views" for p, v in lacking)
        command = f"geo4d-bench rollout --task {page.task} --policy {lacking[0][0]} --views {lacking[0][1]}"
        page.absent["rollouts"] = Gap(f"rungs of the ladder ({names})", command)
    return board


def _named(board: Leaderboard, row: BoardRow, sensor: bool = True) -> str:
    """``layered (stereo, 4 steps)``: a run's policy with what is unusual about the run."""
    words = ", ".join(_unusual(board, row, sensor))
    return f"{row.title} ({words})" if words else row.title


def _unusual(board: Leaderboard, row: BoardRow, sensor: bool = True) -> list[str]:
    """What tells a run from the usual one of its policy, and from the others on the board."""
    key = (row.title, row.views, row.sensor, row.steps)
    alike = [other for other in board.rows if (other.title, other.views, other.sensor, other.steps) == key]
    words = [f"{row.sensor} depth"] if sensor and row.sensor != "perfect" else []
    words += [f"{row.steps} step{'' if row.steps == 1 else 's'}"] if row.steps else []
    for name, length in (("rig", None), ("checkpoint", 8), ("settings", 8)):
        values = {getattr(other, name) for other in alike}
        if len(values) > 1:
            words.append(getattr(row, name)[:length])
            alike = [other for other in alike if getattr(other, name) == getattr(row, name)]
    return words


def _declared(policy: str) -> type[policies.Policy]:
    """What a policy declares; the defaults of one that is not installed here."""
    return policies.policy_class(policy) if policy in policies.names() else policies.Policy


def _planners(rows: Iterable[EpisodeRow]) -> list[str]:
    """The policies among the rows that are compared with a rung of the ladder and are none themselves."""
    found = {row.policy for row in rows if _declared(row.policy).rung_above and not row.privileged}
    return sorted(found, key=lambda name: (_declared(name).rank, name))


def _ladder(rows: Iterable[EpisodeRow]) -> list[str]:
    """The rungs that a whole report has: the floor, what plans, and the oracles above it."""
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


def _losses(rows: Iterable[EpisodeRow]) -> dict[str, Any]:
    """Change of success from each rung to the one below it, and to each checkpoint of that, in fixed rooms, with
    perfect depth and the checkpoint's own sampling steps alone."""
    outcomes: dict[tuple[str, str, str, str], dict[int, bool]] = {}
    for row in rows:
        if row.status != "crash" and row.as_usual:
            outcomes.setdefault((row.policy, row.ablation, row.checkpoint, row.views), {})[row.seed] = row.success
    views = [v for v in ("seen", "novel") if any(key[3] == v for key in outcomes)]
    losses = []
    rungs = {name for name in [*_ladder(rows), *_planners(rows)] if _declared(name).rung_above}
    for lower in sorted(rungs, key=lambda name: (-_declared(name).rank, name)):
        upper = _declared(lower).rung_above
        runs = sorted({key[1:3] for key in outcomes if key[0] == lower}) or [("none", "")]
        for ablation, checkpoint in runs:
            pairs = {v: ((upper, "none", "", v), (lower, ablation, checkpoint, v)) for v in views}
            change = {v: _change(outcomes.get(a, {}), outcomes.get(b, {})) for v, (a, b) in pairs.items()}
            name = lower if ablation == "none" else f"{lower}, {ablation}"
            name = f"{name} ({checkpoint[:8]})" if len(runs) > 1 else name
            losses.append({"upper": upper, "lower": name, "stage": _declared(lower).stage, "change": change})
    return {"losses": losses, "loss_views": views}


def _change(upper: dict[int, bool], lower: dict[int, bool]) -> str:
    """Of the success rate, in percentage points, on the seeds that both have."""
    seeds = upper.keys() & lower.keys()
    if not seeds:
        return "not run"
    lost, gained = sum(upper[s] > lower[s] for s in seeds), sum(lower[s] > upper[s] for s in seeds)
    return f"{100 * (gained - lost) / len(seeds):+.0f} ({lost} lost, {gained} gained of {len(seeds)})"


def add_trajectories(page: Page, rows: dict[EpisodeRow, Path]) -> None:
    """Plans and executed paths of the first success and the first failure of a policy that plans by video."""
    shown = page.values["trajectories"] = []
    for policy in (*reversed(_planners(rows)), "oracle_video"):
        for views in ("seen", "novel"):
            mine = _latest_run(rows, policy, views)
            files = {row: rows[row].parent / "trajectories" / f"{row.seed}.npz" for row in mine}
            for success, outcome in ((True, "success"), (False, "failure")):
                alike = [row for row in mine if row.success == success]
                row = next((row for row in alike if files[row].is_file()), None)
                if row is None:
                    continue
                what = "success" if success else f"{row.status} after '{row.phase}'"
                title = f"{policy}, {views} views, seed {row.seed}: {what}"
                note = (
                    f"Lowest seed of the {len(alike)} of {len(mine)} episodes that "
                    f"{'succeeded' if success else 'failed'}; view n is {row.camera_n}, view m {row.camera_m}; "
                    f"{row.plans} plans. World frame."
                )
                picture = page.picture(f"trajectory_{policy}_{views}_{outcome}.png")
                figures.trajectory_chart(_read_trajectory(files[row]), title, note, picture)
                shown.append({"file": picture.name, "caption": f"{title}. {note}"})
        if shown:
            return
    command = f"geo4d-bench rollout --task {page.task} --policy {RolloutConfig.policy} --views novel"
    page.absent["trajectories"] = Gap("trajectories of a policy that plans by video", command)


def _latest_run(rows: dict[EpisodeRow, Path], policy: str, views: str) -> list[EpisodeRow]:
    """The rows of a policy's latest run in fixed rooms with perfect depth and the checkpoint's own sampling steps, by
    their seeds."""
    mine = [r for r in rows if (r.policy, r.views) == (policy, views) and r.as_usual]
    mine.sort(key=lambda r: r.seed)
    last = max(mine, key=lambda r: rows[r].stat().st_mtime, default=None)
    return [r for r in mine if last and (r.settings, r.checkpoint) == (last.settings, last.checkpoint)]


def _read_trajectory(path: Path) -> dict[str, tuple[figures.Floats, list[figures.Floats]]]:
    """By arm, the executed path and each plan from where it began, see :func:`~.figures.trajectory_chart`."""
    try:
        arrays = read_npz(path)
        arms = [name.split("/")[0] for name in arrays if name.endswith("/T_world_ee")]
        if not arms:
            raise ValueError("no arm in it")
        return {arm: _arm_paths(arm, arrays) for arm in arms}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LedgerError(f"{path}: not a trajectory of a rollout ({error}); run that rollout again") from None


def _arm_paths(arm: str, arrays: Mapping[str, Any]) -> tuple[figures.Floats, list[figures.Floats]]:
    position = arrays[f"{arm}/T_world_ee"][:, :3, 3]
    executed = np.column_stack([float(arrays["dt_s"]) * np.arange(len(position)), position])
    plans = []
    waypoints = arrays[f"{arm}/plan_T_world_ee"][..., :3, 3]
    for step, seconds, positions in zip(arrays["plan_step"], arrays["plan_time_s"], waypoints, strict=True):
        plan = np.column_stack([seconds, positions])
        plans.append(np.concatenate([executed[step : step + 1], plan[np.isfinite(positions).all(-1)]]))
    return executed, plans
