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
from geo4d_bench.evaluation.conventions import Conventions
from geo4d_bench.evaluation.evaluate import EvaluateConfig, Evaluation
from geo4d_bench.evaluation.held_out import HeldOut, HeldOutOptions
from geo4d_bench.evaluation.predictions import DT_S, FRAMES, StoredPredictions, check, predictions_sha256, window_path
from geo4d_bench.evaluation.predictors import CheckpointPredictor
from geo4d_bench.evaluation.scoring import METRICS, copied_first_frame
from geo4d_bench.geometry.se3 import inverse, transform
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
            **({} if video.opening_m is None else {"opening_m": video.opening_m}),
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
    options = {"data": tiny_dataset.eval, "views": "seen", "windows": WINDOWS, "workers": 1, "out": out} | changes
    result = evaluate.run(EvaluateConfig(**options))
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
    a = score(tiny_dataset, tmp_path / "a", checkpoint=checkpoint, workers=2)  # which decides nothing
    b = score(tiny_dataset, tmp_path / "b", predictions=folder)
    differ = {
        "name",
        "generator",
        "checkpoint",
        "steps",
        "trained_rig",
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
    with pytest.raises(DatasetError) as error:
        check(folder, options.open(), options)
    *lines, last = [line for line in str(error.value).split("\n") if not line.startswith("warning: ")]
    assert last == f"{folder}: {len(lines)} faults, nothing was scored"
    return lines


def warnings(folder: Path, tiny_dataset: Any, windows: int = WINDOWS, **changes: Any) -> list[str]:
    options = HeldOutOptions(data=tiny_dataset.eval, views="seen", windows=windows)
    return check(folder, options.open(), options, **changes)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"rgb": lambda a: a[:, :, :32]}, r"'rgb' is uint8 \(2, 10, 32, 80, 3\), expected uint8 \(2, 10, 64, 80, 3\)"),
        ({"rgb": lambda a: np.moveaxis(a, -1, 2)}, r"'rgb' is .*\(V, T, C, H, W\): transpose it to \(V, T, H, W, C\)"),
        ({"points": lambda a: a.swapaxes(2, 3)}, r"'points' is .*\(V, T, W, H, C\): transpose"),
        ({"parts": lambda a: a.swapaxes(0, 1)}, r"'parts' is .*\(T, V, H, W\): transpose it to \(V, T, H, W\)"),
        ({"rgb": lambda a: np.concatenate([a[:, :1], a], 1)}, r"'rgb' is .*; leave out the given first frame"),
        ({"rgb": lambda a: np.concatenate([a, a[..., :1]], -1)}, r"'rgb' is .*; leave out alpha"),
        ({"rgb": lambda a: a / np.float32(255)}, r"'rgb' is float32 .*, expected uint8 .*; write 255 \* rgb"),
        ({"rgb": lambda a: a / np.float16(127.5) - 1}, r"'rgb' is float.*; write 127\.5 \* \(rgb \+ 1\)"),
        ({"rgb": lambda a: a.astype(np.float32)}, r"'rgb' is float32 .*; round it, then astype\(np\.uint8\)"),
        (
            {"points": lambda a: a.astype(np.float64)},
            r"'points' is float64 .*, expected float32 .*; astype\(np\.float32\)",
        ),
        ({"points": lambda a: a.byteswap()}, r"'points' seem to be big-endian numbers"),
        (
            {"points": lambda a: (1000 * a).astype(np.int32).view(np.float32)},
            r"'points' seem to be integers whose bytes",
        ),
        ({"valid": lambda a: None}, r"'valid' is missing, expected bool \(2, 10, 64, 80\)"),
        ({"valid": lambda a: 255 * a.astype(np.uint8)}, r"'valid' is uint8 .*; write valid != 0"),
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
    assert warnings(copy, tiny_dataset, labelled=False) == []
    windows = HeldOut(options.open(), ["seen"], 0, FRAMES, DT_S).given("seen", 0)
    assert not StoredPredictions(copy).predict(windows, "seen", 0).parts.any()


def test_openings_may_be_added_and_are_metres(copy: Path, tiny_dataset: Any) -> None:
    paths = [window_path(copy, "seen", i) for i in range(WINDOWS)]
    for path in paths:
        save_file(load_file(path) | {"opening_m": np.array([[0.08] * 9 + [np.nan]])}, path)
    assert warnings(copy, tiny_dataset) == []
    save_file(load_file(paths[0]) | {"opening_m": np.full((1, 10), 8.0)}, paths[0])
    save_file(load_file(paths[1]) | {"opening_m": np.full((1, 9), 0.08)}, paths[1])
    centimetres, short = found(copy, tiny_dataset)
    assert "'opening_m' is from 8 to 8, expected metres, 0 to 0.5, NaN where not shown" in centimetres
    assert "'opening_m' is float64 (1, 9), expected float64 (1, 10)" in short


def test_files_missing_cut_off_or_with_more_than_asked(copy: Path, tiny_dataset: Any) -> None:
    first, second = (window_path(copy, "seen", i) for i in range(2))
    save_file(load_file(first) | {"depth": np.zeros(3)}, first)
    second.write_bytes(second.read_bytes()[:5000])
    extra, cut = found(copy, tiny_dataset)
    assert "'depth' is float64 (3,), expected no such array" in extra
    assert "not a whole safetensors file" in cut
    first.unlink()
    assert "seen_00000.safetensors: missing" in found(copy, tiny_dataset)[0]


Change = Callable[[Any, Video4D], Video4D]


def in_both(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Of rgb and points alike."""
    return lambda window, video: dataclasses.replace(video, rgb=change(video.rgb), points=change(video.points))


def in_rgb(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda window, video: dataclasses.replace(video, rgb=change(video.rgb))


def in_points(change: Callable[[Any, np.ndarray], np.ndarray]) -> Change:
    return lambda window, video: dataclasses.replace(
        video, points=change(window, video.points.astype(float)).astype(np.float32)
    )


def own_frames(window: Any, points: np.ndarray) -> np.ndarray:
    return np.stack([points[0], transform(inverse(window.T_n_m), points[1])])


def along_rays(window: Any, points: np.ndarray) -> np.ndarray:
    own = own_frames(window, points)
    own *= np.linalg.norm(own, axis=-1, keepdims=True) / own[..., 2:]
    return np.stack([own[0], transform(window.T_n_m, own[1])])


def scrambled(*order: int) -> Change:
    """Transposed, and its memory read as if it were not."""
    return in_both(lambda a: np.ascontiguousarray(a.transpose(order)).reshape(a.shape))


MISTAKES: dict[str, tuple[Change, str]] = {
    "BGR": (in_rgb(lambda a: a[..., ::-1]), "rgb of .* BGR"),
    "-1 to 1": (in_rgb(lambda a: ((a / 127.5 - 1) * 255).astype(np.int64).astype(np.uint8)), "rgb of .* -1 to 1 multi"),
    "0 to 1": (in_rgb(lambda a: (a / 255).astype(np.uint8)), "rgb of .* floats of 0 to 1, or -1 to 1, cast"),
    "signed": (in_rgb(lambda a: (a ^ 128)), "rgb of .* signed; add 128"),
    "mirrored": (in_both(lambda a: a[:, :, :, ::-1]), "(rgb|points) of .* mirrored"),
    "upside down": (in_both(lambda a: a[:, :, ::-1]), "(rgb|points) of .* upside down"),
    "turned": (in_both(lambda a: a[:, :, ::-1, ::-1]), "(rgb|points) of .* 180 degrees"),
    "views": (in_both(lambda a: a[::-1]), "(rgb|points) of .* the other view"),
    "time": (in_both(lambda a: a[:, ::-1]), "frames: .* reversed order"),
    "late": (
        lambda window, video: dataclasses.replace(video, rgb=np.concatenate([window.rgb[:, :1], video.rgb[:, :-1]], 1)),
        "frames: .* late by one",
    ),
    "C first": (scrambled(0, 1, 4, 2, 3), r"(rgb|points) of .* an array of \(V, T, C, H, W\) read as"),
    "H and W": (scrambled(0, 1, 3, 2, 4), r"(rgb|points) of .* an array of \(V, T, W, H, C\) read as"),
    "T first": (scrambled(1, 0, 2, 3, 4), r"(rgb|points) of .* an array of \(T, V, H, W, C\) read as"),
    "Fortran": (scrambled(4, 3, 2, 1, 0), r"(rgb|points) of .* an array of \(C, W, H, T, V\) read as"),
    "read as C first": (
        in_both(lambda a: np.moveaxis(np.ascontiguousarray(a).reshape(*a.shape[:2], 3, *a.shape[2:4]), 2, -1)),
        r"(rgb|points) of .* read as \(V, T, C, H, W\), then transposed",
    ),
    "millimetres": (in_points(lambda w, p: 1000 * p), "points of .* millimetres"),
    "centimetres": (in_points(lambda w, p: 100 * p), "points of .* centimetres"),
    "world": (in_points(lambda w, p: transform(w.T_world_n, p)), "points of .* world's frame"),
    "own": (in_points(own_frames), "points of view m: .* camera m's own frame"),
    "roles": (in_points(lambda w, p: transform(inverse(w.T_n_m), p)), "points of view n and .* m's own frame"),
    "inverse": (
        in_points(lambda w, p: np.stack([p[0], transform(inverse(w.T_n_m), own_frames(w, p)[1])])),
        "points of view m: .* inverse of T_n_m",
    ),
    "OpenGL": (in_points(lambda w, p: p * [1, -1, -1]), r"points of .* \(x, -y, -z\), as in OpenGL"),
    "ROS": (in_points(lambda w, p: p[..., [2, 0, 1]] * [1, -1, -1]), r"points of .* \(z, -x, -y\), .* ROS"),
    "z first": (in_points(lambda w, p: p[..., [2, 0, 1]]), r"points of .* \(z, x, y\)"),
    "rays": (in_points(along_rays), "points of .* the distance along the ray in place of z"),
}  # fmt: skip
MAY_BE_CHANCE = ("0 to 1", "late", "time")


@pytest.fixture(scope="module")
def given(tiny_dataset: Any) -> list[Any]:
    """Six windows of the seen views, and six of the novel ones, taking turns."""
    windows = HeldOut(Dataset(tiny_dataset.eval), ["seen", "novel"], 0, FRAMES, DT_S)
    return [windows.window(views, i) for i in range(6) for views in ("seen", "novel")]


def verdicts(given: list[Any], videos: list[Video4D]) -> tuple[list[str], list[str]]:
    conventions = Conventions(videos[0].rgb.shape, len(videos))
    for i, (window, video) in enumerate(zip(given, videos, strict=True)):
        conventions.add(f"window_{i}", window, video)
    return conventions.verdicts()


@pytest.mark.parametrize(("change", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_another_convention_is_named(
    change: Change, sentence: str, given: list[Any], request: pytest.FixtureRequest
) -> None:
    certain, likely = verdicts(given[:4], [change(window, true_video(window)) for window in given[:4]])
    name = request.node.callspec.id
    assert bool(certain) != (name in MAY_BE_CHANCE)
    assert len(certain + likely) in (1, 2)  # of rgb and points
    assert all(re.match(sentence, line) for line in certain + likely), certain + likely


def blurred(video: Video4D) -> Video4D:
    """A bad prediction: half of its own mean, with noise."""
    rng = np.random.default_rng(0)
    rgb = video.rgb / 2 + video.rgb.mean((1, 2, 3), keepdims=True) / 2 + rng.normal(0, 20, video.rgb.shape)
    points = video.points / 2 + np.nanmean(video.points, (1, 2, 3), keepdims=True) / 2
    points += rng.normal(0, 0.1, points.shape).astype(np.float32)
    return dataclasses.replace(video, rgb=np.clip(rgb, 0, 255).astype(np.uint8), points=points)


HONEST: dict[str, Callable[[Any, Video4D], Video4D]] = {
    "true": lambda window, video: video,
    "copy": lambda window, video: copied_first_frame(window),
    "bad": lambda window, video: blurred(video),
    "grey": in_rgb(lambda a: np.full_like(a, 128)),
    "noise": in_rgb(lambda a: np.random.default_rng(0).integers(0, 256, a.shape, np.uint8)),
    "nothing valid": in_points(lambda w, p: np.full_like(p, np.nan)),
    "one point": in_points(lambda w, p: np.ones_like(p)),
}


@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
def test_honest_predictions_raise_no_suspicion(make: Change, given: list[Any]) -> None:
    some = given[:4]
    assert verdicts(some, [make(window, true_video(window)) for window in some]) == ([], [])


def test_grey_symmetric_and_tiny_scenes_raise_no_suspicion(given: list[Any]) -> None:
    def plain(window: Any) -> Any:
        rgb = window.rgb[:, :, ::8, ::8].mean(-1, keepdims=True).repeat(3, -1)
        rgb = rgb + rgb[:, :, ::-1] + rgb[:, :, :, ::-1] + rgb[:, :, ::-1, ::-1]
        return dataclasses.replace(window, rgb=(rgb / 4).astype(np.uint8), points=window.points[:, :, ::8, ::8])

    windows = [plain(window) for window in given[:6]]
    assert verdicts(windows, [true_video(window) for window in windows]) == ([], [])
    turned = [true_video(dataclasses.replace(window, rgb=window.rgb[..., ::-1])) for window in windows]
    assert verdicts(windows, turned) == ([], [])  # nothing could tell it


def test_an_untrained_generator_raises_no_suspicion(given: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    LayeredGenerator(
        LayeredConfig(height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1)
    ).save_pretrained(tmp_path)
    own = CheckpointPredictor(tmp_path, 0, None)
    some = given[:4]
    assert verdicts(some, [own.predict([window], "seen", i) for i, window in enumerate(some)]) == ([], [])


def test_predictions_of_other_windows_are_named(given: list[Any]) -> None:
    videos = [true_video(window) for window in given]
    (line,), likely = verdicts(given, [*videos[1:], *videos[:1]])
    assert re.match(
        r"predictions seem to be of other windows, in 12 of 12, such as that of window_\d+ in the file", line
    )
    assert not likely
    assert verdicts(given[:6], [videos[0]] * 6) == ([], [])  # a generator that always shows the same


def test_few_windows_are_a_warning_unless_they_are_the_mistake_itself(given: list[Any]) -> None:
    bgr = [MISTAKES["BGR"][0](window, true_video(window)) for window in given]
    certain, likely = verdicts(given[:1], bgr[:1])
    assert (certain, len(likely)) == ([], 1)
    worse = [dataclasses.replace(v, rgb=np.clip(v.rgb, 2, 255) - np.uint8(2)) for v in bgr]
    certain, likely = verdicts(given[:4], worse[:4])
    assert (certain, len(likely)) == ([], 1)
    assert "in 4 of 4 windows; expected RGB" in likely[0]
    certain, likely = verdicts(given, worse)
    assert (len(certain), likely) == (1, [])


def test_a_warning_is_printed_and_the_rest_scored(
    copy: Path, tiny_dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(copy, rgb=lambda a: a // 255)
    score(tiny_dataset, tmp_path / "out", predictions=copy)
    assert re.search(r"^warning: rgb of view n and of view m: .* scored as it is", capsys.readouterr().err, flags=re.M)
    spoil(copy, points=lambda a: 1000 * a)
    lines = found(copy, tiny_dataset)
    assert any("millimetres" in line for line in lines)


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
    assert warnings(perfect, tiny_dataset, windows=1) == []


def test_faults_end_the_command_with_2_and_nothing_is_scored(
    copy: Path, tiny_dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    window_path(copy, "seen", 1).unlink()
    out = tmp_path / "out"
    command = ["evaluate", "--predictions", str(copy), "--data", str(tiny_dataset.eval), "--views", "seen"]
    assert cli.main([*command, "--windows", str(WINDOWS), "--out", str(out)]) == 2
    assert "windows/seen_00001.safetensors: missing" in capsys.readouterr().err
    assert not out.exists()


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
