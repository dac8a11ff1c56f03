"""The film strip of one window: generated frames against true ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.drawing import DPI, GREEN, GREY, PURPLE, SOFT, Image, colour_depth, figure, image_axes, paste
from geo4d_bench.evaluation.example import Example


def film_strip(example: Example, path: Path) -> None:
    """True frames above generated ones: colour, depth and hand of both views, from the first frame to the last."""
    h, w = example.first_rgb.shape[1:3]
    scale = int(np.ceil(150 / w))
    frames = example.rgb.shape[2]
    cell_h, cell_w, gap = h * scale, w * scale, 5
    left, right, header, block_title = 250, 170, 92, 62
    row = cell_h + gap
    block = block_title + 6 * row + 3 * 9
    width = left + (frames + 1) * (cell_w + gap) + right
    height = header + 2 * block + 54
    columns = [left + t * (cell_w + gap) for t in range(frames + 1)]
    tops = [header + v * block for v in range(2)]
    lines = [(kind, which) for kind in ("colour", "depth", "hand") for which in ("true", "generated")]
    offsets = [block_title + r * row + r // 2 * 9 for r in range(len(lines))]
    ranges = [_depth_range(example, v) for v in range(2)]

    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    for v, top in enumerate(tops):
        for (kind, which), offset in zip(lines, offsets, strict=True):
            for t, x in enumerate(columns):
                image = _cell(example, v, kind, which, t, ranges[v])
                if image is not None:
                    paste(pixels, image.repeat(scale, axis=0).repeat(scale, axis=1), x, top + offset)

    with figure(width / DPI, height / DPI, path) as fig:
        ax = image_axes(fig, pixels)
        size = 72 / DPI * 24
        ax.text(20, 34, f"Generated against true frames, {example.views} views", fontsize=1.4 * size, weight="bold")
        ax.text(20, 70, example.chosen, fontsize=0.92 * size, color=SOFT)
        for v, (top, name) in enumerate(zip(tops, "nm", strict=True)):
            ax.text(20, top + 42, f"view {name}: {example.cameras[v]}", fontsize=1.1 * size, weight="bold")
            for t, x in enumerate(columns):
                text = "given" if t == 0 else f"{t * example.dt_s:.1f} s"
                ax.text(x + cell_w / 2, top + 42, text, fontsize=0.92 * size, ha="center", color=SOFT)
            for (kind, which), offset in zip(lines, offsets, strict=True):
                y, colour = top + offset, GREEN if which == "true" else PURPLE
                ax.text(left - 14, y + cell_h / 2, which, fontsize=size, color=colour, ha="right", va="center")
                if which == "true":
                    ax.text(20, y + row - gap / 2, kind, fontsize=size, va="center", weight="bold")
            bar = (width - right + 24, top + offsets[2], 22, 2 * row - gap)
            _colour_bar(fig, bar, (width, height), ranges[v], size)
        note = (
            "Depth: z in camera n's frame for both views, as the generator is asked for it; light grey is invalid. "
            "Hand: from the simulator above, the generator's own labels below."
        )
        ax.text(20, height - 22, note, fontsize=0.86 * size, color=SOFT)


def _cell(example: Example, view: int, kind: str, which: str, t: int, depth_range: tuple[float, float]) -> Image | None:
    """The (H, W, 3) picture of one cell; None where there is nothing generated (the first frame is given)."""
    if t == 0 and which == "generated":
        return None
    i = 0 if which == "true" else 1
    rgb: Image = example.first_rgb[view] if t == 0 else example.rgb[i, view, t - 1]
    if kind == "colour":
        return rgb
    if kind == "depth":
        return colour_depth(example.first_depth[view] if t == 0 else example.depth[i, view, t - 1], depth_range)
    mask = example.first_hand[view] if t == 0 else example.hand[i, view, t - 1]
    tint = np.array([int(c[j : j + 2], 16) for c in (GREEN if i == 0 else PURPLE,) for j in (1, 3, 5)])
    grey = np.repeat(255 - 0.45 * (255 - rgb.mean(-1, keepdims=True)), 3, axis=-1)
    return np.where(mask[..., None], 0.15 * grey + 0.85 * tint, grey).astype(np.uint8)


def _depth_range(example: Example, view: int) -> tuple[float, float]:
    true = example.depth[0, view]
    true = true[np.isfinite(true)]
    if not len(true):
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(true, [1, 99]))
    return low, max(high, low + 0.01)


def _colour_bar(
    fig: Any, box: tuple[float, float, float, float], size_px: tuple[int, int], limits: tuple[float, float], size: float
) -> None:
    import matplotlib

    x, y, w, h = box
    ax = fig.add_axes((x / size_px[0], 1 - (y + h) / size_px[1], w / size_px[0], h / size_px[1]))
    ramp = matplotlib.colormaps["viridis_r"](np.linspace(0, 1, 256))[:, None, :3]
    ax.imshow(ramp, aspect="auto", extent=(0, 1, limits[1], limits[0]))
    ax.set_xticks([])
    ax.yaxis.tick_right()
    ax.locator_params(axis="y", nbins=5)
    ax.tick_params(labelsize=0.85 * size, length=3)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title("m", fontsize=0.9 * size, loc="center", weight="normal", color=GREY)
