"""From one row a window to the tables of an evaluation: means with intervals that respect episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.evaluation.frechet import frechet_interval, pair_distance
from geo4d_bench.evaluation.statistics import Mean, cluster_mean
from geo4d_bench.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

    from geo4d_bench.evaluation.frechet import Extractor
    from geo4d_bench.evaluation.window_store import WindowStore

TIMES = ("generate_ms", "track_ms")
ARM_PREFIX = "gripper_cm_of_"


def shown(row: pd.Series[Any]) -> dict[str, tuple[str, str]]:
    """What people are shown of a row of ``metrics.csv``: by its heading each number and its interval, as text."""
    from geo4d_bench.evaluation.scoring import all_metrics

    headings = {name: (metric.title, metric.decimals) for name, metric in all_metrics().items() if metric.title}
    headings |= {
        "frechet_derivatives_n": ("Fréchet n, derivatives", 1),
        "frechet_derivatives_m": ("Fréchet m, derivatives", 1),
        "fvd_n": ("FVD n", 0),
        "fvd_m": ("FVD m", 0),
        "generate_ms": ("generate, ms", 0),
    }
    cells = {}
    for column, (title, decimals) in headings.items():
        if column in row:
            cells[title] = with_interval(row, column, decimals)
    return cells


def with_interval(row: pd.Series[Any], column: str, decimals: int) -> tuple[str, str]:
    """A number of ``metrics.csv`` and its interval as text, ``("0.74", "0.55 to 0.93")``; empty where there is none."""
    value, low, high = (float(row.get(column + suffix, np.nan)) for suffix in ("", "_low", "_high"))
    interval = "" if np.isnan(low) or np.isinf(value) else f"{low:.{decimals}f} to {high:.{decimals}f}"
    return "" if np.isnan(value) else f"{value:.{decimals}f}", interval


def frame_columns(frames: int) -> list[str]:
    """Columns of ``windows.csv`` with the gripper error of each frame."""
    return [f"gripper_cm_frame_{t + 1}" for t in range(frames)]


def arm_columns(arms: Sequence[str]) -> list[str]:
    """Columns with the gripper error of each arm; none where there is only one, whose error is ``gripper_cm``."""
    return [f"{ARM_PREFIX}{arm}" for arm in arms] if len(arms) > 1 else []


def by_source(
    windows: pd.DataFrame, store: WindowStore | None = None, extractors: Sequence[Extractor] = ()
) -> pd.DataFrame:
    """``metrics.csv``: one row for each (views, source) with every metric's mean, ``_low`` and ``_high``; then, of each
    extractor, its :func:`set_metrics` and ``<metric>_sha256``.

    Args:
        windows: ``views, source, window, episode``, a column for each of all metrics and TIMES, and ``arm_columns``.
        store: the windows' features by the extractors.
    """
    import pandas as pd

    from geo4d_bench.evaluation.scoring import all_metrics

    arms = [column for column in windows.columns if column.startswith(ARM_PREFIX)]
    rows = []
    for (views, source), group in windows.groupby(["views", "source"], sort=False):
        row: dict[str, Any] = {"views": views, "source": source, "windows": len(group)}
        row["episodes"] = group["episode"].nunique()
        for name in (*all_metrics(), *arms, *TIMES):
            row |= _mean(name, group[name], group["episode"], f"{views}/{source}/{name}")
        for extractor in extractors:
            assert store is not None
            row |= set_metrics(group, store, extractor.metric) | {f"{extractor.metric}_sha256": extractor.sha256}
        rows.append(row)
    return pd.DataFrame(rows)


def set_metrics(group: pd.DataFrame, store: WindowStore, metric: str) -> dict[str, float]:
    """The Fréchet distances of one source's set of videos, the windows of ``group``, to the set of true ones.

    ``<metric>_n``, ``<metric>_m`` with ``_low``, ``_high``; ``fvd`` has ``fvd_n_paper_compat``, ``fvd_m_paper_compat``
    besides, a distance of pairs.
    """
    views, source = group[["views", "source"]].iloc[0]
    indices = group["window"].tolist()
    real, made = (store.features(views, indices, f"{s}/{metric}") for s in ("true_frames", source))
    row: dict[str, float] = {}
    for view, name in enumerate((f"{metric}_n", f"{metric}_m")):
        rng = generator("evaluation", "eval", 0, f"bootstrap/{views}/{source}/{name}")
        row |= _columns(name, frechet_interval(real[:, view], made[:, view], list(group["episode"]), rng))
        if metric == "fvd":
            row[f"{name}_paper_compat"] = pair_distance(real[:, view], made[:, view])
    return row


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
