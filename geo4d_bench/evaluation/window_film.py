"""One window as a film: true frames above generated ones, both views' colour, depth and hand labels side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geo4d_bench.drawing import Image
from geo4d_bench.films import Film
from geo4d_bench.io import atomic
from geo4d_bench.model.types import Video4D
from geo4d_bench.training.pictures import KINDS, colours_of

_PANEL_WIDTH = 240
"""Pixels, about: an image is scaled up by the whole number that comes nearest."""
_GAP, _HEADER, _SIDE, _TITLE = 6, 22, 84, 34
_FPS, _HOLD_S, _HOLD_LAST_S = 10, 1.0, 2.0
_LABELS = {"rgb": "colour", "depth": "depth along n's axis", "parts": "hand parts"}


def write_film(path: Path, true: Video4D, generated: Video4D, title: str) -> None:
    """Write an MP4 in which each frame stands for a second and the last one for two.

    Args:
        path: of the file, written aside and renamed.
        true, generated: 1 + T frames, frame 0 being what the generator was given.
    """
    frames = true.rgb.shape[1]
    with atomic(path) as part, Film(part, _FPS, crf=10) as film:
        for t, picture in enumerate(film_frames(true, generated, title)):
            for _ in range(round(_FPS * (_HOLD_LAST_S if t == frames - 1 else _HOLD_S))):
                film.append(picture)


def film_frames(true: Video4D, generated: Video4D, title: str) -> list[Image]:
    """1 + T pictures (H, W, 3) uint8, H and W even; images are enlarged by nearest neighbour: small looks small."""
    h, w = true.rgb.shape[2:4]
    scale = max(1, round(_PANEL_WIDTH / w))
    columns = [(view, kind) for view in range(2) for kind in KINDS]
    lefts = [_SIDE + i * (scale * w + _GAP) + (i >= len(KINDS)) * 2 * _GAP for i in range(len(columns))]
    tops = [_TITLE + _HEADER + i * (scale * h + _GAP) for i in range(2)]
    height, width = (-(-x // 2) * 2 for x in (tops[-1] + scale * h + _GAP, lefts[-1] + scale * w + _GAP))  # for H.264
    texts = [(x, _TITLE + _HEADER / 2, f"{'nm'[v]}: {_LABELS[k]}") for x, (v, k) in zip(lefts, columns, strict=True)]
    texts += [(_GAP, y + scale * h / 2, name) for y, name in zip(tops, ("true", "generated"), strict=True)]
    panels = [
        (x, y, colours_of(video, true, view, kind))
        for y, video in zip(tops, (true, generated), strict=True)
        for x, (view, kind) in zip(lefts, columns, strict=True)
    ]
    pictures = []
    for t in range(true.rgb.shape[1]):
        when = "what is given" if t == 0 else f"{t * true.dt_s:.1f} s later"
        picture = _write(width, height, [(_GAP, _TITLE / 2, f"{title}, {when}"), *texts])
        for x, y, images in panels:
            picture[y : y + scale * h, x : x + scale * w] = images[t].repeat(scale, 0).repeat(scale, 1)
        pictures.append(picture)
    return pictures


def _write(width: int, height: int, texts: list[tuple[float, float, str]]) -> Image:
    """A white picture (H, W, 3) with texts at (x, y), y of their middle."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for x, y, text in texts:
        figure.text(x / width, 1.0 - y / height, text, fontsize=9.5, va="center", family="DejaVu Sans")
    canvas.draw()
    picture: Image = np.array(canvas.buffer_rgba())[..., :3]
    return picture
