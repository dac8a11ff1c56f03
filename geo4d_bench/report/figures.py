"""Charts of the report: success per rung, gripper error per frame, training. Pictures of images: ``pictures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.drawing import GREEN, GREY, INK, ORANGE, PURPLE, VIEW_COLOURS, VIEW_MARKERS, caption, figure

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
    policies = rungs["label"].tolist()
    views = sorted(set(rows["views"]), key=lambda v: (v != "seen", v != "novel", v))
    with figure(7.6, 1.3 + 0.62 * len(policies), path) as fig:
        ax = fig.subplots()
        spread = 0.36 / max(1, len(views) - 1)
        for j, view in enumerate(views):
            colour, marker = VIEW_COLOURS.get(view, GREEN), VIEW_MARKERS.get(view, "s")
            mine = rows[rows["views"] == view]
            y = np.array([policies.index(p) for p in mine["label"]]) - (j - (len(views) - 1) / 2) * spread
            ax.hlines(y, mine["ci_low"], mine["ci_high"], color=colour, lw=5, alpha=0.28)
            style = {"color": colour, "ms": 7, "mec": "white", "mew": 0.8, "clip_on": False}
            ax.plot(mine["success_rate"], y, marker, label=f"{view} views", **style)
            for k, n, at in zip(mine["k"], mine["n"], y, strict=True):
                ax.text(1.03, at, f"{int(k)} / {int(n)}", va="center", fontsize=8.5, color=colour)
        names = rungs["label"] + rungs["privileged"].astype(bool).map({True: " *", False: ""})
        ax.set_yticks(range(len(policies)), names)
        for label, colour in zip(ax.get_yticklabels(), rungs["colour"], strict=True):
            label.set_color(colour)
        ax.set_ylim(-0.55, len(policies) - 0.45)
        ax.set_xlim(0, 1)
        ax.set_xticks(np.linspace(0, 1, 6), [f"{x:.0%}" for x in np.linspace(0, 1, 6)])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        fig.suptitle("Task success on each rung of the oracle ladder", x=0.01, ha="left", fontsize=11, weight="bold")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.1)
        note = "Bars: 95 % Wilson intervals.   Right: successes / episodes.   * is given the simulator (privileged)."
        caption(fig, note)


def gripper_error_chart(by_frame: pd.DataFrame, path: Path) -> None:
    """Gripper position error over the generated frames, a panel for seen and for novel views.

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
                band = rows["gripper_cm_low"], rows["gripper_cm_high"]
                ax.fill_between(rows["time_s"], *band, color=colour, alpha=0.18, lw=0)
                ax.plot(rows["time_s"], rows["gripper_cm"], color=colour, marker=marker, ms=4.5, ls=dashes, label=label)
            ax.set_title(f"{view} views")
            ax.set_xlabel("seconds after the first frame")
            ax.locator_params(axis="x", integer=True)
            ax.grid(axis="y")
        axes[0].set_ylim(0, None)  # last: the panels share it, and it stops following the data
        axes[0].set_ylabel("gripper position error (cm)")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        windows, split = int(by_frame["windows"].max()), by_frame["split"].iloc[0]
        note = f"{windows} windows a panel, {split} split; bands: 95 % bootstrap intervals over demonstrations."
        caption(fig, note)


def trajectory_chart(arms: Mapping[str, tuple[Floats, Sequence[Floats]]], title: str, note: str, path: Path) -> None:
    """Where each gripper went, and where each plan would have taken it: in space, and each coordinate over time.

    One arm is shown from the side (x, z), several from above (x, y), where they stand apart.

    Args:
        arms: by name, the executed path and the plans; each (N, 4): seconds, x, y, z in metres of the world frame.
    """
    x, y = (1, 3) if len(arms) == 1 else (1, 2)
    with figure(9.0, 5.2, path) as fig:
        grid = fig.add_gridspec(3, 2, width_ratios=[1.0, 1.25])
        space = fig.add_subplot(grid[:, 0])
        over_time = [fig.add_subplot(grid[axis, 1]) for axis in range(3)]
        for k, (arm, (executed, plans)) in enumerate(arms.items()):
            ink, planned = ARM_COLOURS[k % len(ARM_COLOURS)]
            names = ("gripper", "a plan") if len(arms) == 1 else (f"{arm} gripper", f"{arm} plan")
            ends = ("start", "end") if k % len(ARM_COLOURS) == 0 else (None, None)
            for ax, across, up in ((space, x, y), *((ax, 0, axis + 1) for axis, ax in enumerate(over_time))):
                for number, plan in enumerate(plans):
                    label = None if number else f"{names[1]}, to its end"
                    ax.plot(plan[:, across], plan[:, up], color=planned, lw=0.9, alpha=0.8, label=label)
                    ax.plot(plan[:1, across], plan[:1, up], "o", color=planned, ms=3)
                right, top = executed[:, across], executed[:, up]
                ax.plot(right, top, color=ink, lw=2.0, label=f"{names[0]}, executed", zorder=3)
                style = {"color": ink, "zorder": 4, "ls": "none"}
                ax.plot(right[0], top[0], "o", ms=7, mfc="white", mew=1.6, label=ends[0], **style)
                ax.plot(right[-1], top[-1], "X", ms=8, mec="white", label=ends[1], **style)
                ax.grid(visible=True)
        for axis, ax in enumerate(over_time):
            ax.set_ylabel(f"{'xyz'[axis]} (m)")
            ax.tick_params(labelbottom=axis == 2)
        space.set_aspect("equal", adjustable="datalim")
        space.set_title("from the side" if len(arms) == 1 else "from above")
        space.set_xlabel(f"{'txyz'[x]} (m)")
        space.set_ylabel(f"{'txyz'[y]} (m)")
        over_time[0].set_title("over time")
        over_time[2].set_xlabel("seconds")
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
        space.legend(loc="best", fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none")
        caption(fig, note)
