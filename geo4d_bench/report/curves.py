"""``geo4d-bench curves``: success, gripper error and mIoU against where cameras stand and what disturbs them.

What is drawn is what rows say: nothing is played or scored here. docs/curves.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tyro.conf import Positional

from geo4d_bench.csv_files import read_frame
from geo4d_bench.dataset.sensors import SENSORS, Missing, Perfect, Stereo
from geo4d_bench.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, caption, figure
from geo4d_bench.errors import LedgerError
from geo4d_bench.geometry.rig import DrawnRig
from geo4d_bench.io import write_atomic
from geo4d_bench.rollout import leaderboard
from geo4d_bench.rollout.ledger import EpisodeRow, RunColumns
from geo4d_bench.seeding import generator
from geo4d_bench.tasks.rigs import RIGS, make_rig

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

WORSE = {"success": -1, "gripper_cm": 1, "miou": -1}
"""Measures, and whether they rise (1) or fall (-1) where things get worse."""
LABELS = {
    "success": "success rate",
    "gripper_cm": "gripper position error (cm)",
    "miou": "mIoU of the two views' hands",
}
CAMERA_AXES = {
    "view_angle_deg": "angle to the nearest training camera (°)",
    "elevation_deg": "elevation of the cameras (°)",
    "distance_m": "distance of the cameras (m)",
    "fovy_deg": "vertical field of view (°)",
    "baseline_m": "baseline between the two cameras (m)",
}
DISTURBANCES = {
    "calibration_deg": "calibration error (°)",
    "calibration_cm": "calibration error (cm)",
    "depth_noise_mm": "depth noise at 1 m (mm)",
    "depth_missing": "share of missing depth",
}
CALIBRATIONS = ("calibration_deg", "calibration_cm")
AXES = CAMERA_AXES | DISTURBANCES
HARMFUL = ("view_angle_deg", *DISTURBANCES)
"""Axes along which a measure can only get worse; along others it rises or falls, whichever is nearer to the data."""
CURVES = ("task", "contender", "measure", "axis", "x", "n", "mean", "fit", "low", "high")
HALVING = ("task", "contender", "n", "success_at_0", "halving_deg", "low", "high", "largest_deg")
UNKNOWN = "unknown task"
"""Of evaluations whose ``metrics.csv``, of an older version, does not name their task."""
NEAR_DEG = 5.0
"""Success "at a training camera" is known where something was played within this angle of one."""
RESAMPLES = 500
_BINS = 40
_COLOURS = (PURPLE, BLUE, ORANGE, GREEN, INK, GREY)
_NO_PART_OF_A_NAME = (
    "task", "task_version", "policy", "generator", "ablation", "tracker", "segmenter", "views", "sensor", "settings",
    "privileged", "fingerprint", "calibration_deg", "calibration_cm",
)  # fmt: skip
"""Of the columns that a run's rows share: what a contender's name has already, or does not depend on."""


@dataclass(frozen=True)
class CurvesConfig:
    """Draw response curves of rollouts and evaluations."""

    runs: Positional[tuple[Path, ...]]
    """Folders, searched for episodes.csv and windows.csv below them, or such files."""
    out: Path = Path("curves")
    """Folder of curves.csv, halving.csv, pairs.csv and the pictures."""


class Fit(NamedTuple):
    """A monotone curve at x (B,), with a 95 % band, and the number and mean of what lies there."""

    x: Floats
    n: Floats
    mean: Floats
    fit: Floats
    low: Floats
    high: Floats


class Halving(NamedTuple):
    """Where success is half of what it is at 0, with a 95 % interval; infinite: not within what was played."""

    at_zero: float
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """What was found.

    Attributes:
        curves, halving: with the columns CURVES and HALVING, see :class:`Fit` and :class:`Halving`.
        pairs: ``task, contender, cameras, camera_n, camera_m, n, k``.
        notes: what is left out, and why.
    """

    curves: pd.DataFrame
    halving: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...]
    pictures: tuple[Path, ...]
    out: Path

    @property
    def halving_lines(self) -> list[str]:
        """``halving`` in words."""
        return [f"{row['task']}, {row['contender']}: {_halves(row)}" for _, row in self.halving.iterrows()]

    def __str__(self) -> str:
        lines = [*self.halving_lines, *(f"note: {note}" for note in self.notes)]
        lines += [f"picture: {path}" for path in self.pictures]
        return "\n".join([*lines, f"numbers: {self.out / 'curves.csv'}, halving.csv, pairs.csv"])


def run(config: CurvesConfig) -> Curves:
    """Read the rows, fit and draw; LedgerError where there are none, and where a file cannot be read (DatasetError)."""
    if missing := [str(path) for path in config.runs if not path.exists()]:
        raise LedgerError(f"there is no {', '.join(missing)}; give folders of rollouts and evaluations, or their files")
    found = compute(config.runs, config.out)
    if found is None:
        raise LedgerError(
            f"no episode and no window in {', '.join(map(str, config.runs)) or 'nothing'}; 'geo4d-bench rollout' "
            "writes episodes.csv and 'geo4d-bench evaluate' windows.csv"
        )
    for name in ("curves", "halving", "pairs"):
        text = getattr(found, name).to_csv(index=False, float_format="%.4f", lineterminator="\n")
        write_atomic(config.out / f"{name}.csv", text)
    return replace(found, pictures=(*draw_curves(found), *draw_pairs(found)))


def compute(paths: Sequence[Path], out: Path, task: str | None = None) -> Curves | None:
    """The curves of what lies in and below paths, of one task alone where that is given; None where there is no row.

    Nothing is written: ``out`` is where the pictures are to go.
    """
    import pandas as pd

    notes: list[str] = []
    tables = [t for t in (_episodes(paths, notes), *_windows(paths, notes)) if len(t)]
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    if task is not None:
        table = table[(table["task"] + "-").str.startswith(f"{task}-") | (table["task"] == UNKNOWN)]
    curves, halving = [], []
    for key, axis, group in _groups(table, notes):
        for measure, sign in WORSE.items():
            rows = group.dropna(subset=[measure, axis])
            if rows[axis].nunique() < 2:
                continue
            x, y, clusters = rows[axis].to_numpy(), rows[measure].to_numpy(), rows["cluster"].tolist()
            fit = monotone(x, y, clusters, sign if axis in HARMFUL else None, _rng(*key, measure, axis))
            curves.append(pd.DataFrame(dict(zip(CURVES, (*key, measure, axis, *fit), strict=True))))
            if (measure, axis) == ("success", "view_angle_deg"):
                halving.append((*key, len(rows), *halves(x, y, clusters, _rng(*key, "halving")), x.max()))
    empty = pd.DataFrame(columns=list(CURVES))
    return Curves(
        pd.concat(curves, ignore_index=True) if curves else empty,
        pd.DataFrame(halving, columns=list(HALVING)),
        _pairs(table),
        tuple(notes),
        (),
        out,
    )


def monotone(
    x: Floats,
    y: Floats,
    clusters: Sequence[Any],
    sign: int | None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Fit:
    """Isotonic regression of y (N,) on x (N,), with a band from drawing whole clusters anew.

    Args:
        clusters: (N,) what is drawn together, such as the seed that several rows share.
        sign: 1: rises, -1: falls, None: the direction that is nearer to the data.
    """
    from scipy.optimize import isotonic_regression

    at, counts, sums = _binned(x, y, clusters)
    n, mean = counts.sum(0), sums.sum(0) / counts.sum(0)

    def fitted(n: Floats, s: Floats, rises: bool) -> Floats:
        there = n > 0
        fit = isotonic_regression(s[there] / n[there], weights=n[there], increasing=rises).x
        return np.asarray(np.interp(at, at[there], fit))

    def off(rises: bool) -> float:
        return float(n @ (fitted(n, sums.sum(0), rises) - mean) ** 2)

    rises = sign > 0 if sign is not None else off(True) < off(False)
    drawn = [fitted(w @ counts, w @ sums, rises) for w in _weights(len(counts), resamples, rng)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Fit(at, n, mean, fitted(n, sums.sum(0), rises), low, high)


def halves(
    x: Floats, success: Floats, clusters: Sequence[Any], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Halving:
    """Where the success rate has fallen to half of that at x = 0, by a logistic curve below a plateau.

    ``top / (1 + exp((x - middle) / width))`` of the largest likelihood, over a grid: 40 tops up to 1, 76 middles up to
    1.5 times the largest x, 8 widths from 0.02 to 0.5 times it. What lies beyond the largest x was not seen, and counts
    as infinite. Its interval comes from drawing whole clusters anew. NaN where nothing succeeded, or where no x is
    within ``NEAR_DEG``, so that success at 0 was not seen.
    """
    from scipy.special import expit, logit

    if x.min() > NEAR_DEG or not success.any():
        return Halving(0.0 if x.min() <= NEAR_DEG else np.nan, np.nan, np.nan, np.nan)
    at, counts, sums = _binned(x, success, clusters)
    end = float(x.max())
    top, middle, width = (
        grid.ravel()
        for grid in np.meshgrid(
            np.arange(1, 41) / 40, np.linspace(0, 1.5 * end, 76), end * np.geomspace(0.02, 0.5, 8), indexing="ij"
        )
    )
    p = np.clip(top[:, None] * expit((middle[:, None] - at) / width[:, None]), 1e-6, 1 - 1e-6)
    at_zero = expit(middle / width)
    half = middle - width * logit(0.5 * at_zero)
    half[half > end] = np.inf
    weights = np.concatenate([np.ones((1, len(counts))), _weights(len(counts), resamples, rng)])
    weights = weights[weights @ sums.sum(1) > 0]
    won, played = weights @ sums, weights @ counts
    log_odds, log_lost = np.log(p) - np.log1p(-p), np.log1p(-p)
    best = np.concatenate(
        [
            np.argmax(log_odds @ won[i : i + 50].T + log_lost @ played[i : i + 50].T, axis=0)
            for i in range(0, len(weights), 50)
        ]
    )
    # Of a whole number of resamples: between a finite angle and an infinite one lies none.
    low, high = np.quantile(half[best[1:]], [0.025, 0.975], method="inverted_cdf")
    return Halving(float(top[best[0]] * at_zero[best[0]]), float(half[best[0]]), float(low), float(high))


def draw_curves(curves: Curves) -> Iterator[Path]:
    """A picture for each task and measure."""
    for (task, measure), table in curves.curves.groupby(["task", "measure"], sort=False):
        path = curves.out / f"{measure}_{_file_name(task)}.png"
        _curve_picture(table, str(task), str(measure), curves.halving, path)
        yield path


def draw_pairs(curves: Curves) -> Iterator[Path]:
    """A matrix of success by camera pair for each contender and set of cameras."""
    for (task, contender, cameras), table in curves.pairs.groupby(["task", "contender", "cameras"], sort=False):
        path = curves.out / f"pairs_{_file_name(f'{task} {contender} {cameras}')}.png"
        _pair_picture(table, f"{task}: {contender}, cameras of {cameras}", path)
        yield path


def _episodes(paths: Sequence[Path], notes: list[str]) -> pd.DataFrame:
    import pandas as pd

    ledgers = [ledger for path in paths if not _is_windows(path) for ledger in leaderboard.find_ledgers(path)]
    rows = list(leaderboard.read_all(ledgers))
    if crashed := sum(row.status == "crash" for row in rows):
        notes.append(f"{crashed} episodes crashed and are left out; run those rollouts again")
    rows = [row for row in rows if row.status != "crash"]
    names = _contenders(rows)
    table = pd.DataFrame([vars(row) for row in rows])
    if rows:
        table["task"] = table["task"] + "-" + table["task_version"]
        table["contender"], table["cluster"] = names, table["seed"].astype(str)
        table["cameras"] = table["views"].where(~table["views"].isin(["seen", "novel"]), table["rig"])
        table["success"] = table["success"].astype(float)
    return _with_depth(table)


def _contenders(rows: Sequence[EpisodeRow]) -> list[str]:
    """Names: a policy's title, and what else tells its runs apart."""
    titles = [replace(row, calibration_deg=0.0, calibration_cm=0.0).title for row in rows]
    parts = [field.name for field in fields(RunColumns) if field.name not in _NO_PART_OF_A_NAME]
    values: dict[tuple[str, str, str], set[object]] = {}
    for row, title in zip(rows, titles, strict=True):
        for part in parts:
            values.setdefault((row.task, title, part), set()).add(getattr(row, part))
    return [
        ", ".join(
            [title, *(f"{part} {getattr(row, part)!s:.12}" for part in parts if len(values[row.task, title, part]) > 1)]
        )
        for row, title in zip(rows, titles, strict=True)
    ]


def _windows(paths: Sequence[Path], notes: list[str]) -> Iterator[pd.DataFrame]:
    """Of each evaluation, the windows of what was generated, with what ``metrics.csv`` beside them says of it."""
    files = [[path] if _is_windows(path) else sorted(path.rglob("windows.csv")) for path in paths]
    for path in dict.fromkeys(file.resolve() for found in files for file in found):
        head_path = path.with_name("metrics.csv")
        if not head_path.is_file():
            notes.append(f"{path} has no metrics.csv beside it, as an interrupted evaluation, and is left out")
            continue
        table, head = (
            read_frame(path, ("views", "window", "source")),
            read_frame(head_path, ("views", "source")).iloc[0],
        )
        table = table[table["source"] == "generated"]
        yield _with_depth(
            table.assign(
                task=head.get("task", UNKNOWN),
                contender=f"{head['name']} ({str(head['checkpoint'])[:8]})",
                sensor=head["sensor"],
                cluster=table["episode"],
            )
        )


def _is_windows(path: Path) -> bool:
    return path.is_file() and path.name.startswith("windows")


def _with_depth(table: pd.DataFrame) -> pd.DataFrame:
    """With a column for every axis and measure, NaN where the rows do not say."""
    if table.empty:
        return table
    sensors = [SENSORS.get(name) if name in SENSORS else None for name in table["sensor"]]
    table["depth_noise_mm"] = [
        1e3 * s.noise_px / (s.focal_px * s.baseline_m) if isinstance(s, Stereo) else np.nan for s in sensors
    ]
    table["depth_missing"] = [
        s.share if isinstance(s, Missing) else 0.0 if isinstance(s, Perfect) else np.nan for s in sensors
    ]
    for name in CALIBRATIONS:
        table[name] = table.get(name, 0.0)
    for name in (*WORSE, *CAMERA_AXES):
        table[name] = table[name].astype(float) if name in table else np.nan
    columns = ["task", "contender", "views", "sensor", "cluster", "cameras", "camera_n", "camera_m", *WORSE, *AXES]
    return table.reindex(columns=columns)


def _groups(table: pd.DataFrame, notes: list[str]) -> Iterator[tuple[tuple[str, str], str, pd.DataFrame]]:
    """What each curve is made of: (task, contender), axis, and the rows in which only that was varied on purpose."""
    left_out: dict[str, list[str]] = {}
    told_right = (table["calibration_deg"] == 0) & (table["calibration_cm"] == 0)
    for (task, contender, sensor), rows in table[told_right].groupby(["task", "contender", "sensor"], sort=False):
        name = str(contender) if sensor == "perfect" else f"{contender}, {sensor} depth"
        lacking = rows[list(CAMERA_AXES)].isna().sum()
        for number in sorted({int(lacking[axis]) for axis in CAMERA_AXES} - {0}):
            axes = ", ".join(axis for axis in CAMERA_AXES if lacking[axis] == number)
            left_out.setdefault(f"{task}: no {axes} in rows of {{}}, which are left out there", []).append(
                f"{name} ({number} of {len(rows)})"
            )
        if constant := ", ".join(axis for axis in CAMERA_AXES if rows[axis].nunique() == 1):
            left_out.setdefault(f"{task}: one {constant} in all rows of {{}}: no curve", []).append(name)
        for axis in CAMERA_AXES:
            yield (str(task), name), axis, rows
    notes += [sentence.format("; ".join(names)) for sentence, names in left_out.items()]
    for axis in DISTURBANCES:
        others = [name for name in CALIBRATIONS if name != axis]
        rows = table[(table[others] == 0).all(axis=1) & table[axis].notna()]
        by = ["task", "contender", "views", *(["sensor"] if axis in CALIBRATIONS else [])]
        for key, group in rows.groupby(by, sort=False):
            depth = f", {key[3]} depth" if len(key) > 3 and key[3] != "perfect" else ""
            yield (str(key[0]), f"{key[1]}, {key[2]} views{depth}"), axis, group


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Successes of each pair of cameras that stand where they stand in every episode."""
    moving = [name for name in RIGS if isinstance(make_rig(name, (0.0, 0.0, 1.0)), DrawnRig)]
    fixed = (table["calibration_deg"] == 0) & (table["calibration_cm"] == 0) & (table["sensor"] == "perfect")
    rows = table[fixed & ~table["cameras"].isin(moving)].dropna(subset=["success", "cameras"])
    grouped = rows.groupby(["task", "contender", "cameras", "camera_n", "camera_m"])["success"]
    return grouped.agg(n="size", k="sum").astype(int).reset_index()


def _binned(x: Floats, y: Floats, clusters: Sequence[Any]) -> tuple[Floats, Floats, Floats]:
    """Places (B,), and for each cluster the number (C, B) and the sum (C, B) of what lies there."""
    places, place = np.unique(x, return_inverse=True)
    if len(places) > _BINS:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, _BINS + 1)[1:-1]))
        _, place = np.unique(np.searchsorted(edges, x, side="right"), return_inverse=True)
        places = np.bincount(place, x) / np.bincount(place)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    counts, sums = (np.zeros((cluster.max() + 1, len(places))) for _ in range(2))
    np.add.at(counts, (cluster, place), 1.0)
    np.add.at(sums, (cluster, place), y)
    return places, counts, sums


def _weights(clusters: int, resamples: int, rng: np.random.Generator) -> Floats:
    """(R, C) how often each cluster is drawn."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def _rng(*names: str) -> np.random.Generator:
    return generator("curves", "eval", 0, "/".join(names))


def _halves(row: pd.Series[Any]) -> str:
    n, end = f"{row['n']} episodes", f"{row['largest_deg']:.0f} degrees"
    if np.isnan(row["success_at_0"]):
        return f"nothing played within {NEAR_DEG:g} degrees of a training camera: play seen views, too"
    if np.isnan(row["halving_deg"]):
        return f"no success in {n}"
    at = f"success {row['success_at_0']:.2f} at a training camera"
    low, high = (f"{v:.0f}" if np.isfinite(v) else f"beyond {end}" for v in row[["low", "high"]])
    if np.isinf(row["halving_deg"]):
        return f"{at}, not halved within {end} ({n}; interval {low} to {high})"
    return f"{at}, half of it {row['halving_deg']:.0f} degrees from the nearest one ({low} to {high}; {n}, up to {end})"


def _in_order(camera: str) -> tuple[str, int]:
    """``az-040`` before ``az+030``, ``cam2`` before ``cam10``."""
    word, number = re.fullmatch(r"(.*?)([+-]?\d*)", camera).groups()  # type: ignore[union-attr]
    return word, int(number) if number.strip("+-") else 0


def _file_name(text: object) -> str:
    return re.sub(r"[^\w.-]+", "_", str(text))


def _curve_picture(table: pd.DataFrame, task: str, measure: str, halving: pd.DataFrame, path: Path) -> None:
    axes_there = [axis for axis in AXES if axis in set(table["axis"])]
    columns = min(3, len(axes_there))
    rows = -(-len(axes_there) // columns)
    contenders = list(dict.fromkeys(table["contender"]))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(contenders)}
    with figure(4.2 * columns, 3.4 * rows + 0.3 * len(contenders) + 0.4, path) as fig:
        panels = np.atleast_1d(fig.subplots(rows, columns, sharey=True)).ravel()
        handles = {}
        for ax, axis in zip(panels, axes_there, strict=False):
            for name, curve in table[table["axis"] == axis].groupby("contender", sort=False):
                colour = colours[str(name)]
                ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.16, lw=0)
                (handles[name],) = ax.plot(curve["x"], curve["fit"], color=colour)
                ax.scatter(curve["x"], curve["mean"], s=6 + 2 * np.sqrt(curve["n"]), color=colour, alpha=0.35, lw=0)
                at = halving[(halving["task"] == task) & (halving["contender"] == name)]["halving_deg"]
                if (measure, axis) == ("success", "view_angle_deg") and np.isfinite(at).any():
                    ax.axvline(float(at.iloc[0]), color=colour, lw=1.0, ls=(0, (1, 2)))
            ax.set_xlabel(AXES[axis])
            ax.grid(axis="y")
        for ax in panels[len(axes_there) :]:
            ax.set_axis_off()
        panels[0].set_ylim(0, 1.03 if measure != "gripper_cm" else None)
        panels[0].set_ylabel(LABELS[measure])
        fig.suptitle(task, x=0.01, ha="left", fontsize=11, weight="bold")
        fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, fontsize=8.5)
        caption(fig, "Isotonic fits, 95 % bootstrap bands. Dots: means. Dotted: where success halves.")


def _pair_picture(table: pd.DataFrame, title: str, path: Path) -> None:
    import matplotlib

    names = sorted({*table["camera_n"], *table["camera_m"]}, key=_in_order)
    rate = np.full((len(names), len(names)), np.nan)
    side = 1.6 + 0.42 * len(names)
    with figure(side + 1.2, side, path) as fig:
        ax = fig.subplots()
        for n, m, number, k in table[["camera_n", "camera_m", "n", "k"]].itertuples(index=False):
            i, j = names.index(n), names.index(m)
            rate[i, j] = k / number
            ax.text(j, i, f"{k}/{number}", ha="center", va="center", fontsize=6.5, color=INK)
        colours = matplotlib.colormaps["RdYlBu"].with_extremes(bad="#F2F3F5")
        shown = ax.imshow(rate, vmin=0, vmax=1, cmap=colours, alpha=0.8)
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
        ax.set_yticks(range(len(names)), names, fontsize=7.5)
        ax.set_xlabel("camera m")
        ax.set_ylabel("camera n (reference)")
        ax.set_title(title, fontsize=9)
        fig.colorbar(shown, ax=ax, shrink=0.7, label="success rate")
