"""``geo4d-bench tasks``: the list in words, and the picture of every task from every camera."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from geo4d_bench.cli import main
from geo4d_bench.errors import ConfigError
from geo4d_bench.report import listing
from geo4d_bench.report.listing import PREVIEW_SIZE, TasksConfig
from geo4d_bench.report.pictures import task_sheet
from geo4d_bench.tasks import names
from geo4d_bench.tasks.rigs import RIGS


def test_all_tasks_and_rigs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    for name in (*names(), *RIGS):
        assert f"  {name} " in out
    assert "12 seen and 4 novel cameras, 13 to 16 degrees from the nearest seen one" in out
    assert "drawn anew for every episode" in out


def test_a_task_can_be_picked_and_a_misspelt_one_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert [spec.id for spec in listing.run(TasksConfig(task="store_cereal")).tasks] == ["store_cereal"]
    assert main(["tasks", "--task", "store_cerael"]) == 2
    assert "did you mean 'store_cereal'" in capsys.readouterr().err


def test_the_preview_shows_the_task_from_16_different_places(tmp_path: Path) -> None:
    path = tmp_path / "new" / "preview.png"
    result = listing.run(TasksConfig(task="store_cereal", preview=path))
    assert str(path) in str(result)
    assert [p.name for p in path.parent.iterdir()] == ["preview.png"]  # nothing half-written beside it
    sheet = iio.imread(path)[..., :3].astype(float)
    h, w = PREVIEW_SIZE
    assert sheet.shape[1] > 16 * w
    columns = [sheet[-h + 8 : -16, i * (w + 8) + 16 : (i + 1) * (w + 8) - 8] for i in range(16)]
    for i, column in enumerate(columns):
        assert column.std() > 15.0, i  # a scene, not a blank
        for other in columns[:i]:
            assert np.abs(column - other).mean() > 4.0


def test_a_sheet_shows_every_image_unchanged(tmp_path: Path) -> None:
    colours = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3)
    rgb = np.zeros((2, 3, 60, 90, 3), dtype=np.uint8) + np.array([7, 211, 0], dtype=np.uint8)
    rgb[..., 2] = colours[:, :, None, None]
    cameras = [("cam00", "seen"), ("cam01", "novel"), ("cam02", "seen")]
    task_sheet(["task0: do it", "task1: do it"], rgb, cameras, tmp_path / "sheet.png")
    sheet = iio.imread(tmp_path / "sheet.png")[..., :3]
    for colour in colours.ravel():
        inside = (sheet == [7, 211, colour]).all(-1).sum()
        assert 50 * 80 < inside <= 60 * 90  # all but the frame, at most 5 pixels wide


@pytest.mark.parametrize("name", ["preview", "preview.txt", "preview.mp4"])
def test_a_preview_that_is_no_picture_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--preview preview.*ends in \.png"):
        TasksConfig(preview=Path(name))
