"""Pictures made of images: a rig's views of one moment, tasks from the same cameras, what an episode's file shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.dataset.sensors import SENSORS, Depth, start_video
from geo4d_bench.drawing import (
    DPI,
    GREY,
    INVALID,
    SOFT,
    VIEW_COLOURS,
    VIEW_SYMBOLS,
    Image,
    colour_depth,
    depth_limits,
    image_grid,
    paste,
)
from geo4d_bench.films import Film
from geo4d_bench.io import atomic
from geo4d_bench.seeding import generator

IMAGE_PX = (160, 320)
"""Smaller images are enlarged to about the first width, larger ones thinned out to the second: whole pixels only."""
BACKGROUND = "#E3E5E8"
_HOLE = (255, 255, 255)
_SENSORS = ("perfect", "stereo", "estimated")
_ERROR_RANGES_CM = {"stereo": 0.5, "estimated": 10.0}


def contact_sheet(rgb: Image, cameras: Sequence[tuple[str, str]], title: str, path: Path) -> None:
    """All cameras' images of one moment.

    Args:
        rgb: (V, H, W, 3) uint8.  cameras: (heading, split) of the V columns, ``seen`` or ``novel``.
    """
    views, h, w = rgb.shape[:3]
    gap, label, header = max(10, w // 24), max(22, h // 9), max(46, h // 4)
    columns = int(np.ceil(np.sqrt(views)))
    with image_grid(list(rgb), columns, path, gap=gap, header=header, below=label, footer=gap) as (ax, corners):
        size, width = 72 / DPI * max(13.0, h / 14), ax.get_xlim()[1]
        ax.text(gap, header * 0.5, title, fontsize=1.35 * size, weight="bold", va="center")
        for split, what, left_of in (("seen", "trained on", 0.23 * width), ("novel", "never trained on", 0.0)):
            text = f"{VIEW_SYMBOLS[split]} {sum(s == split for _, s in cameras)} {split}: {what}"
            style = {"fontsize": size, "color": VIEW_COLOURS[split], "ha": "right", "va": "center"}
            ax.text(width - gap - left_of, header * 0.5, text, **style)
        for (name, split), (x, y) in zip(cameras, corners, strict=True):
            _frame(ax, x, y, w, h, split, 3.5 if split == "novel" else 1.2)
            _camera_name(ax, x, y + h + label * 0.55, f"{name}  novel" if split == "novel" else name, split, size)


def task_sheet(titles: Sequence[str], rgb: Image, cameras: Sequence[tuple[str, str]], path: Path) -> None:
    """Several tasks from the same cameras, or in several rooms: one row per task, one column per camera or room.

    Args:
        titles: of the R tasks.  rgb: (R, V, H, W, 3) uint8.
        cameras: (name, split) of the V cameras, ``seen`` or ``novel``.
    """
    views, h, w = rgb.shape[1:4]
    gap, header, label = 8, 44, 40
    images = list(rgb.reshape(-1, h, w, 3))
    with image_grid(images, views, path, gap=gap, header=header, above=label) as (ax, corners):
        size = 72 / DPI * 20
        for (name, split), (x, _) in zip(cameras, corners, strict=False):
            _camera_name(ax, x, header / 2, name, split, size)
        for (_, split), (x, y) in zip([*cameras] * len(titles), corners, strict=True):
            _frame(ax, x, y, w, h, split, 3.0 if split == "novel" else 1.0)
        for title, (_, y) in zip(titles, corners[::views], strict=True):
            ax.text(gap, y - label / 2, title, fontsize=1.15 * size, weight="bold", va="center")


def episode_sheet(episode: EpisodeFile, frame: int, path: Path) -> None:
    """Colour, depth and labels of every camera at one frame, written to ``path`` (PNG).

    Depth is z along each camera's optical axis, one colour scale for all; grey is invalid.
    """
    frames = [episode.frames(camera.name, [frame]) for camera in episode.cameras]
    limits = depth_limits([f.depth for f in frames])
    colours = _label_colours(len(episode.seg_names))
    cells = [
        np.hstack([_fit(rgb) for rgb in (f.rgb[0], colour_depth(f.depth[0], limits), colours[f.seg[0]])])
        for f in frames
    ]
    h, w = cells[0].shape[:2]
    columns = max(1, round(1.2 * np.sqrt(len(cells) * h / w)))
    gap, header, size = 14, 40, 72 / DPI * 15
    with image_grid(cells, columns, path, gap=gap, header=header, below=24, footer=62) as (ax, corners):
        step = int(episode.steps[frame])
        seconds = float(episode.file["time"][step] - episode.file["time"][0])
        title = f"{episode.attrs['task']}  {episode.name}  frame {frame}, {seconds:.1f} s: colour, depth, labels"
        ax.text(gap, header / 2, title, fontsize=1.2 * size, weight="bold", va="center")
        for camera, (x, y) in zip(episode.cameras, corners, strict=True):
            text = f"{VIEW_SYMBOLS[camera.split]} {camera.name}  {camera.split}"
            ax.text(x, y + h + 12, text, fontsize=size, color=VIEW_COLOURS[camera.split], va="center")
        width, height = ax.get_xlim()[1], ax.get_ylim()[0]
        bar_width, top = w // 3, height - 54
        paste(ax, colour_depth(np.linspace(*limits, bar_width)[None].repeat(16, axis=0), limits), gap, top)
        ax.text(gap, top + 26, f"{limits[0]:.2f} m", fontsize=size, va="center")
        ax.text(gap + bar_width, top + 26, f"{limits[1]:.2f} m", fontsize=size, va="center", ha="right")
        _legend(ax, episode.seg_names, colours, (gap + bar_width + 2 * gap, top + 8, width - gap), size)


def episode_film(episode: EpisodeFile, cameras: Sequence[str], path: Path) -> None:
    """The named cameras side by side, colour above depth, at the video's rate, written to ``path`` (MP4)."""
    count = len(episode.steps)
    views = [episode.frames(name, np.arange(count)) for name in cameras]
    limits = depth_limits([view.depth[:: max(1, count // 8)] for view in views])
    captions = np.hstack(
        [_caption(name, _fit(view.rgb[0]).shape[1]) for name, view in zip(cameras, views, strict=True)]
    )
    with atomic(path) as part, Film(part, episode.attrs["video_hz"]) as film:
        for k in range(count):
            colour = np.hstack([_fit(view.rgb[k]) for view in views])
            depth = np.hstack([_fit(colour_depth(view.depth[k], limits)) for view in views])
            picture = np.concatenate([captions, colour, depth])
            # H.264 stores colour at half the size: heights and widths must be even.
            film.append(np.pad(picture, ((0, len(picture) % 2), (0, picture.shape[1] % 2), (0, 0))))


def sensor_sheet(episode: EpisodeFile, frame: int, cameras: Sequence[str], path: Path) -> None:
    """Colour, depth and error of a frame from each of ``cameras``; one row per camera. Holes of a sensor are white,
    what has no true depth is grey."""
    views = [episode.frames(camera, np.array([frame])) for camera in cameras]
    h, w = views[0].depth.shape[1:]
    scale = int(np.ceil(320 / w))
    cells: list[tuple[str, Image]] = []
    for camera, view in zip(cameras, views, strict=True):
        true = view.depth[0]
        low, high = (float(x) for x in np.nanpercentile(true, [1, 99]))
        measured = {}
        for name in _SENSORS:
            rng = generator(episode.name, "train", frame, f"picture/{camera}/{name}")
            measured[name] = start_video(SENSORS.get(name), episode.K(camera), h, w, rng)(view.depth)[0]
        cells.append((f"{camera}, colour", view.rgb[0]))
        cells += [(f"depth, {name}", _holes(colour_depth(d, (low, high)), d, true)) for name, d in measured.items()]
        for name, limit in _ERROR_RANGES_CM.items():
            error = _colour_error(100.0 * (measured[name] - true), limit)
            cells.append((f"error, {name}: ±{limit:g} cm", _holes(error, measured[name], true)))
    images = [image.repeat(scale, 0).repeat(scale, 1) for _, image in cells]
    columns, gap, header, label, footer = len(cells) // len(cameras), 12, 54, 34, 40
    with image_grid(images, columns, path, gap=gap, header=header, above=label, footer=footer) as (ax, corners):
        size = 72 / DPI * 20
        title = "One frame as each sensor measures it"
        ax.text(gap, header / 2, title, fontsize=1.3 * size, weight="bold", va="center")
        for (text, _), (x, y) in zip(cells, corners, strict=True):
            ax.text(x, y - label // 2, text, fontsize=size, va="center")
        note = (
            f"{episode.name}, frame {frame}, {h} x {w} pixels. Depth: near is bright. Error: blue is too near, red too "
            "far. White: a hole of the sensor. Grey: no true depth."
        )
        ax.text(gap, ax.get_ylim()[0] - footer / 2, note, fontsize=0.9 * size, color=SOFT, va="center")


def _camera_name(ax: Any, x: float, y: float, text: str, split: str, size: float) -> None:
    weight = "bold" if split == "novel" else "normal"
    text = f"{VIEW_SYMBOLS[split]} {text}"
    ax.text(x, y, text, fontsize=size, color=VIEW_COLOURS[split], va="center", weight=weight)


def _frame(ax: Any, x: float, y: float, w: int, h: int, split: str, line: float) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=VIEW_COLOURS[split], lw=line, zorder=2))


def _fit(image: Image) -> Image:
    """Nearest neighbour by whole factors: what is small shall look as small as it is."""
    width, (low, high) = image.shape[1], IMAGE_PX
    if width > high:
        stride = -(-width // high)
        return image[::stride, ::stride]
    factor = max(1, round(low / width))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


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


def _legend(ax: Any, names: Sequence[str], colours: Image, box: tuple[float, float, float], size: float) -> None:
    """Names of labels in their colours, in rows from (x, y) to the right end."""
    from matplotlib.patches import Rectangle

    left, y, right = box
    x = left
    for name, colour in zip(names, colours, strict=True):
        needed = 24 + 9 * len(name) + 14
        if x + needed > right and x > left:
            x, y = left, y + 24
        ax.add_patch(Rectangle((x, y - 7), 14, 14, facecolor=colour / 255, edgecolor=GREY, lw=0.5))
        ax.text(x + 20, y, name, fontsize=size, va="center")
        x += needed


def _holes(image: Image, measured: Depth, true: Depth) -> Image:
    marked = np.where(np.isfinite(measured)[..., None], image, np.array(_HOLE))
    return np.where(np.isfinite(true)[..., None], marked, np.array(INVALID)).astype(np.uint8)


def _colour_error(error_cm: npt.NDArray[np.float32], limit_cm: float) -> Image:
    import matplotlib

    colours = matplotlib.colormaps["coolwarm"](0.5 + 0.5 * np.nan_to_num(error_cm) / limit_cm)[..., :3]
    return np.asarray(255 * colours, dtype=np.uint8)
