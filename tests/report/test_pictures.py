"""Pictures show every image they are given, whole and unchanged; frames of one colour can be counted."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt

from geo4d_bench.drawing import INVALID, colour_depth
from geo4d_bench.evaluation.film_strip import film_strip
from geo4d_bench.model.types import Video4D
from geo4d_bench.report.pictures import contact_sheet

H, W, T = 16, 24, 3
SCALE = 7  # a film strip enlarges 24 pixels to at least 150


def pixels_of(path: Path, colour: npt.ArrayLike) -> int:
    return int((iio.imread(path)[..., :3] == np.asarray(colour)).all(-1).sum())


def plain(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images (..., H, W, 3) of the colours (..., 3)."""
    return np.broadcast_to(colours[..., None, None, :], (*colours.shape[:-1], H, W, 3)).copy()


def video(colours: npt.NDArray[np.uint8], depth: float) -> Video4D:
    """Frames (2, T) of those colours, everything at one depth."""
    rgb = plain(colours)
    points = np.full((*rgb.shape[:-1], 3), depth, dtype=np.float32)
    return Video4D(rgb, points, np.zeros(rgb.shape[:-1], dtype=np.uint8), np.stack([np.eye(3)] * 2), 0.4)


def test_film_strip_shows_every_frame_once(tmp_path: Path) -> None:
    red = np.arange(2 * 2 * T, dtype=np.uint8).reshape(2, 2, T)
    colours = np.stack([10 + 5 * red, np.full_like(red, 200), 30 + 3 * red], axis=-1)
    given = np.array([[[250, 3, 3]], [[3, 3, 250]]], dtype=np.uint8)
    videos = video(given, 1.0), video(colours[0], 1.0), video(colours[1], np.nan)
    film_strip(*videos, ("cam00", "cam05"), "Seen views", "By a rule.", tmp_path / "strip.png")
    cell = H * W * SCALE**2
    for colour in (*colours.reshape(-1, 3), *given.reshape(-1, 3)):
        assert pixels_of(tmp_path / "strip.png", colour) == cell
    # The generated depths of both views are invalid in all T frames.
    assert pixels_of(tmp_path / "strip.png", INVALID) == 2 * T * cell


def test_contact_sheet_shows_every_camera(tmp_path: Path) -> None:
    big = plain(np.array([[20 * i + 5, 90, 180] for i in range(5)], dtype=np.uint8)).repeat(8, 1).repeat(8, 2)
    cameras = [(f"cam{i:02d}", "seen" if i < 3 else "novel") for i in range(5)]
    contact_sheet(big, cameras, "five views", tmp_path / "a.png")
    for image in big:
        hidden = 1 - pixels_of(tmp_path / "a.png", image[0, 0]) / (64 * H * W)
        assert 0.0 <= hidden < 0.12  # only the frame's line lies over it


def test_depth_colours_are_ordered_and_invalid_is_grey() -> None:
    colours = colour_depth(np.array([[0.5, 1.0, 1.5, np.nan]]), (0.5, 1.5)).astype(int)
    brightness = colours[0, :3].sum(-1)
    assert brightness[0] > brightness[1] > brightness[2]  # near is bright
    assert tuple(colours[0, 3]) == INVALID
