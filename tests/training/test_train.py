"""Training through its public door: it learns, stops, goes on exactly, and says what is wrong."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from synthetic_windows import window

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import CheckpointError, ConfigError, DatasetError, RunError, TrainingError
from geo4d_bench.model.batch import true_video
from geo4d_bench.model.generators import find_config, load_generator, presets
from geo4d_bench.training.data import AUXILIARY_WINDOWS, make_batch
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.train import TrainConfig, TrainResult, train
from geo4d_bench.training.validation import copy_error_cm, hand_centres

DEBUG = presets().get("layered_debug")
SHORT: dict[str, object] = {"steps": 2, "val_windows": 0, "n_validations": 1}


class Made:
    """Made-up windows, each after ``takes_s``; at the ``interrupt_at``-th the process gets a SIGINT, as from Ctrl-C."""

    def __init__(
        self, seeds: int = 1_000_000, interrupt_at: int | None = None, height: int = 16, takes_s: float = 0.0
    ) -> None:
        self.seeds, self.interrupt_at, self.height, self.takes_s, self.made = seeds, interrupt_at, height, takes_s, 0

    def sample(self, rng: np.random.Generator) -> Window:
        self.made += 1
        time.sleep(self.takes_s)
        if self.made == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return window(int(rng.integers(self.seeds)), height=self.height)


def config(out: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        preset="layered_debug",
        steps=14,
        batch_size=4,
        out=out,
        threads=1,
        val_windows=2,
        n_validations=2,
        precision="fp32",
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def run(settings: TrainConfig, source: Made | None = None) -> TrainResult:
    return train(settings, DEBUG, source or Made(), Made(seeds=50))


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training_log.csv").open() as file:
        return list(csv.DictReader(file))


def test_training_beats_the_copied_first_frame(tmp_path: Path) -> None:
    result = run(
        config(tmp_path, steps=80, batch_size=6, val_windows=6, n_validations=2, learning_rate=3e-3, calibrated=True)
    )
    assert result.steps == 80
    assert result.held_out_cm < 0.75 * result.copy_cm
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "run.json", "trainer.safetensors", "training_log.csv", "loss.png",
        "samples.png",
    }  # fmt: skip
    rows = log(tmp_path)
    assert [int(r["step"]) for r in rows] == list(range(1, 81))
    peaks = [float(r["peak_mib"]) for r in rows]
    assert peaks == sorted(peaks)
    assert peaks[0] > 100  # torch alone takes more
    assert all(float(r["windows_per_s"]) > 0 for r in rows)
    assert sum(r["held_out_cm"] != "" for r in rows) == 2
    assert float(rows[-1]["held_out_cm"]) == pytest.approx(result.held_out_cm)
    assert load_generator(tmp_path).config.point_mean_m != DEBUG.point_mean_m
    assert str(tmp_path) in str(result)


def test_a_stopped_run_goes_on_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(tmp_path / "whole"))
    # 32 windows measure the normalisation, then 4 a step are made a few steps ahead.
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "parts"), Made(interrupt_at=32 + 4 * 9))
    assert "the same command goes on from there" in capsys.readouterr().out
    stopped_at = int(log(tmp_path / "parts")[-1]["step"])
    assert 0 < stopped_at < 14
    result = run(config(tmp_path / "parts"))
    assert result.steps == 14
    for name in ("model.safetensors", "trainer.safetensors"):
        whole, parts = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
        assert whole.keys() == parts.keys()
        assert all(np.array_equal(whole[k], parts[k]) for k in whole)
    measured = ("seconds", "windows_per_s", "peak_mib")
    whole_log, parts_log = log(tmp_path / "whole"), log(tmp_path / "parts")
    for row in (*whole_log, *parts_log):
        for key in measured:
            del row[key]
    assert whole_log == parts_log


def test_windows_a_second_count_the_wait_for_them(tmp_path: Path) -> None:
    run(config(tmp_path, steps=4, n_validations=1), Made(takes_s=0.03))
    took_s = sum(4 / float(row["windows_per_s"]) for row in log(tmp_path)[1:])  # the first step warms up
    # Each needs 4 windows and the auxiliary ones, made one after the other; a third of that is left for chance.
    assert took_s > 2 / 3 * 3 * 4 * (1 + AUXILIARY_WINDOWS) * 0.03


def test_two_processes_train_and_resume_as_one_does(tmp_path: Path) -> None:
    run(config(tmp_path / "one", steps=8, n_validations=1))
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            Path(__file__).with_name("two_processes.py"), tmp_path,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # One of the two was interrupted, and both stopped and went on.
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["8 True 8"] * 2
    one, two, parts = (log(tmp_path / name) for name in ("one", "two", "parts"))
    for a, b, c in zip(one, two, parts, strict=True):
        for name in a.keys() - {"step", "seconds", "windows_per_s", "peak_mib", "held_out_cm"}:
            # The same sums in another order, in float32, and six digits in the log.
            assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-5), (a["step"], name)
            assert b[name] == c[name]
    assert [row["held_out_cm"] for row in two] == [row["held_out_cm"] for row in parts]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "parts")]
    for name, whole in weights[0].items():
        # Both optimisers divide by a gradient's size, so that what is rounded differently moves a weight by a share of
        # a learning rate of 1.5e-3 a step: two in a hundred of one step here.
        np.testing.assert_allclose(weights[1][name], whole, atol=2e-2 * 1.5e-3, err_msg=name)
        np.testing.assert_array_equal(weights[2][name], weights[1][name], err_msg=name)


def test_a_batch_in_parts_is_the_whole_batch() -> None:
    whole = make_batch(Made(), 6, 0, 5)
    parts = [make_batch(Made(), 6, 0, 5, (rank, 3)) for rank in range(3)]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value, err_msg=name)


def test_a_preset_from_a_file_is_known_again_by_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(dataclasses.replace(DEBUG, dim=16).to_json())
    command = config(tmp_path / "run", preset=str(file), steps=2)
    assert dataclasses.replace(command, out=None, data=Path("data/x")).folder == Path("runs/x/mine")
    train(command, find_config(command.preset), Made(), None)
    assert load_generator(tmp_path / "run").config.dim == 16
    assert train(command, find_config(command.preset), Made(), None).nothing_to_do
    file.write_text(dataclasses.replace(DEBUG, dim=16, loss_frames=2).to_json())
    with pytest.raises(RunError, match="preset_sha256 "):
        train(command, find_config(command.preset), Made(), None)


def test_a_finished_run_says_so_and_does_nothing(tmp_path: Path) -> None:
    run(config(tmp_path, **SHORT))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    result = run(config(tmp_path, **SHORT))
    assert result.nothing_to_do
    assert str(result).startswith("was trained already: 2 steps")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_ctrl_c_that_reaches_the_reading_processes_too_is_a_polite_request(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "ctrl_c.py"), str(tmp_path / "run")], start_new_session=True,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout.split()[-1]) == (0, "interrupted"), said.stderr
    assert "stopped and saved" in said.stdout
    with safe_open(tmp_path / "run" / "trainer.safetensors", "pt") as file:
        assert file.metadata()["step"] == log(tmp_path / "run")[-1]["step"]


def test_a_second_ctrl_c_does_not_claim_to_have_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Impatient(Made):
        def sample(self, rng: np.random.Generator) -> Window:
            if self.made > 60:
                raise KeyboardInterrupt  # as the second one does, wherever the training is
            return super().sample(rng)

    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "run", steps=1000, n_validations=1), Impatient())
    assert "saved" not in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.json"}


def test_a_resumed_log_may_lack_a_column(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path, steps=6), Made(interrupt_at=32 + 4 * 8))
    path = tmp_path / "training_log.csv"
    rows = [{k: v for k, v in row.items() if k != "peak_mib"} for row in log(tmp_path)]
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    run(config(tmp_path, steps=6))
    assert [bool(row["peak_mib"]) for row in log(tmp_path)] == [i >= len(rows) for i in range(6)]


def test_minutes_are_kept_and_resumed_time_counts(tmp_path: Path) -> None:
    settings = config(tmp_path, steps=None, minutes=0.05)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Made(interrupt_at=32 + 4 * 8))
    used = float(log(tmp_path)[-1]["seconds"])
    assert 0 < used < 3.0
    result = run(settings)
    assert 0.05 <= result.minutes < 0.15
    # The cosine has come down by the last step, which on a busy machine begins well before the end of the budget.
    assert float(log(tmp_path)[-1]["rate"]) < 0.3 * settings.highest_rate


def test_a_folder_is_resumed_only_with_its_own_options(tmp_path: Path) -> None:
    run(config(tmp_path, **SHORT))
    with pytest.raises(RunError, match="holds another training: seed 0 there, 1 asked for; give the same options"):
        run(config(tmp_path, **SHORT, seed=1))


def test_a_cut_off_state_is_named(tmp_path: Path) -> None:
    run(config(tmp_path, **SHORT))
    path = tmp_path / "trainer.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"trainer.safetensors: not a whole training state"):
        run(config(tmp_path, **SHORT))


class Spoilt(Made):
    """Made-up windows, those after ``good`` with a NaN in the array ``name``."""

    def __init__(self, good: int, name: str) -> None:
        super().__init__()
        self.good, self.name = good, name

    def sample(self, rng: np.random.Generator) -> Window:
        found = super().sample(rng)
        spoilt = np.full_like(getattr(found, self.name), np.nan)
        return dataclasses.replace(found, **{self.name: spoilt}) if self.made > self.good else found


@pytest.mark.parametrize(
    ("preset", "spoilt", "complaint"),
    [
        ("layered_debug", "T_n_ee", "step 3 gives a loss of nan and a gradient of nan"),
        ("layered_debug", "weights", "step 4 gives a loss of nan and a gradient of nan"),
        pytest.param(
            "unet_debug", "weights", "step 4 gives a loss of nan and a gradient of nan", marks=pytest.mark.exhaustive
        ),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training_at_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, spoilt: str, complaint: str
) -> None:
    def go(out: str, source: Made) -> TrainResult:
        return train(config(tmp_path / out, preset=preset, steps=4, batch_size=2), presets().get(preset), source, None)

    steps, step = 0, Optimizers.step

    def blow_up(self: Optimizers) -> None:
        nonlocal steps
        steps += 1
        step(self)
        if steps == 3:
            self.all[0].param_groups[0]["params"][0].data.fill_(math.nan)

    source = Made() if spoilt == "weights" else Spoilt(32 + 2 * 2 * (1 + AUXILIARY_WINDOWS), spoilt)
    with monkeypatch.context() as patch:
        patch.setattr(Optimizers, "step", blow_up if spoilt == "weights" else step)
        with pytest.raises(TrainingError) as caught:
            go("parts", source)
    for part in (complaint, "learning rate 0.0015, 2 windows a batch", "keeps the last good checkpoint", "verify"):
        assert part in str(caught.value)
    with safe_open(tmp_path / "parts" / "trainer.safetensors", "pt") as file:
        assert file.metadata()["step"] == "2"
    load_generator(tmp_path / "parts")
    go("parts", Made())
    go("whole", Made())
    whole, parts = (load_file(tmp_path / out / "trainer.safetensors") for out in ("whole", "parts"))
    assert all(np.array_equal(whole[k], parts[k]) for k in whole.keys() | parts.keys())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(self: Optimizers) -> None:
        self.all[0].param_groups[0]["params"][0].data.fill_(math.inf)

    monkeypatch.setattr(Optimizers, "step", overflow)
    with pytest.raises(
        TrainingError, match=r"'weights/.*' is not finite any more after step 1 .*no checkpoint was kept"
    ):
        run(config(tmp_path, steps=1))
    assert {p.name for p in tmp_path.iterdir()} == {"run.json"}


def test_contradictory_options() -> None:
    with pytest.raises(ConfigError, match="--minutes and --steps are both given"):
        TrainConfig(minutes=1.0, steps=3)
    with pytest.raises(ConfigError, match="more than 0"):
        TrainConfig(minutes=0.0)
    with pytest.raises(ConfigError, match="--threads"):
        TrainConfig(threads=0)
    assert TrainConfig(data=Path("data/store_cereal")).folder == Path("runs/store_cereal/layered_nano")


def test_data_of_another_size_is_refused() -> None:
    with pytest.raises(DatasetError, match="images are 32 x 24, this preset is for 16 x 24; render with --height 16"):
        DEBUG.fitted([window(0, height=32)])


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    one, same, other = (make_batch(Made(), 3, seed, step) for seed, step in ((0, 5), (0, 5), (0, 6)))
    assert all(np.array_equal(one[k], same[k]) for k in one)
    assert not np.array_equal(one["rgb"], other["rgb"])


def test_hand_centres_are_those_of_the_scene() -> None:
    windows = [window(seed, height=64, width=96) for seed in range(4)]
    for w in windows:
        # A flat square seen whole: its pixels' median is its middle, within a pixel of 1.2 cm.
        np.testing.assert_allclose(hand_centres(true_video(w), 0, None), w.T_n_ee[0, 1:, :3, 3], atol=0.02)
    moved = [np.linalg.norm(w.T_n_ee[0, 1:, :3, 3] - w.T_n_ee[0, 0, :3, 3], axis=-1).mean() for w in windows]
    assert copy_error_cm(windows) == pytest.approx(100 * np.mean(moved), abs=1.0)


def test_a_hand_that_is_not_shown_stays_where_it_was() -> None:
    video = true_video(window(0))
    empty = dataclasses.replace(video, parts=np.zeros_like(video.parts))
    np.testing.assert_array_equal(hand_centres(empty, 0, np.array([1.0, 2.0, 3.0])), [[1, 2, 3]] * 3)
    assert math.isnan(hand_centres(empty, 0, None)[0, 0])
