"""What all pictures and charts share: colours, typography, and files that appear only when they are whole.

Colours are Okabe and Ito's and Tol's, which colour-blind readers can tell apart; shapes and labels say the same.
Nothing here goes through pyplot, so no global figure or backend is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.io import atomic

Image = npt.NDArray[np.uint8]

BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#8A8F98", "#22262B"
VIEW_COLOURS = {"seen": BLUE, "novel": ORANGE}
VIEW_MARKERS = {"seen": "o", "novel": "D"}
VIEW_SYMBOLS = {"seen": "●", "novel": "◆"}
SOFT = "#6B7178"
INVALID = (222, 224, 227)
"""Light grey: the colour of a pixel without depth."""
DPI = 160


@contextmanager
def figure(width_in: float, height_in: float, path: Path) -> Iterator[Any]:
    """A figure of that size with the report's typography; saved to ``path`` (PNG) when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rc = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#B5BAC1",
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": "#555B63",
        "ytick.color": "#555B63",
        "grid.color": "#E6E8EB",
        "legend.frameon": False,
        "figure.facecolor": "white",
        "lines.linewidth": 1.8,
    }
    with matplotlib.rc_context(rc):
        fig = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
        FigureCanvasAgg(fig)
        yield fig
        with atomic(path) as part:
            fig.savefig(part)


def caption(fig: Any, text: str) -> None:
    """A small grey line under the figure that says how it was made."""
    fig.supxlabel(text, fontsize=8, color=SOFT, x=0.01, ha="left")


def depth_limits(depths: Sequence[npt.NDArray[np.float32]]) -> tuple[float, float]:
    """Nearest and farthest metres that the colours distinguish; 0 to 1 where no depth is valid."""
    valid = np.concatenate([depth[np.isfinite(depth)] for depth in depths])
    if not len(valid):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(valid, [1, 99]))
    return low, max(high, low + 0.01)


def colour_depth(depth: npt.NDArray[np.floating[Any]], limits: tuple[float, float]) -> Image:
    """(H, W, 3) uint8 from metres (H, W): near is bright, invalid is light grey."""
    import matplotlib

    low, high = limits
    colours = matplotlib.colormaps["viridis_r"]((np.nan_to_num(depth, nan=low) - low) / (high - low))[..., :3]
    return np.where(np.isfinite(depth)[..., None], 255 * colours, INVALID).astype(np.uint8)


@contextmanager
def sheet(width: float, height: float, path: Path) -> Iterator[Any]:
    """Axes over a white picture of so many pixels, which are the coordinates, y downwards; saved as :func:`figure`."""
    with figure(width / DPI, height / DPI, path) as fig:
        fig.set_layout_engine("none")
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        ax.axis("off")
        yield ax


def paste(ax: Any, image: Image, x: int, y: int) -> None:
    """Show (h, w, 3) on a sheet as it is, not resampled, its top left corner at (x, y)."""
    ax.figure.figimage(image, x, ax.get_ylim()[0] - y - len(image), zorder=-1)


@contextmanager
def image_grid(
    images: Sequence[Image], columns: int, path: Path, *, gap: int, header: int, above: int = 0, below: int = 0,
    footer: int = 0,
) -> Iterator[tuple[Any, list[tuple[int, int]]]]:  # fmt: skip
    """A sheet of images of one size, row by row, with strips of so many pixels for text ``above`` and ``below`` each.

    Yields the axes and the images' top left corners (x, y).
    """
    h, w = images[0].shape[:2]
    pitch = above + h + below + gap
    rows = -(-len(images) // columns)
    with sheet(columns * (w + gap) + gap, header + rows * pitch + footer, path) as ax:
        corners = [(gap + i % columns * (w + gap), header + above + i // columns * pitch) for i in range(len(images))]
        for image, (x, y) in zip(images, corners, strict=True):
            paste(ax, image, x, y)
        yield ax, corners
