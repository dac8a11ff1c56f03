"""What all pictures and charts share: colours, typography, and files that appear only when they are whole.

Colours are Okabe and Ito's and Tol's, which colour-blind readers can tell apart; shapes and labels say the same.
Nothing here goes through pyplot, so no global figure or backend is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
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
SOFT = "#6B7178"
INVALID = (222, 224, 227)
"""Light grey: a pixel without depth, a colour that the depth map does not have."""
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
    fig.supxlabel(text, fontsize=8, color="#6B7178", x=0.01, ha="left")


def colour_depth(depth: npt.NDArray[np.floating[Any]], limits: tuple[float, float]) -> Image:
    """(H, W, 3) uint8 from metres (H, W): near is bright, invalid is light grey."""
    import matplotlib

    low, high = limits
    colours = matplotlib.colormaps["viridis_r"]((np.nan_to_num(depth, nan=low) - low) / (high - low))[..., :3]
    return np.where(np.isfinite(depth)[..., None], 255 * colours, INVALID).astype(np.uint8)


def image_axes(fig: Any, pixels: Image) -> Any:
    """Axes over the whole figure that show an image (H, W, 3), its pixels being the coordinates, y downwards."""
    height, width = pixels.shape[:2]
    fig.set_layout_engine("none")
    fig.figimage(pixels, zorder=-1)  # copied as it is, not resampled
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.axis("off")
    return ax


def paste(pixels: Image, image: Image, x: int, y: int) -> None:
    """Put an image (h, w, 3) into a larger one, its top left corner at (x, y)."""
    h, w = image.shape[:2]
    pixels[y : y + h, x : x + w] = image
