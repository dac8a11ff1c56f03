"""What an episode's file shows: all cameras at one moment as a picture, a few cameras over time as a film."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.drawing import DPI, VIEW_COLOURS, Image, colour_depth, figure, image_axes
from geo4d_bench.films import Film
from geo4d_bench.io import atomic

IMAGE_PX = (160, 320)
"""Smaller images are enlarged to about the first width, larger ones thinned out to the second: whole pixels only."""
BACKGROUND = "#E3E5E8"


def episode_sheet(episode: EpisodeFile, frame: int, path: Path) -> None:
    """Colour, depth and labels of every camera at one frame, written to ``path`` (PNG) when whole.

    Depth is z along each camera's optical axis, one colour scale for all; grey is invalid.
    """
    views = [(camera, episode.frames(camera.name, [frame])) for camera in episode.cameras]
    limits = _limits([shown.depth for _, shown in views])
    colours = _label_colours(len(episode.seg_names))
    cells = [
        np.concatenate([_fit(rgb) for rgb in (s.rgb[0], colour_depth(s.depth[0], limits), colours[s.seg[0]])], axis=1)
        for _, s in views
    ]
    h, w = cells[0].shape[:2]
    columns = max(1, round(1.2 * np.sqrt(len(cells) * h / w)))
    rows = -(-len(cells) // columns)
    gap, label, header, footer = 14, 24, 40, 62
    width, height = columns * (w + gap) + gap, header + rows * (h + gap + label) + footer
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    corners = [(gap + i % columns * (w + gap), header + i // columns * (h + gap + label)) for i in range(len(cells))]
    for cell, (x, y) in zip(cells, corners, strict=True):
        pixels[y : y + h, x : x + w] = cell
    ramp = np.linspace(*limits, w // 3)[None].repeat(16, axis=0)
    bar = (gap, height - footer + 8)
    pixels[bar[1] : bar[1] + 16, bar[0] : bar[0] + w // 3] = colour_depth(ramp, limits)

    with figure(width / DPI, height / DPI, path) as fig:
        ax = image_axes(fig, pixels)
        size = 72 / DPI * 15
        step = int(episode.steps[frame])
        seconds = float(episode.file["time"][step] - episode.file["time"][0])
        title = f"{episode.attrs['task']}  {episode.name}  frame {frame}, {seconds:.1f} s: colour, depth, labels"
        ax.text(gap, header / 2, title, fontsize=1.2 * size, weight="bold", va="center")
        for (camera, _), (x, y) in zip(views, corners, strict=True):
            symbol = "●" if camera.split == "seen" else "◆"
            text, colour = f"{symbol} {camera.name}  {camera.split}", VIEW_COLOURS[camera.split]
            ax.text(x, y + h + 12, text, fontsize=size, color=colour, va="center")
        below = bar[1] + 26
        ax.text(bar[0], below, f"{limits[0]:.2f} m", fontsize=size, va="center")
        ax.text(bar[0] + w // 3, below, f"{limits[1]:.2f} m", fontsize=size, va="center", ha="right")
        _legend(ax, episode.seg_names, colours, (bar[0] + w // 3 + 2 * gap, bar[1] + 8, width - gap), size)


def episode_film(episode: EpisodeFile, cameras: Sequence[str], path: Path) -> None:
    """The named cameras side by side, colour above depth, at the video's rate, written to ``path`` (MP4) when whole."""
    count = len(episode.steps)
    shown = [episode.frames(name, np.arange(count)) for name in cameras]
    limits = _limits([s.depth[:: max(1, count // 8)] for s in shown])
    captions = np.concatenate(
        [_caption(name, _fit(s.rgb[0]).shape[1]) for name, s in zip(cameras, shown, strict=True)], 1
    )

    with atomic(path) as part, Film(part, episode.attrs["video_hz"]) as film:
        for k in range(count):
            colour = np.concatenate([_fit(s.rgb[k]) for s in shown], axis=1)
            depth = np.concatenate([_fit(colour_depth(s.depth[k], limits)) for s in shown], axis=1)
            film.append(_even(np.concatenate([captions, colour, depth])))


def _limits(depths: Sequence[npt.NDArray[np.float32]]) -> tuple[float, float]:
    """Nearest and farthest metres that the colours tell apart; 0 to 1 where no depth is valid."""
    valid = np.concatenate([depth[np.isfinite(depth)] for depth in depths])
    if not len(valid):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(valid, [1, 99]))
    return low, max(high, low + 0.01)


def _fit(image: Image) -> Image:
    """Nearest neighbour by whole factors: what is small shall look as small as it is."""
    width, (low, high) = image.shape[1], IMAGE_PX
    if width > high:
        stride = -(-width // high)
        return image[::stride, ::stride]
    factor = max(1, round(low / width))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _even(image: Image) -> Image:
    """H.264 stores colour at half the size: heights and widths must be even."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)))


def _caption(text: str, width: int) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    strip = Pillow.new("RGB", (width, 18), (24, 26, 29))
    ImageDraw.Draw(strip).text((5, 3), text, fill=(235, 235, 235))
    return np.asarray(strip, dtype=np.uint8)


def _label_colours(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3): light grey for the background, then colours that are easily told apart."""
    import matplotlib
    from matplotlib.colors import to_rgb

    palette = [matplotlib.colormaps[name](i)[:3] for name, size in (("tab10", 10), ("tab20b", 20)) for i in range(size)]
    colours = [to_rgb(BACKGROUND), *(palette[i % len(palette)] for i in range(count - 1))]
    return (255 * np.asarray(colours)).round().astype(np.uint8)


def _legend(ax: Any, names: Sequence[str], colours: Image, box: tuple[int, int, int], size: float) -> None:
    """Names of labels in their colours, in rows from (x, y) to the right end."""
    from matplotlib.patches import Rectangle

    left, y, right = box
    x = left
    for name, colour in zip(names, colours, strict=True):
        needed = 24 + 9 * len(name) + 14
        if x + needed > right and x > left:
            x, y = left, y + 24
        ax.add_patch(Rectangle((x, y - 7), 14, 14, facecolor=colour / 255, edgecolor="#8A8F98", lw=0.5))
        ax.text(x + 20, y, name, fontsize=size, va="center")
        x += needed
