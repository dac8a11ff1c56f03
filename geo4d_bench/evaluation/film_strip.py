"""The film strip of one window: generated frames against true ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from geo4d_bench.drawing import DPI, GREEN, GREY, PURPLE, SOFT, Image, colour_depth, depth_limits, paste, sheet
from geo4d_bench.model.types import Video4D


def film_strip(
    given: Video4D, true: Video4D, generated: Video4D, cameras: tuple[str, str], title: str, note: str, path: Path
) -> None:
    """True frames above generated ones: colour, depth and hand of both views, from the first frame to the last.

    Args:
        given: its frame 0 is what the generator was given.  true, generated: T frames.
        cameras: names of views n and m.  title, note: the two lines above.
    """
    frames, h, w = true.rgb.shape[1:4]
    scale = int(np.ceil(150 / w))
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
    ranges = [depth_limits([true.points[v, ..., 2]]) for v in range(2)]

    with sheet(width, height, path) as ax:
        for v, top in enumerate(tops):
            for (kind, which), offset in zip(lines, offsets, strict=True):
                video, colour = (true, GREEN) if which == "true" else (generated, PURPLE)
                cells = [_cell(given, v, kind, 0, ranges[v], colour)] if which == "true" else []  # it is not generated
                cells += [_cell(video, v, kind, t, ranges[v], colour) for t in range(frames)]
                for x, cell in zip(columns[-len(cells) :], cells, strict=True):
                    paste(ax, cell.repeat(scale, axis=0).repeat(scale, axis=1), x, top + offset)
        size = 72 / DPI * 24
        ax.text(20, 34, title, fontsize=1.4 * size, weight="bold")
        ax.text(20, 70, note, fontsize=0.92 * size, color=SOFT)
        for v, (top, name) in enumerate(zip(tops, "nm", strict=True)):
            ax.text(20, top + 42, f"view {name}: {cameras[v]}", fontsize=1.1 * size, weight="bold")
            for t, x in enumerate(columns):
                text = "given" if t == 0 else f"{t * true.dt_s:.1f} s"
                ax.text(x + cell_w / 2, top + 42, text, fontsize=0.92 * size, ha="center", color=SOFT)
            for (kind, which), offset in zip(lines, offsets, strict=True):
                y, colour = top + offset, GREEN if which == "true" else PURPLE
                ax.text(left - 14, y + cell_h / 2, which, fontsize=size, color=colour, ha="right", va="center")
                if which == "true":
                    ax.text(20, y + row - gap / 2, kind, fontsize=size, va="center", weight="bold")
            bar = (width - right + 24, top + offsets[2], 22, 2 * row - gap)
            _colour_bar(ax.figure, bar, (width, height), ranges[v], size)
        legend = (
            "Depth: z in camera n's frame for both views, as the generator is asked for it; light grey is invalid. "
            "Hand: from the simulator above, the generator's own labels below."
        )
        ax.text(20, height - 22, legend, fontsize=0.86 * size, color=SOFT)


def _cell(video: Video4D, view: int, kind: str, frame: int, depth_range: tuple[float, float], tint: str) -> Image:
    """The (H, W, 3) picture of one cell."""
    rgb: Image = video.rgb[view, frame]
    if kind == "colour":
        return rgb
    if kind == "depth":
        return colour_depth(video.points[view, frame, ..., 2], depth_range)
    grey = np.repeat(255 - 0.45 * (255 - rgb.mean(-1, keepdims=True)), 3, axis=-1)
    colour = np.rint(255 * np.array(to_rgb(tint)))
    return np.where(video.parts[view, frame, ..., None] > 0, 0.15 * grey + 0.85 * colour, grey).astype(np.uint8)


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
