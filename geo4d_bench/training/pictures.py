"""What a training looks like: the loss and held-out curves, and generated frames beside true ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geo4d_bench.drawing import BLUE, GREY, PURPLE, Image, caption, colour_depth, depth_limits, figure
from geo4d_bench.io import atomic
from geo4d_bench.model.types import Video4D

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["rgb", "depth", "parts"]
KINDS: tuple[Kind, ...] = ("rgb", "depth", "parts")

_PART_COLOURS = np.array([[245, 245, 245], [90, 90, 90], [30, 110, 220], [220, 90, 30]], np.uint8)


def training_chart(log: pd.DataFrame, floor_cm: float | None, path: Path) -> None:
    """The training loss, and the number that matters: the generated hand's error on held-out demonstrations.

    Args:
        log: ``training_log.csv`` with ``seconds, loss, held_out_cm`` (empty where it was not measured).
        floor_cm: the held-out error of copying the first frame; None where it is not known.
    """
    minutes, loss = log["seconds"].to_numpy(dtype=np.float64) / 60.0, log["loss"].to_numpy(dtype=np.float64)
    held_out = log.reindex(columns=["held_out_cm"])["held_out_cm"].to_numpy(dtype=np.float64)
    measured = ~np.isnan(held_out)
    with figure(8.4, 3.2, path) as fig:
        left, right = fig.subplots(1, 2)
        left.plot(minutes, loss, color=GREY, lw=0.6, alpha=0.45, label="each step")
        window = max(min(5, len(loss)), len(loss) // 50)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        left.plot(minutes[window - 1 :], smooth, color=BLUE, label=f"mean of {window} steps")
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("{x:g}")
        left.set_title("training loss")
        right.plot(minutes[measured], held_out[measured], "o-", color=PURPLE, ms=5)
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


def draw_samples(path: Path, true: Sequence[Video4D], generated: Sequence[Video4D], scale: int = 2) -> None:
    """A PNG: for each window and view, three rows (colour, depth, parts) of true over generated frames."""
    import imageio.v3 as iio

    strips = []
    for (a, b), view, kind in product(zip(true, generated, strict=True), range(2), KINDS):
        for video, gap in ((a, 1), (b, 4)):
            padding = ((0, 0), (0, gap), (0, 1), (0, 0))
            frames = np.pad(colours_of(video, a, view, kind), padding, constant_values=255)
            strips.append(np.concatenate(list(frames), 1))
    with atomic(path) as part:
        iio.imwrite(part, np.concatenate(strips).repeat(scale, 0).repeat(scale, 1))


def colours_of(video: Video4D, true: Video4D, view: int, kind: Kind) -> Image:
    """(T, H, W, 3) uint8 pictures of a view: its ``rgb``, its ``depth`` along camera n's axis in the colours of the
    true depths' range, or its hand ``parts``."""
    if kind == "rgb":
        return np.asarray(video.rgb[view])
    if kind == "parts":
        label = np.where(video.parts[view] > 0, (video.parts[view] - 1) % 3 + 1, 0)
        return np.asarray(_PART_COLOURS[label])
    return colour_depth(video.points[view, ..., 2], depth_limits([true.points[view, ..., 2]]))
