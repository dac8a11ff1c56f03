"""From one row a window to the tables of an evaluation: means with intervals that respect episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.evaluation.bootstrap import Mean, cluster_mean
from geo4d_bench.evaluation.frechet import frechet_interval, pair_distance
from geo4d_bench.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.evaluation.window_store import WindowStore

TIMES = ("generate_ms", "track_ms")
KEYS = ("views", "source", "window")
ARM_PREFIX = "gripper_cm_of_"


def frame_columns(frames: int) -> list[str]:
    """Columns of ``windows.csv`` with the gripper error of each frame."""
    return [f"gripper_cm_frame_{t + 1}" for t in range(frames)]


def arm_columns(arms: Sequence[str]) -> list[str]:
    """Columns with the gripper error of each arm; none where there is only one, whose error is ``gripper_cm``."""
    return [f"{ARM_PREFIX}{arm}" for arm in arms] if len(arms) > 1 else []


def by_source(windows: pd.DataFrame) -> pd.DataFrame:
    """``metrics.csv``: one row for each (views, source) with every metric's mean, ``_low`` and ``_high``.

    Args:
        windows: ``views, source, window, episode``, a column for each of METRICS and TIMES, and ``arm_columns``.
    """
    import pandas as pd

    from geo4d_bench.evaluation.scoring import METRICS

    arms = [column for column in windows.columns if column.startswith(ARM_PREFIX)]
    rows = []
    for (views, source), group in windows.groupby(["views", "source"], sort=False):
        row: dict[str, Any] = {"views": views, "source": source, "windows": len(group)}
        row["episodes"] = group["episode"].nunique()
        for name in (*METRICS, *arms, *TIMES):
            row |= _mean(name, group[name], group["episode"], f"{views}/{source}/{name}")
        rows.append(row)
    return pd.DataFrame(rows)


def by_frame(windows: pd.DataFrame, dt_s: float) -> pd.DataFrame:
    """``gripper_error_by_frame.csv``: ``views, source, frame, time_s, windows, gripper_cm`` with ``_low, _high``."""
    import pandas as pd

    frames = sum(column.startswith("gripper_cm_frame_") for column in windows.columns)
    rows = []
    for (views, source), group in windows.groupby(["views", "source"], sort=False):
        for t, column in enumerate(frame_columns(frames), start=1):
            row = {"views": views, "source": source, "frame": t, "time_s": round(t * dt_s, 6), "windows": len(group)}
            rows.append(row | _mean("gripper_cm", group[column], group["episode"], f"{views}/{source}/{column}"))
    return pd.DataFrame(rows)


def add_set_metrics(
    metrics: pd.DataFrame, windows: pd.DataFrame, store: WindowStore, extractors: Sequence[tuple[str, str]]
) -> None:
    """Append the Fréchet distances to ``metrics.csv``: each source's set of videos against the set of true ones.

    For each (metric, sha256) of the extractors: ``<metric>_n``, ``<metric>_m`` with ``_low``, ``_high``, and
    ``<metric>_sha256``. ``fvd`` has ``fvd_n_paper_compat``, ``fvd_m_paper_compat`` besides, a distance of pairs.

    Args:
        metrics: from :func:`by_source`.  windows: its argument.  store: the windows' features.
    """
    for metric, sha256 in extractors:
        found: list[dict[str, float]] = []
        for views, source in zip(metrics["views"], metrics["source"], strict=True):
            mine = windows[(windows["views"] == views) & (windows["source"] == source)]
            real, made = (
                store.features(views, [int(i) for i in mine["window"]], f"{s}/{metric}")
                for s in ("true_frames", source)
            )
            row: dict[str, float] = {}
            for view, name in enumerate(f"{metric}_{letter}" for letter in "nm"):
                rng = generator("evaluation", "eval", 0, f"bootstrap/{views}/{source}/{name}")
                row |= _columns(name, frechet_interval(real[:, view], made[:, view], list(mine["episode"]), rng))
                if metric == "fvd":
                    row[f"{name}_paper_compat"] = pair_distance(real[:, view], made[:, view])
            found.append(row)
        for name in found[0]:
            metrics[name] = [row[name] for row in found]
        metrics[f"{metric}_sha256"] = sha256


def median_window(windows: pd.DataFrame, views: str) -> tuple[int, float]:
    """The window (index, gripper error in cm) whose generated gripper error is the median; the lower of two."""
    mine = windows[(windows["views"] == views) & (windows["source"] == "generated")]
    ordered = mine.sort_values(["gripper_cm", "window"], kind="stable")
    row = ordered.iloc[(len(ordered) - 1) // 2]
    return int(row["window"]), float(row["gripper_cm"])


def _mean(name: str, values: pd.Series[float], episodes: pd.Series[str], stream: str) -> dict[str, float]:
    # The resamples come from a stream of their own for each number, so that a further column changes no other.
    rng = generator("evaluation", "eval", 0, f"bootstrap/{stream}")
    return _columns(name, cluster_mean(np.asarray(values, dtype=np.float64), list(episodes), rng))


def _columns(name: str, mean: Mean) -> dict[str, float]:
    return {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
