"""What a training looks like: the loss and held-out curves, and generated frames beside true ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from geo4d_bench.io import write_atomic
from geo4d_bench.model.types import Video4D

Image = npt.NDArray[np.uint8]
Kind = Literal["rgb", "depth", "parts"]
KINDS: tuple[Kind, ...] = ("rgb", "depth", "parts")

_PART_COLOURS = np.array([[245, 245, 245], [90, 90, 90], [30, 110, 220], [220, 90, 30]], np.uint8)


def draw_curves(path: Path, rows: Sequence[dict[str, str]], copy_cm: float) -> None:
    """A PNG with the loss and the held-out hand error over minutes, ``copy_cm`` being the floor to beat."""
    from matplotlib.figure import Figure

    minutes = np.array([float(r["seconds"]) / 60.0 for r in rows])
    loss = np.array([float(r["loss"]) for r in rows])
    val_windows = [(m, float(r["held_out_cm"])) for m, r in zip(minutes, rows, strict=True) if r["held_out_cm"]]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(minutes, loss, color="0.8", lw=0.8)
    smooth = _smooth(loss, max(1, len(loss) // 50))
    left.plot(minutes[-len(smooth) :], smooth, color="C0")
    left.set(xlabel="minutes", ylabel="training loss", yscale="log")
    if val_windows:
        right.plot(*zip(*val_windows, strict=True), "o-", color="C1", label="generated")
    if np.isfinite(copy_cm):
        right.axhline(copy_cm, color="0.4", ls="--", label="copy of the first frame")
    right.set(xlabel="minutes", ylabel="hand error on held-out windows, cm", ylim=(0, None))
    right.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())


def draw_samples(path: Path, true: Sequence[Video4D], generated: Sequence[Video4D], scale: int = 2) -> None:
    """A PNG: for each window and view, three rows (colour, depth, parts) of true over generated frames."""
    rows = []
    for a, b in zip(true, generated, strict=True):
        for view in range(2):
            rows += [_row(a, b, view, kind) for kind in KINDS]
    sheet = np.concatenate(rows).repeat(scale, 0).repeat(scale, 1)
    write_atomic(path, png(sheet))


def png(image: Image) -> bytes:
    """The PNG file of an image (H, W, 3) uint8."""
    import imageio.v3 as iio

    return bytes(iio.imwrite("<bytes>", image, extension=".png"))


def depth_colours(depth: npt.NDArray[np.float32], low: float, high: float) -> Image:
    """(..., 3) colours of depths in metres, near is bright; white where NaN."""
    from matplotlib import colormaps

    share = np.clip((high - depth) / max(high - low, 1e-6), 0.0, 1.0)
    colours: Image = (colormaps["viridis"](np.nan_to_num(share))[..., :3] * 255).astype(np.uint8)
    colours[~np.isfinite(depth)] = 255
    return colours


def colours_of(video: Video4D, true: Video4D, view: int, kind: Kind) -> Image:
    """(T, H, W, 3) uint8 pictures of a view: its ``rgb``, its ``depth`` along camera n's axis in the colours of the
    true depths' range, or its hand ``parts``."""
    if kind == "rgb":
        colours: Image = video.rgb[view]
        return colours
    if kind == "parts":
        labels: Image = _PART_COLOURS[np.where(video.parts[view] > 0, (video.parts[view] - 1) % 3 + 1, 0)]
        return labels
    z = true.points[view, ..., 2]
    low, high = (np.nanpercentile(z, [1, 99])) if np.isfinite(z).any() else (0.0, 1.0)
    return depth_colours(video.points[view, ..., 2], float(low), float(high))


def _row(true: Video4D, generated: Video4D, view: int, kind: Kind) -> Image:
    """True frames over generated ones, a gap between, as one strip (2 H + gaps, T * (W + 1), 3)."""
    strips = [np.concatenate([_gap(f) for f in colours_of(v, true, view, kind)], 1) for v in (true, generated)]
    edge = np.full((2, strips[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([strips[0], edge[:1], strips[1], edge, edge])


def _gap(frame: Image) -> Image:
    padded: Image = np.pad(frame, ((0, 0), (0, 1), (0, 0)), constant_values=255)
    return padded


def _smooth(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    averaged: npt.NDArray[np.float64] = np.convolve(values, np.ones(width) / width, mode="valid")
    return averaged
