"""The video generator, as the layered one: trained, stopped, loaded, started from pretrained weights."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_svd import save_small_svd
from synthetic_windows import window

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import CheckpointError, ConfigError, RunError
from geo4d_bench.model.batch import batch_from_windows, frames_of_window
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.model.video.generator import VideoGenerator
from geo4d_bench.training.data import fixed_windows
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.state import Average
from geo4d_bench.training.train import TrainConfig, TrainResult, train
from geo4d_bench.training.train import run as of_dataset
from geo4d_bench.training.validation import hand_error_cm

UNET_DEBUG = presets().get("unet_debug")
SVD = presets().get("svd")

SMALL_SVD = dataclasses.replace(SVD, height=64, width=64, sample_steps=2)


class Made:
    """Made-up windows of some size; after ``interrupt_at`` of them the process gets a SIGINT, as from Ctrl-C."""

    def __init__(self, height: int = 16, width: int = 24, interrupt_at: int | None = None) -> None:
        self.height, self.width, self.interrupt_at, self.made = height, width, interrupt_at, 0

    def sample(self, rng: np.random.Generator) -> Window:
        self.made += 1
        if self.made == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return window(int(rng.integers(1_000_000)), self.height, self.width)


def run(out: Path, preset: GeneratorConfig, source: Made, **changes: object) -> TrainResult:
    settings = TrainConfig(
        preset="unet_debug", steps=4, batch_size=2, out=out, threads=1, val_windows=1, n_validations=2, precision="fp32"
    )
    return train(dataclasses.replace(settings, **changes), preset, source, source)  # type: ignore[arg-type]


def log(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_same(whole: Path, parts: Path) -> None:
    """Two trainings' weights, averages, moments and logs are equal to the bit, but for what is measured."""
    for name in ("model.safetensors", "trainer.safetensors"):
        a, b = load_file(whole / name), load_file(parts / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    rows, others = log(whole / "training_log.csv"), log(parts / "training_log.csv")
    for row in (*rows, *others):
        for key in ("seconds", "windows_per_s", "peak_mib"):
            del row[key]
    assert rows == others


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    changes = {"steps": 6, "batch_size": 1, "n_validations": 1}
    run(tmp_path / "whole", UNET_DEBUG, Made(), **changes)
    # 32 windows measure the normalisation, then one a step is made a few steps ahead.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", UNET_DEBUG, Made(interrupt_at=32 + 5), **changes)
    assert 0 < len(log(tmp_path / "parts" / "training_log.csv")) < 6
    assert run(tmp_path / "parts", UNET_DEBUG, Made(), **changes).steps == 6
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_latents_of_a_random_autoencoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--preset svd works on the latents of a pretrained autoencoder"):
        of_dataset(TrainConfig(preset="svd", data=tmp_path, out=tmp_path / "out"))


def test_a_stopped_fitting_of_the_autoencoder_goes_on_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_small_svd(tmp_path / "svd")
    svd, small = str(tmp_path / "svd"), Made(64, 64)
    changes = {"steps": 1, "pretrained": svd, "autoencoder_steps": 2, "batch_size": 1, "val_windows": 0}
    run(tmp_path / "whole", SMALL_SVD, small, **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", SMALL_SVD, Made(64, 64, interrupt_at=32 + 1), **changes)
    assert "the same command goes on from there" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {
        "autoencoder_log.csv",
        "run.json",
        "trainer.safetensors",
    }
    assert len(log(tmp_path / "parts" / "autoencoder_log.csv")) == 1
    with pytest.raises(RunError, match="seed 0 there, 1 asked for"):
        run(tmp_path / "parts", SMALL_SVD, small, **changes, seed=1)
    run(tmp_path / "parts", SMALL_SVD, small, **changes)
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert log(tmp_path / "whole" / "autoencoder_log.csv") == log(tmp_path / "parts" / "autoencoder_log.csv")


def test_training_saves_what_loads_and_generates_the_same(tmp_path: Path) -> None:
    result = run(tmp_path / "a", UNET_DEBUG, Made())
    assert result.steps == 4
    assert np.isfinite(result.held_out_cm)
    assert {"loss", "labels", "rgb", "points"} < set(log(tmp_path / "a" / "training_log.csv")[0])
    generator = load_generator(tmp_path / "a")
    assert isinstance(generator, VideoGenerator)
    assert generator.config.point_scale_m != UNET_DEBUG.point_scale_m  # measured on the data
    # What was val_windows is the checkpoint; the log has three decimals.
    val_windows = fixed_windows(Made(), 1, "held out")
    assert hand_error_cm(generator, val_windows) == pytest.approx(result.held_out_cm, abs=5.1e-4)
    generator.save_pretrained(tmp_path / "b")
    a, b = (g.generate([frames_of_window(window(5))], [1])[0] for g in (generator, load_generator(tmp_path / "b")))
    np.testing.assert_array_equal(a.rgb, b.rgb)
    np.testing.assert_array_equal(a.points, b.points)
    assert run(tmp_path / "a", UNET_DEBUG, Made()).nothing_to_do


def test_pretrained_weights_are_started_from(tmp_path: Path) -> None:
    save_small_svd(tmp_path / "svd")
    source = Made(64, 64)
    changes = {"steps": 2, "batch_size": 1, "val_windows": 0, "n_validations": 1, "learning_rate": 1e-6}
    run(tmp_path / "out", SMALL_SVD, source, pretrained=str(tmp_path / "svd"), autoencoder_steps=2, **changes)
    generator = load_generator(tmp_path / "out")
    assert isinstance(generator, VideoGenerator)
    assert generator.config.unet.block_out_channels == (32, 64)
    assert generator.config.point_scale_m == SVD.point_scale_m  # the autoencoder's range
    unet = load_file(tmp_path / "svd" / "unet" / "diffusion_pytorch_model.safetensors")
    decoder = generator.network.decoders[1].state_dict()
    for name in ("conv_out.weight", "up_blocks.0.resnets.0.spatial_res_block.conv1.weight"):
        # Adam moves a weight by at most about the rate a step.
        torch.testing.assert_close(decoder[name], unet[name], rtol=0, atol=1e-5)
        assert not torch.equal(decoder[name], unet[name])
    vae = load_file(tmp_path / "svd" / "vae" / "diffusion_pytorch_model.safetensors")
    rgb, points = (c.state_dict()["quant_conv.weight"] for c in (generator.codec.images, generator.codec.points))
    assert torch.equal(rgb, vae["quant_conv.weight"])
    assert not torch.equal(points, vae["quant_conv.weight"])
    assert len(log(tmp_path / "out" / "autoencoder_log.csv")) == 2


def test_frozen_networks_stay_out_of_the_optimiser_and_the_average(tmp_path: Path) -> None:
    save_small_svd(tmp_path)
    generator = VideoGenerator.from_pretrained(tmp_path, dataclasses.replace(SMALL_SVD, frames=3))
    optimizers = Optimizers(generator.optimizer_groups(), 1e-3, 0.0)
    frozen = {id(p) for m in (generator.codec, generator.embedding) for p in m.parameters()}
    held = {id(p) for o in optimizers.all for g in o.param_groups for p in g["params"]}
    assert held == {id(p) for p in generator.parameters()} - frozen
    average = Average(generator, 0.99)
    live = generator.state_dict()
    shared = {k for k, v in average.weights.items() if v.data_ptr() == live[k].data_ptr()}
    assert shared == live.keys() - {name for name, p in generator.named_parameters() if p.requires_grad}
    assert any(k.startswith("codec.") for k in shared)
    before = {k: v.clone() for k, v in live.items()}
    generator.loss(batch_from_windows([window(0, 64, 64)]), torch.Generator().manual_seed(0)).total.backward()
    optimizers.step()
    average.update(generator, 1)
    for k, v in average.weights.items():  # of the first step, ten elevenths count
        torch.testing.assert_close(v, before[k] + 10 / 11 * (live[k] - before[k]))


def test_what_cannot_be_started_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'layered' takes no pretrained weights; choose --preset svd"):
        run(tmp_path, presets().get("layered_debug"), Made(), pretrained=str(tmp_path))
    with pytest.raises(CheckpointError, match="there is no folder 'scheduler'; a checkpoint in diffusers' layout has"):
        run(tmp_path / "out", SMALL_SVD, Made(64, 64), pretrained=str(tmp_path))
    with pytest.raises(ConfigError, match="'layered' has no autoencoder to fit"):
        run(tmp_path, presets().get("layered_debug"), Made(), autoencoder_steps=1)
    with pytest.raises(ConfigError, match="--autoencoder-steps is 0, expected at least 1"):
        TrainConfig(autoencoder_steps=0)
