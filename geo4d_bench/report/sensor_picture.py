"""One frame's depth as each sensor measures it, with what is wrong about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.dataset.sensors import SENSORS, Depth, start_video
from geo4d_bench.drawing import DPI, INVALID, SOFT, Image, colour_depth, figure, image_axes
from geo4d_bench.seeding import generator

_SHOWN = ("perfect", "stereo", "estimated")
_ERROR_RANGES_CM = {"stereo": 0.5, "estimated": 10.0}
_HOLE = (255, 255, 255)


def sensor_sheet(episode: EpisodeFile, frame: int, cameras: Sequence[str], path: Path) -> None:
    """Colour, depth and error of a frame from each of ``cameras``; a row a camera. Holes of a sensor are white, what
    has no true depth is grey."""
    views = [episode.frames(camera, np.array([frame])) for camera in cameras]
    h, w = views[0].depth.shape[1:]
    scale = int(np.ceil(320 / w))
    cell_h, cell_w, gap, header, label = h * scale, w * scale, 12, 54, 34
    columns = 1 + len(_SHOWN) + len(_ERROR_RANGES_CM)
    width, row_h = gap + columns * (cell_w + gap), label + cell_h + gap
    height = header + len(cameras) * row_h + 40
    pixels: Image = np.full((height, width, 3), 255, dtype=np.uint8)
    titles: list[tuple[int, int, str]] = []
    for r, (camera, view) in enumerate(zip(cameras, views, strict=True)):
        true = view.depth[0]
        low, high = (float(x) for x in np.nanpercentile(true, [1, 99]))
        measured = {}
        for name in _SHOWN:
            rng = generator(episode.name, "train", frame, f"picture/{camera}/{name}")
            measured[name] = start_video(SENSORS.get(name), episode.K(camera), h, w, rng)(view.depth)[0]
        cells = [(f"{camera}, colour", view.rgb[0])]
        cells += [(f"depth, {name}", _holes(colour_depth(d, (low, high)), d, true)) for name, d in measured.items()]
        for name, limit in _ERROR_RANGES_CM.items():
            error = _colour_error(100.0 * (measured[name] - true), limit)
            cells.append((f"error, {name}: ±{limit:g} cm", _holes(error, measured[name], true)))
        top = header + r * row_h
        for c, (title, image) in enumerate(cells):
            left = gap + c * (cell_w + gap)
            pixels[top + label : top + label + cell_h, left : left + cell_w] = image.repeat(scale, 0).repeat(scale, 1)
            titles.append((left, top + label // 2, title))
    with figure(width / DPI, height / DPI, path) as fig:
        ax = image_axes(fig, pixels)
        size = 72 / DPI * 20
        ax.text(
            gap, header / 2, "One frame as each sensor measures it", fontsize=1.3 * size, weight="bold", va="center"
        )
        for left, middle, title in titles:
            ax.text(left, middle, title, fontsize=size, va="center")
        note = (
            f"{episode.name}, frame {frame}, {h} x {w} pixels. Depth: near is bright. Error: blue is too near, red too "
            "far. White: a hole of the sensor. Grey: no true depth."
        )
        ax.text(gap, height - 20, note, fontsize=0.9 * size, color=SOFT, va="center")


def _holes(image: Image, measured: Depth, true: Depth) -> Image:
    marked = np.where(np.isfinite(measured)[..., None], image, np.array(_HOLE))
    return np.where(np.isfinite(true)[..., None], marked, np.array(INVALID)).astype(np.uint8)


def _colour_error(error_cm: npt.NDArray[np.float32], limit_cm: float) -> Image:
    import matplotlib

    colours = matplotlib.colormaps["coolwarm"](0.5 + 0.5 * np.nan_to_num(error_cm) / limit_cm)[..., :3]
    return np.asarray(255 * colours, dtype=np.uint8)
