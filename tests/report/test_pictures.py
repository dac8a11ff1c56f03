"""Pictures show every image they are given, whole and unchanged; frames of one colour can be counted."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import pytest

from geo4d_bench.drawing import INVALID, colour_depth
from geo4d_bench.errors import DatasetError
from geo4d_bench.evaluation.example import Example
from geo4d_bench.evaluation.film_strip import film_strip
from geo4d_bench.report.pictures import contact_sheet

H, W, T = 16, 24, 3
SCALE = 7  # a film strip enlarges 24 pixels to at least 150


def pixels_of(path: Path, colour: npt.ArrayLike) -> int:
    return int((iio.imread(path)[..., :3] == np.asarray(colour)).all(-1).sum())


def plain(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images (..., H, W, 3) of the colours (..., 3)."""
    return np.broadcast_to(colours[..., None, None, :], (*colours.shape[:-1], H, W, 3)).copy()


def example() -> Example:
    red = np.arange(2 * 2 * T, dtype=np.uint8).reshape(2, 2, T)
    colours = np.stack([10 + 5 * red, np.full_like(red, 200), 30 + 3 * red], axis=-1)
    depth = np.full((2, 2, T, H, W), 1.0, dtype=np.float32)
    depth[1] = np.nan
    return Example(
        first_rgb=plain(np.array([[250, 3, 3], [3, 3, 250]], dtype=np.uint8)),
        first_depth=np.full((2, H, W), 1.0, dtype=np.float32),
        first_hand=np.zeros((2, H, W), dtype=bool),
        rgb=plain(colours),
        depth=depth,
        hand=np.zeros((2, 2, T, H, W), dtype=bool),
        dt_s=0.4,
        gripper_cm=3.0,
        episode="ep_000001",
        start=4,
        cameras=("cam00", "cam05"),
        views="seen",
        chosen="By a rule.",
    )


def test_film_strip_shows_every_frame_once(tmp_path: Path) -> None:
    shown = example()
    film_strip(shown, tmp_path / "strip.png")
    cell = H * W * SCALE**2
    for colour in (*shown.rgb[:, :, :, 0, 0].reshape(-1, 3), *shown.first_rgb[:, 0, 0]):
        assert pixels_of(tmp_path / "strip.png", colour) == cell
    # The generated depths of both views are invalid in all T frames.
    assert pixels_of(tmp_path / "strip.png", INVALID) == 2 * T * cell


def test_example_survives_its_file_and_a_cut_off_one_is_refused(tmp_path: Path) -> None:
    written = example()
    written.save(tmp_path / "example.npz")
    read = Example.load(tmp_path / "example.npz")
    np.testing.assert_array_equal(read.rgb, written.rgb)
    np.testing.assert_array_equal(read.depth, written.depth)
    assert (read.episode, read.start, read.cameras, read.chosen) == ("ep_000001", 4, ("cam00", "cam05"), "By a rule.")
    whole = (tmp_path / "example.npz").read_bytes()
    (tmp_path / "example.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="geo4d-bench evaluate"):
        Example.load(tmp_path / "example.npz")


def test_contact_sheet_shows_every_camera(tmp_path: Path) -> None:
    big = plain(np.array([[20 * i + 5, 90, 180] for i in range(5)], dtype=np.uint8)).repeat(8, 1).repeat(8, 2)
    contact_sheet(
        big, [f"cam{i:02d}" for i in range(5)], ["seen"] * 3 + ["novel"] * 2, "five views", tmp_path / "a.png"
    )
    for image in big:
        hidden = 1 - pixels_of(tmp_path / "a.png", image[0, 0]) / (64 * H * W)
        assert 0.0 <= hidden < 0.12  # only the frame's line lies over it


def test_depth_colours_are_ordered_and_invalid_is_grey() -> None:
    colours = colour_depth(np.array([[0.5, 1.0, 1.5, np.nan]]), (0.5, 1.5)).astype(int)
    brightness = colours[0, :3].sum(-1)
    assert brightness[0] > brightness[1] > brightness[2]  # near is bright
    assert tuple(colours[0, 3]) == INVALID
