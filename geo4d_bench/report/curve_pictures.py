"""The pictures of ``geo4d-bench curves``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geo4d_bench.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, caption, figure

if TYPE_CHECKING:
    import pandas as pd

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
AXES = CAMERA_AXES | DISTURBANCES
_COLOURS = (PURPLE, BLUE, ORANGE, GREEN, INK, GREY)
_STYLES = ("-", "--", ":", "-.")


def draw_curves(curves: pd.DataFrame, halving: pd.DataFrame, out: Path) -> Iterator[Path]:
    """A picture for each task and measure, of ``Curves.curves`` and ``Curves.halving``, in ``out``."""
    for (task, measure), table in curves.groupby(["task", "measure"], sort=False):
        path = out / f"{measure}_{_file_name(task)}.png"
        _curve_picture(table, str(task), str(measure), halving, path)
        yield path


def draw_pairs(pairs: pd.DataFrame, out: Path) -> Iterator[Path]:
    """For each task and set of cameras the contenders' matrices of success by camera pair, side by side; none
    where each camera n has one camera m alone, as on a ring."""
    for (task, cameras), table in pairs.groupby(["task", "cameras"], sort=False):
        if (table.groupby("camera_n")["camera_m"].nunique() < 2).all():
            continue
        path = out / f"pairs_{_file_name(f'{task} {cameras}')}.png"
        _pair_picture(table, f"{task}, cameras of {cameras}", path)
        yield path


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
    looks = _looks(list(map(str, contenders)))
    with figure(4.2 * columns, 3.4 * rows + 0.3 * len(contenders) + 0.4, path) as fig:
        panels = np.atleast_1d(fig.subplots(rows, columns, sharey=True)).ravel()
        handles = {}
        for ax, axis in zip(panels, axes_there, strict=False):
            for name, curve in table[table["axis"] == axis].groupby("contender", sort=False):
                colour, style = looks[str(name)]
                ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.16, lw=0)
                (handles[name],) = ax.plot(curve["x"], curve["fit"], color=colour, ls=style)
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


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and line style of each curve: one colour a contender, whose curves on single views, with disturbances or
    depth differ in style; beyond the palette colours come again in other styles."""
    looks: dict[str, tuple[str, str]] = {}
    used: dict[str, int] = {}
    colours: dict[str, str] = {}
    for name in names:
        of = min((other for other in names if f"{name}, ".startswith(f"{other}, ")), key=len)
        colour = colours.setdefault(of, _COLOURS[len(colours) % len(_COLOURS)])
        looks[name] = colour, _STYLES[used.setdefault(colour, 0) % len(_STYLES)]
        used[colour] += 1
    return looks


def _pair_picture(table: pd.DataFrame, title: str, path: Path) -> None:
    import matplotlib

    names = sorted({*table["camera_n"], *table["camera_m"]}, key=_in_order)
    contenders = list(table.groupby("contender", sort=False))
    colours = matplotlib.colormaps["RdYlBu"].with_extremes(bad="#F2F3F5")
    side = 2.2 + 0.42 * len(names)
    with figure(side * len(contenders) + 1.2, side + 0.4, path) as fig:
        axes = fig.subplots(1, len(contenders), sharey=True, squeeze=False)[0]
        for ax, (contender, rows) in zip(axes, contenders, strict=True):
            rate = np.full((len(names), len(names)), np.nan)
            for n, m, number, k in rows[["camera_n", "camera_m", "n", "k"]].itertuples(index=False):
                i, j = names.index(n), names.index(m)
                rate[i, j] = k / number
                ax.text(j, i, f"{k}/{number}", ha="center", va="center", fontsize=6.5, color=INK)
            shown = ax.imshow(rate, vmin=0, vmax=1, cmap=colours, alpha=0.6)
            ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
            ax.set_yticks(range(len(names)), names, fontsize=7.5)
            ax.set_xlabel("camera m")
            ax.set_title(str(contender), fontsize=9)
        axes[0].set_ylabel("camera n (reference)")
        fig.suptitle(title, fontsize=10)
        fig.colorbar(shown, ax=axes, shrink=0.7, label="success rate")
