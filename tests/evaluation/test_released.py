"""The released checkpoint: its video shows where the gripper goes, in pixels that look there."""

from pathlib import Path
from typing import Any

import pandas as pd

from geo4d_bench.datagen import redraw
from geo4d_bench.evaluation import evaluate
from geo4d_bench.evaluation.evaluate import EvaluateConfig
from geo4d_bench.model.generators import load_generator

RELEASED = Path(__file__).resolve().parents[2] / "checkpoints" / "geo4d"


def test_the_released_geo4d_shows_where_the_gripper_goes(tiny_dataset: Any, tmp_path: Path) -> None:
    assert sum(p.stat().st_size for p in RELEASED.iterdir()) < 20e6
    config = load_generator(RELEASED).config
    redraw.run(redraw.RenderConfig(tiny_dataset.eval, tmp_path / "data", height=config.height, width=config.width))
    evaluate.run(
        EvaluateConfig(
            checkpoint=RELEASED, data=tmp_path / "data", views="novel", windows=4, workers=1, out=tmp_path / "out"
        )
    )
    rows = pd.read_csv(tmp_path / "out" / "metrics.csv").set_index("source")
    generated, copied = rows.loc["generated"], rows.loc["copy_first_frame"]
    assert not generated.calibrated
    assert generated.gripper_cm < 0.4 * copied.gripper_cm
    assert generated.opening_cm < 0.5 * copied.opening_cm
    assert max(generated.off_ray_n, generated.off_ray_m) < 0.1
