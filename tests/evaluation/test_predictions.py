"""Anybody's predictions are scored as checkpoints are: by files alone, end to end, or refused by name."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from geo4d_bench import cli
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.evaluation import conditions, evaluate
from geo4d_bench.evaluation.conditions import ConditionsConfig
from geo4d_bench.evaluation.evaluate import EvaluateConfig, Evaluation, Refused
from geo4d_bench.evaluation.held_out import HeldOut, HeldOutOptions
from geo4d_bench.evaluation.predictions import DT_S, FRAMES, StoredPredictions, faults, predictions_sha256, window_path
from geo4d_bench.evaluation.predictors import CheckpointPredictor
from geo4d_bench.evaluation.scoring import METRICS
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.batch import frames_of_window, true_video
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator
from geo4d_bench.model.types import Video4D

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "predictions.md"
WINDOWS = 2


def held_out(tiny_dataset: Any, seed: int = 0) -> HeldOut:
    return HeldOut(Dataset(tiny_dataset.eval), ["seen"], seed, FRAMES, DT_S)


def write_prediction(path: Path, video: Video4D) -> None:
    """What is not finite is written as invalid, with 0 in place of its point."""
    valid = np.isfinite(video.points).all(-1)
    points = np.where(valid[..., None], video.points, np.float32(0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "rgb": np.ascontiguousarray(video.rgb),
            "points": points,
            "valid": valid,
            "parts": np.ascontiguousarray(video.parts),
        },
        path,
    )


def predict(folder: Path, shown: Path, video_of: Callable[[int], Any], name: str = "someone") -> Path:
    """Predictions as a user would lay them out."""
    for i in range(WINDOWS):
        write_prediction(window_path(folder, "seen", i), video_of(i))
    manifest = json.loads((shown / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"generator": name}))
    return folder


@pytest.fixture(scope="module")
def shown(tiny_dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conditions of the first seen windows, in the setting without poses."""
    out = tmp_path_factory.mktemp("shown") / "conditions"
    config = ConditionsConfig(data=tiny_dataset.eval, views="seen", windows=WINDOWS, out=out)
    text = str(conditions.run(config))
    assert "geo4d-bench evaluate --predictions" in text
    return out


@pytest.fixture(scope="module")
def perfect(tiny_dataset: Any, shown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true futures, written as predictions."""
    windows = held_out(tiny_dataset)
    return predict(
        tmp_path_factory.mktemp("perfect"), shown, lambda i: true_video(windows.window("seen", i)), "perfect"
    )


@pytest.fixture
def copy(perfect: Path, tmp_path: Path) -> Path:
    """A copy of the true futures, to spoil."""
    return Path(shutil.copytree(perfect, tmp_path / "copy"))


def score(tiny_dataset: Any, out: Path, **changes: Any) -> Evaluation:
    result = evaluate.run(EvaluateConfig(data=tiny_dataset.eval, views="seen", windows=WINDOWS, out=out, **changes))
    assert isinstance(result, Evaluation), str(result)
    return result


def test_conditions_are_what_a_checkpoint_is_shown_and_no_more(tiny_dataset: Any, shown: Path, tmp_path: Path) -> None:
    calibrated = tmp_path / "calibrated"
    config = ConditionsConfig(data=tiny_dataset.eval, views="seen", windows=WINDOWS, calibrated=True, out=calibrated)
    conditions.run(config)
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text().split("## What it answers")[0], flags=re.M))
    for i in range(WINDOWS):
        expected = dataclasses.asdict(frames_of_window(held_out(tiny_dataset).window("seen", i)))
        arrays = load_file(window_path(calibrated, "seen", i))
        assert arrays.keys() == expected.keys() == documented
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name])
        assert load_file(window_path(shown, "seen", i)).keys() == documented - {"T_world_cam"}
    with pytest.raises(ConfigError, match="empty folder"):
        conditions.run(config)
    with pytest.raises(DatasetError, match="'train' split"):
        conditions.run(dataclasses.replace(config, data=tiny_dataset.train))
    with pytest.raises(ConfigError, match="windows"):
        conditions.run(dataclasses.replace(config, windows=0))


def test_true_futures_score_as_true_frames_do(tiny_dataset: Any, perfect: Path, tmp_path: Path) -> None:
    metrics = score(tiny_dataset, tmp_path, predictions=perfect).metrics
    assert set(metrics["generator"]) == {"perfect"}
    assert set(metrics["checkpoint"]) == {predictions_sha256(perfect)}
    assert (set(metrics["calibrated"]), set(metrics["ablation"])) == ({False}, {"none"})
    rows = metrics.set_index("source")
    compared = [*METRICS, "frechet_derivatives_n", "frechet_derivatives_m"]
    pd.testing.assert_series_equal(
        rows.loc["generated", compared], rows.loc["true_frames", compared], check_names=False
    )
    assert np.isnan(rows.loc["generated", "generate_ms"])


def test_a_checkpoints_own_videos_score_as_the_checkpoint(tiny_dataset: Any, shown: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "checkpoint"
    LayeredGenerator(
        LayeredConfig(height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1)
    ).save_pretrained(checkpoint)
    own = CheckpointPredictor(checkpoint, 0, None)
    windows = held_out(tiny_dataset)
    folder = predict(tmp_path / "p", shown, lambda i: own.predict([windows.window("seen", i)], "seen", i))
    a = score(tiny_dataset, tmp_path / "a", checkpoint=checkpoint)
    b = score(tiny_dataset, tmp_path / "b", predictions=folder)
    differ = {
        "name",
        "generator",
        "checkpoint",
        "steps",
        *(c for c in a.metrics if c.startswith(("generate_ms", "track_ms"))),
    }
    pd.testing.assert_frame_equal(a.metrics.drop(columns=differ), b.metrics.drop(columns=differ))
    assert a.metrics.set_index("source").loc["generated", "abs_rel_n"] > 0


def test_the_documented_generator_runs_and_stands_still(tiny_dataset: Any, tmp_path: Path) -> None:
    """Depth and colour score as the first frame copied; its hand is the mask of view n, followed by the tracker."""
    config = ConditionsConfig(
        data=tiny_dataset.eval, views="seen", windows=WINDOWS, calibrated=True, out=tmp_path / "conditions"
    )
    conditions.run(config)
    script = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)[-1]
    (tmp_path / "still.py").write_text(script)
    subprocess.run([sys.executable, "still.py", "conditions", "predictions"], cwd=tmp_path, check=True, timeout=60)
    rows = score(tiny_dataset, tmp_path / "out", predictions=tmp_path / "predictions").metrics.set_index("source")
    for name in ("abs_rel_n", "abs_rel_m", "d1_m", "missing_m", "psnr_m_db", "ssim_n", "frechet_derivatives_m"):
        assert rows.loc["generated", name] == pytest.approx(rows.loc["copy_first_frame", name], rel=1e-5)
    assert rows.loc["generated", "calibrated"]


def spoil(folder: Path, **arrays: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Change arrays of every window; None leaves the array out."""
    for i in range(WINDOWS):
        path = window_path(folder, "seen", i)
        found = load_file(path)
        for name, change in arrays.items():
            changed = change(found.pop(name))
            if changed is not None:
                found[name] = np.ascontiguousarray(changed)
        save_file(found, path)


def found(folder: Path, tiny_dataset: Any, windows: int = WINDOWS, seed: int = 0) -> list[str]:
    options = HeldOutOptions(data=tiny_dataset.eval, views="seen", windows=windows, seed=seed)
    return faults(folder, options.open(), options)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"rgb": lambda a: a[:, :, :32]}, r"'rgb' is uint8 \(2, 10, 32, 80, 3\), expected uint8 \(2, 10, 64, 80, 3\)"),
        ({"rgb": lambda a: a / np.float32(255)}, r"'rgb' is float32 .*, expected uint8"),
        ({"points": lambda a: a.astype(np.float64)}, r"'points' is float64 .*, expected float32"),
        ({"valid": lambda a: None}, r"'valid' is missing, expected bool \(2, 10, 64, 80\)"),
        ({"points": lambda a: np.where(a == 0, np.nan, a), "valid": np.ones_like}, r"\d+ points are not finite"),
        ({"parts": lambda a: a + np.uint8(3)}, r"'parts' has the label \d, expected 0 to 3"),
    ],
)
def test_wrong_arrays_are_a_line_each(arrays: dict[str, Any], sentence: str, copy: Path, tiny_dataset: Any) -> None:
    spoil(copy, **arrays)
    lines = found(copy, tiny_dataset)
    assert len(lines) == WINDOWS
    for i, line in enumerate(lines):
        assert re.fullmatch(rf"windows/seen_0000{i}\.safetensors: {sentence}.*", line)


def test_parts_may_be_missing_where_a_segmenter_makes_them(copy: Path, tiny_dataset: Any) -> None:
    spoil(copy, parts=lambda a: None)
    assert all("'parts' is missing" in line and "--segmenter makes them" in line for line in found(copy, tiny_dataset))
    options = HeldOutOptions(data=tiny_dataset.eval, views="seen", windows=WINDOWS)
    assert faults(copy, options.open(), options, labelled=False) == []
    windows = HeldOut(options.open(), ["seen"], 0, FRAMES, DT_S).given("seen", 0)
    assert not StoredPredictions(copy).predict(windows, "seen", 0).parts.any()


def test_files_missing_cut_off_or_with_more_than_asked(copy: Path, tiny_dataset: Any) -> None:
    first, second = (window_path(copy, "seen", i) for i in range(2))
    save_file(load_file(first) | {"depth": np.zeros(3)}, first)
    second.write_bytes(second.read_bytes()[:5000])
    extra, cut = found(copy, tiny_dataset)
    assert "'depth' is float64 (3,), expected no such array" in extra
    assert "not a whole safetensors file" in cut
    first.unlink()
    assert "seen_00000.safetensors: missing" in found(copy, tiny_dataset)[0]


@pytest.mark.parametrize("mistake", ["millimetres", "world's frame", "own frame", "OpenGL"])
def test_points_in_another_unit_or_frame_are_suspected(mistake: str, copy: Path, tiny_dataset: Any) -> None:
    windows = held_out(tiny_dataset)
    for i in range(WINDOWS):
        window, path = windows.window("seen", i), window_path(copy, "seen", i)
        arrays = load_file(path)
        p = arrays["points"]
        if mistake == "millimetres":
            p = p * np.float32(1000)
        elif mistake == "world's frame":
            p = transform(window.T_world_n, p)
        elif mistake == "OpenGL":
            p = p * np.array([1, -1, -1], dtype=np.float32)
        else:
            p[1] = np.nan_to_num(window.points[1, 1:])
        save_file(arrays | {"points": p.astype(np.float32)}, path)
    lines = found(copy, tiny_dataset)
    assert len(lines) == (1 if mistake == "own frame" else 2)
    assert all(mistake in line and "camera n's frame" in line for line in lines)
    assert lines[-1].startswith("points of view m")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 7}, r"seed is 7, expected 0; .*--seed"),
        ({"dataset": "0" * 64}, r'dataset is "0+", expected ".*another dataset'),
        ({"windows": 1}, r"windows is 1, expected 2; .*--windows"),
        ({"views": ["novel"]}, r'views is \["novel"\], expected \["seen"\]; .*--views'),
        ({"frames": 9}, r"frames is 9, expected 10; copy the manifest"),
        ({"generator": "../up"}, r"generator is '\.\./up', expected its name"),
        ({"calibrated": "no"}, r"calibrated is 'no', expected true or false"),
    ],
)
def test_a_manifest_of_other_windows_is_refused(
    change: dict[str, Any], sentence: str, copy: Path, tiny_dataset: Any
) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (line,) = found(copy, tiny_dataset)
    assert re.fullmatch(rf"manifest\.json: {sentence}.*", line)


def test_a_part_of_what_was_predicted_may_be_scored(perfect: Path, tiny_dataset: Any) -> None:
    assert found(perfect, tiny_dataset, windows=1) == []


def test_faults_end_the_command_with_1_and_nothing_is_scored(
    copy: Path, tiny_dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    window_path(copy, "seen", 1).unlink()
    out = tmp_path / "out"
    command = ["evaluate", "--predictions", str(copy), "--data", str(tiny_dataset.eval), "--views", "seen"]
    assert cli.main([*command, "--windows", str(WINDOWS), "--out", str(out)]) == 1
    assert "windows/seen_00001.safetensors: missing" in capsys.readouterr().out
    assert not out.exists()
    result = evaluate.run(EvaluateConfig(predictions=copy, data=tiny_dataset.eval, views="seen", windows=WINDOWS))
    assert isinstance(result, Refused)


def test_wrong_input_is_one_sentence(perfect: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    config = EvaluateConfig(predictions=tmp_path, data=tiny_dataset.eval, views="seen", windows=WINDOWS)
    with pytest.raises(DatasetError, match="geo4d-bench conditions"):
        evaluate.run(config)
    for text in ("{", "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DatasetError, match="JSON"):
            evaluate.run(config)
    for more in ({"steps": 2}, {"checkpoint": tmp_path}, {"device": "cuda"}):
        with pytest.raises(ConfigError, match="--predictions"):
            evaluate.run(dataclasses.replace(config, predictions=perfect, **more))  # type: ignore[arg-type]
