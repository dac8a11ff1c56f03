"""Contact sheets: a rig's views of one moment, and tasks from the same cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.drawing import DPI, VIEW_COLOURS, Image, figure, image_axes, paste


def contact_sheet(rgb: Image, names: Sequence[str], splits: Sequence[str], title: str, path: Path) -> None:
    """All cameras' images of one moment, seen and novel ones told apart by frame, symbol and word.

    Args:
        rgb: (V, H, W, 3) uint8.  names, splits: of the V cameras, ``seen`` or ``novel``.
    """
    views, h, w = rgb.shape[:3]
    columns = int(np.ceil(np.sqrt(views)))
    rows = int(np.ceil(views / columns))
    gap, label, header = max(10, w // 24), max(22, h // 9), max(46, h // 4)
    width, height = columns * (w + gap) + gap, header + rows * (h + gap + label) + gap
    corners = [(gap + i % columns * (w + gap), header + i // columns * (h + gap + label)) for i in range(views)]
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    for image, (x, y) in zip(rgb, corners, strict=True):
        paste(pixels, image, x, y)
    with figure(width / DPI, height / DPI, path) as fig:
        ax = image_axes(fig, pixels)
        size = 72 / DPI * max(13.0, h / 14)
        ax.text(gap, header * 0.5, title, fontsize=1.35 * size, weight="bold", va="center")
        count = {s: list(splits).count(s) for s in ("seen", "novel")}
        for k, (split, what) in enumerate((("seen", "trained on"), ("novel", "never trained on"))):
            end = width - gap - (1 - k) * 0.23 * width
            text = f"{_symbol(split)} {count[split]} {split}: {what}"
            ax.text(end, header * 0.5, text, fontsize=size, color=VIEW_COLOURS[split], ha="right", va="center")
        for i, (x, y) in enumerate(corners):
            colour = VIEW_COLOURS[splits[i]]
            _frame(ax, x, y, w, h, colour, 3.5 if splits[i] == "novel" else 1.2)
            text = f"{_symbol(splits[i])} {names[i]}" + ("  novel" if splits[i] == "novel" else "")
            weight = "bold" if splits[i] == "novel" else "normal"
            ax.text(x, y + h + label * 0.55, text, fontsize=size, color=colour, va="center", weight=weight)


@dataclass(frozen=True)
class TaskRow:
    """One task on a sheet: its name, its instruction and its images (V, H, W, 3) uint8, one of every camera."""

    name: str
    instruction: str
    rgb: Image


def task_sheet(rows: Sequence[TaskRow], cameras: Sequence[tuple[str, str]], path: Path) -> None:
    """Several tasks from the same cameras: a row a task, a column a camera, seen and novel ones told apart.

    Args:
        cameras: (name, split) of the V cameras, ``seen`` or ``novel``.
    """
    h, w = rows[0].rgb.shape[1:3]
    gap, header, label = 8, 44, 40
    width, height = len(cameras) * (w + gap) + gap, header + len(rows) * (label + h + gap)
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    lefts = [gap + i * (w + gap) for i in range(len(cameras))]
    tops = [header + label + r * (label + h + gap) for r in range(len(rows))]
    for row, y in zip(rows, tops, strict=True):
        for image, x in zip(row.rgb, lefts, strict=True):
            paste(pixels, image, x, y)
    with figure(width / DPI, height / DPI, path) as fig:
        ax = image_axes(fig, pixels)
        size = 72 / DPI * 20
        for x, (name, split) in zip(lefts, cameras, strict=True):
            weight = "bold" if split == "novel" else "normal"
            text = f"{_symbol(split)} {name} {split}"
            ax.text(x, header / 2, text, fontsize=size, color=VIEW_COLOURS[split], va="center", weight=weight)
            for y in tops:
                _frame(ax, x, y, w, h, VIEW_COLOURS[split], 3.0 if split == "novel" else 1.0)
        for row, y in zip(rows, tops, strict=True):
            text = f"{row.name}:  {row.instruction}"
            ax.text(gap, y - label / 2, text, fontsize=1.15 * size, weight="bold", va="center")


def _frame(ax: Any, x: float, y: float, w: int, h: int, colour: str, line: float) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, lw=line, zorder=2))


def _symbol(split: str) -> str:
    return "●" if split == "seen" else "◆"
