"""Charts of the report: success per rung, gripper error per frame, training. Pictures of images: ``pictures``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, VIEW_COLOURS, VIEW_MARKERS, caption, figure

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.floating[Any]]

SOURCE_STYLES = {
    "copy_first_frame": ("copy first frame (floor)", GREY, "s", (0, (4, 2))),
    "generated": ("generated", PURPLE, "o", "-"),
    "true_frames": ("true frames (the tracker's own error)", GREEN, "^", (0, (1, 1.5))),
}
ARM_COLOURS = ((INK, PURPLE), (GREEN, ORANGE))
"""Of what an arm did, and of what it had planned."""


def success_chart(rows: pd.DataFrame, path: Path) -> None:
    """Success rate of every policy with its 95 % Wilson interval, seen beside novel views.

    Args:
        rows: leaderboard rows with ``label, rank, colour, views, n, k, success_rate, ci_low, ci_high, privileged``;
            ``rank`` puts the labels in order, the lowest at the bottom.
    """
    rungs = rows.sort_values(["rank", "label"]).drop_duplicates("label")
    policies, colours = rungs["label"].tolist(), rungs["colour"].tolist()
    views = [v for v in ("seen", "novel") if v in set(rows["views"])] + sorted(set(rows["views"]) - {"seen", "novel"})
    with figure(7.6, 1.3 + 0.62 * len(policies), path) as fig:
        ax = fig.subplots()
        spread = 0.36 / max(1, len(views) - 1) if len(views) > 1 else 0.0
        for j, view in enumerate(views):
            colour, marker = VIEW_COLOURS.get(view, GREEN), VIEW_MARKERS.get(view, "s")
            mine = rows[rows["views"] == view]
            y = np.array([policies.index(p) for p in mine["label"]]) - (j - (len(views) - 1) / 2) * spread
            ax.hlines(y, mine["ci_low"], mine["ci_high"], color=colour, lw=5, alpha=0.28)
            rate = mine["success_rate"]
            ax.plot(rate, y, marker, color=colour, ms=7, mec="white", mew=0.8, label=f"{view} views", clip_on=False)
            for k, n, at in zip(mine["k"], mine["n"], y, strict=True):
                ax.text(1.03, at, f"{int(k)} / {int(n)}", va="center", fontsize=8.5, color=colour)
        privileged = set(rows[rows["privileged"].astype(bool)]["label"])
        ax.set_yticks(range(len(policies)), [f"{p} *" if p in privileged else p for p in policies])
        for label, colour in zip(ax.get_yticklabels(), colours, strict=True):
            label.set_color(colour)
        ax.set_ylim(-0.55, len(policies) - 0.45)
        ax.set_xlim(0, 1)
        ax.set_xticks(np.linspace(0, 1, 6), [f"{x:.0%}" for x in np.linspace(0, 1, 6)])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        fig.suptitle("Task success on each rung of the oracle ladder", x=0.01, ha="left", fontsize=11, weight="bold")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.1)
        caption(
            fig, "Bars: 95 % Wilson intervals.   Right: successes / episodes.   * is given the simulator (privileged)."
        )


def gripper_error_chart(by_frame: pd.DataFrame, path: Path) -> None:
    """Gripper position error over the generated frames, one panel a view split.

    Args:
        by_frame: ``split, views, source, windows, frame, time_s, gripper_cm, gripper_cm_low, gripper_cm_high``.
    """
    views = [v for v in ("seen", "novel") if v in set(by_frame["views"])]
    with figure(8.4, 3.5, path) as fig:
        axes = np.atleast_1d(fig.subplots(1, len(views), sharey=True))
        for ax, view in zip(axes, views, strict=True):
            for source, (label, colour, marker, dashes) in SOURCE_STYLES.items():
                rows = by_frame[(by_frame["views"] == view) & (by_frame["source"] == source)].sort_values("frame")
                if rows.empty:
                    continue
                ax.fill_between(
                    rows["time_s"], rows["gripper_cm_low"], rows["gripper_cm_high"], color=colour, alpha=0.18, lw=0
                )
                ax.plot(rows["time_s"], rows["gripper_cm"], color=colour, marker=marker, ms=4.5, ls=dashes, label=label)
            ax.set_title(f"{view} views")
            ax.set_xlabel("seconds after the first frame")
            ax.locator_params(axis="x", integer=True)
            ax.grid(axis="y")
        axes[0].set_ylim(0, None)  # last: the panels share it, and it stops following the data
        axes[0].set_ylabel("gripper position error (cm)")
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=3)
        windows, split = int(by_frame["windows"].max()), by_frame["split"].iloc[0]
        note = f"{windows} windows a panel, {split} split; bands: 95 % bootstrap intervals over demonstrations."
        caption(fig, note)


def training_chart(log: pd.DataFrame, floor_cm: float | None, path: Path) -> None:
    """The training loss, and the number that matters: the generated hand's error on held-out demonstrations.

    Args:
        log: ``training_log.csv`` with ``seconds, loss, held_out_cm`` (empty where it was not measured).
        floor_cm: the held-out error of copying the first frame; None where it is not known.
    """
    minutes = log["seconds"].to_numpy(dtype=np.float64) / 60.0
    loss = log["loss"].to_numpy(dtype=np.float64)
    measured = log["held_out_cm"].notna().to_numpy() if "held_out_cm" in log else np.zeros(len(log), dtype=bool)
    with figure(8.4, 3.2, path) as fig:
        left, right = fig.subplots(1, 2)
        left.plot(minutes, loss, color=GREY, lw=0.6, alpha=0.45, label="each step")
        window = max(min(5, len(loss)), len(loss) // 50)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        left.plot(minutes[window - 1 :], smooth, color=BLUE, label=f"mean of {window} steps")
        left.set_yscale("log")
        for axis_part in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
            axis_part("{x:g}")
        left.set_title("training loss")
        right.plot(minutes[measured], log["held_out_cm"].to_numpy(dtype=np.float64)[measured], "o-", color=PURPLE, ms=5)
        if floor_cm is not None:
            right.axhline(floor_cm, color=GREY, ls=(0, (4, 2)))
            right.annotate(
                "copy first frame (floor)", (1, floor_cm), xycoords=("axes fraction", "data"), xytext=(-4, -4),
                textcoords="offset points", ha="right", va="top", color=GREY, fontsize=8.5,
            )  # fmt: skip
        right.set_ylim(0, 1.1 * right.get_ylim()[1] / 1.05)
        right.set_xlim(0, None)
        right.set_title("hand error on held-out windows (cm)")
        if not measured.any():
            right.text(0.5, 0.5, "not measured yet", transform=right.transAxes, ha="center", color=GREY)
        for ax in (left, right):
            ax.set_xlabel("minutes of training")
            ax.grid(axis="y")
        left.legend(loc="upper right")
        caption(fig, "Hand error: distance of the medians of the points on the hand, mean over frames (no tracker).")


@dataclass(frozen=True)
class Path3D:
    """Positions (N, 3) in metres, world frame, and when they were or would be reached, (N,) seconds."""

    time_s: Floats
    position: Floats


@dataclass(frozen=True)
class ArmPaths:
    """One arm's way through an episode, and each plan from where the gripper was when it was made."""

    arm: str
    executed: Path3D
    plans: Sequence[Path3D]


def trajectory_chart(arms: Sequence[ArmPaths], title: str, note: str, path: Path) -> None:
    """Where each gripper went, and where each plan would have taken it: in space, and each coordinate over time.

    One arm is shown from the side (x, z), several from above (x, y), where they stand apart.
    """
    across_space = (0, 2) if len(arms) == 1 else (0, 1)
    with figure(9.0, 5.2, path) as fig:
        grid = fig.add_gridspec(3, 2, width_ratios=[1.0, 1.25])
        space = fig.add_subplot(grid[:, 0])
        over_time = [fig.add_subplot(grid[axis, 1]) for axis in range(3)]
        for paths, colours in zip(arms, itertools.cycle(ARM_COLOURS), strict=False):
            name = "gripper" if len(arms) == 1 else f"{paths.arm} gripper"
            _draw_paths(space, paths, lambda p: p.position[:, across_space[0]], across_space[1], colours, name)
            for axis, ax in enumerate(over_time):
                _draw_paths(ax, paths, lambda p: p.time_s, axis, colours, name)
        for axis, ax in enumerate(over_time):
            ax.set_ylabel(f"{'xyz'[axis]} (m)")
            ax.tick_params(labelbottom=axis == 2)
        space.set_aspect("equal", adjustable="datalim")
        space.set_title("from the side" if len(arms) == 1 else "from above")
        space.set_xlabel(f"{'xyz'[across_space[0]]} (m)")
        space.set_ylabel(f"{'xyz'[across_space[1]]} (m)")
        over_time[0].set_title("over time")
        over_time[2].set_xlabel("seconds")
        handles, labels = space.get_legend_handles_labels()
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
        space.legend(handles, labels, loc="best", fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none")
        caption(fig, note)


def _draw_paths(
    ax: Any, paths: ArmPaths, across: Callable[[Path3D], Floats], axis: int, colours: tuple[str, str], name: str
) -> None:
    ink, planned = colours
    for k, plan in enumerate(paths.plans):
        label = None if k else f"{'a' if name == 'gripper' else paths.arm} plan, to its end"
        ax.plot(across(plan), plan.position[:, axis], color=planned, lw=0.9, alpha=0.8, label=label)
        ax.plot(across(plan)[:1], plan.position[:1, axis], "o", color=planned, ms=3)
    x, y = across(paths.executed), paths.executed.position[:, axis]
    ax.plot(x, y, color=ink, lw=2.0, label=f"{name}, executed", zorder=3)
    first = colours == ARM_COLOURS[0]
    ax.plot(
        x[0], y[0], "o", color=ink, ms=7, mfc="white", mew=1.6, label="start" if first else None, zorder=4, ls="none"
    )
    ax.plot(x[-1], y[-1], "X", color=ink, ms=8, mec="white", label="end" if first else None, zorder=4, ls="none")
    ax.grid(visible=True)
