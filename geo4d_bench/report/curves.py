"""``geo4d-bench curves``: success, gripper error and mIoU against where cameras stand and what disturbs them.

What is drawn is what rows say: nothing is played or scored here. docs/curves.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tyro.conf import Positional

from geo4d_bench.csv_files import read_frame
from geo4d_bench.dataset.sensors import SENSORS, Missing, Perfect, Stereo
from geo4d_bench.errors import LedgerError
from geo4d_bench.geometry.rig import Rig
from geo4d_bench.io import write_atomic
from geo4d_bench.report.curve_fits import NEAR_DEG, halves, isotonic
from geo4d_bench.report.curve_pictures import AXES, CAMERA_AXES, DISTURBANCES, draw_curves, draw_pairs
from geo4d_bench.rollout import leaderboard
from geo4d_bench.rollout.ledger import RunColumns
from geo4d_bench.seeding import generator
from geo4d_bench.tasks.protocols import PROTOCOLS
from geo4d_bench.tasks.rigs import RIGS, played_rig

if TYPE_CHECKING:
    import pandas as pd

WORSE = {"success": -1, "gripper_cm": 1, "miou": -1}
"""Measures, and whether they rise (1) or fall (-1) where things get worse."""
CALIBRATIONS = ("calibration_deg", "calibration_cm")
HARMFUL = ("view_angle_deg", *DISTURBANCES)
"""Axes along which a measure can only get worse; along others it gets better up to one place, and worse beyond it."""
CURVES = ("task", "contender", "measure", "axis", "x", "n", "mean", "fit", "low", "high")
HALVING = ("task", "contender", "n", "n_beyond", "success_at_0", "halving_deg", "low", "high", "largest_deg")
UNKNOWN = "unknown task"
"""Of evaluations whose ``metrics.csv``, of an older version, does not name their task."""
_SAME_PLACE = 2e-3
"""Degrees and metres by which ledgers may round where a camera stands."""
_NO_PART_OF_A_NAME = (
    "task", "task_version", "policy", "generator", "ablation", "tracker", "segmenter", "views", "sensor", "settings",
    "privileged", "fingerprint", "calibration_deg", "calibration_cm",
)  # fmt: skip
"""Of the columns that a run's rows share: what a contender's name has already, or does not depend on."""
_OF_AN_EVALUATION = ["task", "checkpoint", "sensor", "rooms", "steps", "second_views", "tracker", "segmenter", "split"]
"""Columns of ``metrics.csv``; the last five are part of a contender's name where they differ."""


@dataclass(frozen=True)
class CurvesConfig:
    """Draw response curves of rollouts and evaluations."""

    runs: Positional[tuple[Path, ...]]
    """Folders, searched for episodes.csv and windows.csv below them, or such files."""
    out: Path = Path("curves")
    """Folder of curves.csv, halving.csv, pairs.csv and the pictures."""


@dataclass(frozen=True)
class Curves:
    """What was found.

    Attributes:
        curves, halving: with the columns CURVES and HALVING, see ``curve_fits.Fit`` and ``curve_fits.Halving``.
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
    leaderboard.require_paths(config.runs, "folders of rollouts and evaluations, or their files")
    found = compute(config.runs, config.out)
    if found is None:
        raise LedgerError(
            f"no episode and no window in {', '.join(map(str, config.runs)) or 'nothing'}; 'geo4d-bench rollout' "
            "writes episodes.csv and 'geo4d-bench evaluate' windows.csv"
        )
    for name in ("curves", "halving", "pairs"):
        text = getattr(found, name).to_csv(index=False, float_format="%.4f", lineterminator="\n")
        write_atomic(config.out / f"{name}.csv", text)
    drawn = draw_curves(found.curves, found.halving, config.out)
    return replace(found, pictures=(*drawn, *draw_pairs(found.pairs, config.out)))


def compute(paths: Sequence[Path], out: Path, task: str | None = None) -> Curves | None:
    """The curves of what lies in and below paths, of one task alone where that is given; None where there is no row.

    Nothing is written: ``out`` is where the pictures are to go.
    """
    import pandas as pd

    notes: list[str] = []
    tables = [table for table in (_episodes(paths, notes), _windows(paths, notes)) if len(table)]
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
            fit = isotonic(x, y, clusters, sign, _rng(*key, measure, axis), best_place=axis not in HARMFUL)
            curves.append(pd.DataFrame(dict(zip(CURVES, (*key, measure, axis, *fit), strict=True))))
            if (measure, axis) == ("success", "view_angle_deg"):
                beyond = int((x > NEAR_DEG).sum())
                halving.append((*key, len(rows), beyond, *halves(x, y, clusters, _rng(*key, "halving")), x.max()))
    empty = pd.DataFrame(columns=list(CURVES))
    return Curves(
        pd.concat(curves, ignore_index=True) if curves else empty,
        pd.DataFrame(halving, columns=list(HALVING)),
        _pairs(table),
        tuple(notes),
        (),
        out,
    )


def _episodes(paths: Sequence[Path], notes: list[str]) -> pd.DataFrame:
    import pandas as pd

    ledgers = [ledger for path in paths if not _is_windows(path) for ledger in leaderboard.find_ledgers(path)]
    rows = list(leaderboard.read_all(ledgers))
    if crashed := sum(row.status == "crash" for row in rows):
        notes.append(f"{crashed} episodes crashed and are left out; run those rollouts again")
    rows = [row for row in rows if row.status != "crash"]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame([vars(row) for row in rows])
    table["task"] = table["task"] + "-" + table["task_version"]
    table["title"] = [replace(row, calibration_deg=0.0, calibration_cm=0.0).title for row in rows]
    table["contender"] = _told_apart(
        table, [field.name for field in fields(RunColumns) if field.name not in _NO_PART_OF_A_NAME]
    )
    table["cluster"] = table["seed"].astype(str)
    table["cameras"] = table["views"].where(~table["views"].isin(["seen", "novel"]), table["rig"])
    table["success"] = table["success"].astype(float)
    again = table[table.duplicated(["task", "contender", "views", "sensor", *CALIBRATIONS, "seed"])]
    notes += [
        f"{task}: {len(group)} episodes of {contender} stand there again, played with other options, and count as "
        "more of the same; give the folders of one choice of options"
        for (task, contender), group in again.groupby(["task", "contender"])
    ]
    return _with_depth(table)


def _windows(paths: Sequence[Path], notes: list[str]) -> pd.DataFrame:
    """The windows of what was generated, with what ``metrics.csv`` beside them says of each evaluation."""
    import pandas as pd

    files = [[path] if _is_windows(path) else sorted(path.rglob("windows.csv")) for path in paths]
    tables, heads = [], []
    for path in dict.fromkeys(file.resolve() for found in files for file in found):
        head = path.with_name("metrics.csv")
        if not head.is_file():
            notes.append(f"{path} has no metrics.csv beside it, as an interrupted evaluation, and is left out")
            continue
        tables.append(read_frame(path, ("views", "window", "source")).query("source == 'generated'"))
        heads.append(read_frame(head, ("views", "source")).iloc[0])
    if not tables:
        return pd.DataFrame()
    known = pd.DataFrame(heads, index=range(len(heads))).reindex(columns=["name", *_OF_AN_EVALUATION, *CALIBRATIONS])
    known = known.fillna({"task": UNKNOWN, "rooms": "fixed"} | dict.fromkeys(CALIBRATIONS, 0.0))
    known["title"] = [
        f"{name} ({str(checkpoint)[:8]})" + (f", {rooms} rooms" if rooms != "fixed" else "")
        for name, checkpoint, rooms in zip(known["name"], known["checkpoint"], known["rooms"], strict=True)
    ]
    known["contender"] = _told_apart(known, _OF_AN_EVALUATION[4:])
    return _with_depth(
        pd.concat(
            [
                table.assign(cluster=table["episode"], **known.loc[i, ["task", "contender", "sensor", *CALIBRATIONS]])
                for i, table in enumerate(tables)
            ],
            ignore_index=True,
        )
    )


def _told_apart(table: pd.DataFrame, parts: Sequence[str]) -> list[str]:
    """The column ``title``, with those of ``parts`` that tell the rows of one title on one task apart."""
    differ = table.groupby(["task", "title"])[list(parts)].transform("nunique", dropna=False) > 1
    return [
        ", ".join(
            [title, *(f"{part} {value!s:.12}" for part, value, said in zip(parts, row, says, strict=True) if said)]
        )
        for title, row, says in zip(table["title"], table[list(parts)].to_numpy(), differ.to_numpy(), strict=True)
    ]


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
        table[name] = table[name].astype(float) if name in table else 0.0
    for name in (*WORSE, *CAMERA_AXES):
        table[name] = table[name].astype(float) if name in table else np.nan
        if name in CAMERA_AXES:
            table[name] = table[name].round(
                3
            )  # as ledgers have them: cameras that stand alike differ by rounding alone
    columns = ["task", "contender", "views", "sensor", "cluster", "cameras", "camera_n", "camera_m", *WORSE, *AXES]
    return table.reindex(columns=columns)


def _groups(table: pd.DataFrame, notes: list[str]) -> Iterator[tuple[tuple[str, str], str, pd.DataFrame]]:
    """What each curve is made of: (task, contender), axis, and the rows in which only that was varied on purpose: with
    the commonest field of view, and near a training camera, except along these axes themselves."""
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
        zoomed = rows["fovy_deg"].notna() & (rows["fovy_deg"] != rows["fovy_deg"].mode().min())
        far = rows["view_angle_deg"] > NEAR_DEG
        for axis in CAMERA_AXES:
            aside = zoomed & (axis != "fovy_deg") | far & (axis != "view_angle_deg")
            yield (str(task), name), axis, rows[~aside]
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
    moving = {name for name in (*RIGS, *PROTOCOLS) if not isinstance(played_rig(name, (0.0, 0.0, 1.0)), Rig)}
    right = (table["calibration_deg"] == 0) & (table["calibration_cm"] == 0) & (table["sensor"] == "perfect")
    rows = table[right].dropna(subset=["success", "cameras"])
    stand = ["elevation_deg", "distance_m", "baseline_m"]
    places = rows.groupby(["task", "cameras", "camera_n", "camera_m"])[stand]
    moved = places.max() - places.min() > _SAME_PLACE
    moving |= set(moved[moved.any(axis=1)].index.get_level_values("cameras"))
    rows = rows[~rows["cameras"].isin(moving)]
    grouped = rows.groupby(["task", "contender", "cameras", "camera_n", "camera_m"])["success"]
    return grouped.agg(n="size", k="sum").astype(int).reset_index()


def _rng(*names: str) -> np.random.Generator:
    return generator("curves", "eval", 0, "/".join(names))


def _halves(row: pd.Series[Any]) -> str:
    n = f"{row['n']} episodes, {row['n_beyond']} of them farther than {NEAR_DEG:g} degrees"
    end = f"{row['largest_deg']:.0f} degrees"
    if np.isnan(row["success_at_0"]):
        return f"nothing played within {NEAR_DEG:g} degrees of a training camera: play seen views, too"
    if np.isnan(row["halving_deg"]):
        return f"no success in {n}"
    at = f"success {row['success_at_0']:.2f} at a training camera"
    low, high = (f"{v:.0f}" if np.isfinite(v) else f"beyond {end}" for v in row[["low", "high"]])
    if np.isinf(row["halving_deg"]):
        return f"{at}, not halved within {end} ({n}; interval {low} to {high})"
    return f"{at}, half of it {row['halving_deg']:.0f} degrees from the nearest one ({low} to {high}; {n}, up to {end})"
