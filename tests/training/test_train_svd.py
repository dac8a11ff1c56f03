"""Fine-tuning pretrained weights in little memory: 8-bit moments, adapters, averages elsewhere, shared-out weights."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_svd import save_small_svd
from test_train_unet import SMALL_SVD, Made, assert_same, log
from test_train_unet import run as train_svd

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.adapters import merged
from geo4d_bench.model.batch import fake_batch
from geo4d_bench.model.generators import load_generator
from geo4d_bench.model.video.autoencoders import RGB
from geo4d_bench.model.video.generator import VideoGenerator
from geo4d_bench.training.state import Average
from geo4d_bench.training.train import TrainConfig


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("svd")
    save_small_svd(folder)
    return folder


def run(out: Path, pretrained: Path, interrupt_at: int | None = None, **changes: object) -> None:
    options = {"steps": 2, "batch_size": 1, "n_validations": 1, "val_windows": 0, "precision": "bf16"} | changes
    train_svd(out, SMALL_SVD, Made(64, 64, interrupt_at), pretrained=str(pretrained), **options)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_stopped_fine_tuning_goes_on_exactly(
    pretrained: Path, tmp_path: Path, tune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geo4d_bench.training.trainer.AVERAGE_EVERY", 2)
    # Most processors emulate bfloat16, which takes minutes.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(VideoGenerator, "halve_frozen", lambda self: None)
    run(tmp_path / "whole", pretrained, tune=tune)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", pretrained, interrupt_at=32 + 1, tune=tune)
    assert len(log(tmp_path / "parts" / "training_log.csv")) == 1
    run(tmp_path / "parts", pretrained, tune=tune)
    assert_same(tmp_path / "whole", tmp_path / "parts")

    state = load_file(tmp_path / "whole" / "trainer.safetensors")
    moments = {k.split("/", 3)[3]: v.dtype for k, v in state.items() if k.startswith("optimizer/0/")}
    assert (moments.get("exp_avg.codes") == torch.uint8) == (tune == "full")
    checkpoint = load_file(tmp_path / "whole" / "model.safetensors")
    assert {v.dtype for v in checkpoint.values() if v.is_floating_point()} == {torch.float32}
    assert not any("lora" in name for name in checkpoint)
    stored = {part: load_file(next((pretrained / part).glob("*.safetensors"))) for part in ("unet", "vae")}
    for codec in ("images", "points"):  # computed with in bfloat16, but kept as it was
        assert all(torch.equal(checkpoint[f"codec.{codec}.{k}"], v) for k, v in stored["vae"].items())
    attention = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    residual = "up_blocks.1.resnets.0.spatial_res_block.conv1.weight"
    n, m = (checkpoint[f"network.decoders.{view}.{attention}"] for view in range(2))
    assert not torch.equal(n, m)
    assert not torch.equal(n, stored["unet"][attention])
    kept = torch.equal(checkpoint[f"network.decoders.1.{residual}"], stored["unet"][residual])
    assert kept == (tune == "lora")
    assert checkpoint["network.cross_view.0.attention.to_out.0.weight"].abs().max() > 0
    load_generator(tmp_path / "whole")


def test_adapters_are_merged_into_what_is_saved(pretrained: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = VideoGenerator.from_pretrained(pretrained, SMALL_SVD)
    plain = generator.state_dict().keys()
    generator.add_adapters()
    for name, parameter in generator.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    weights = merged(generator.state_dict())
    assert weights.keys() == set(plain)
    again = VideoGenerator.from_pretrained(pretrained, SMALL_SVD)
    batch = fake_batch(generator.config, 1)

    def loss() -> list[float]:
        with torch.no_grad():
            return [float(g.loss(batch, torch.Generator().manual_seed(0)).total) for g in (generator, again)]

    adapted, stock = loss()
    assert abs(adapted - stock) > 1e-3 * stock
    again.load_state_dict(weights)
    assert loss()[1] == pytest.approx(adapted, rel=1e-5)


def test_what_is_frozen_is_held_in_bfloat16_and_makes_the_same_latents(pretrained: Path) -> None:
    generator = VideoGenerator.from_pretrained(pretrained, SMALL_SVD)
    first = 2 * torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(0)) - 1

    def encoded() -> list[torch.Tensor]:
        return [generator.codec.encode(RGB, first[:, :3]), generator.embedding(first)]

    before = encoded()
    generator.add_adapters()
    generator.halve_frozen()
    for a, b in zip(before, encoded(), strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.03 * a.norm()  # a bfloat16 has three digits
    assert {p.dtype for p in generator.parameters() if p.requires_grad} == {torch.float32}
    held = sum(p.nbytes for p in generator.parameters() if not p.requires_grad)
    assert held < 2.1 * sum(p.numel() for p in generator.parameters() if not p.requires_grad)  # but for norms


def test_an_average_elsewhere_counts_an_update_for_as_many_steps_as_it_left_out() -> None:
    module = torch.nn.Linear(3, 2)
    average = Average(module, 0.9, every=4, off_card=True)
    expected = {k: v.clone() for k, v in module.state_dict().items()}
    for step in range(1, 103):
        with torch.no_grad():
            for p in module.parameters():
                p.normal_()
        average.update(module, step)
        if step % 4 == 0:
            decay = min(0.9, step / (step + 10)) ** 4
            expected = {k: decay * v + (1 - decay) * module.state_dict()[k] for k, v in expected.items()}
            with torch.no_grad():
                module.weight.add_(1.0)  # what was taken is a copy
    for k, v in average.weights.items():
        torch.testing.assert_close(v, expected[k])


def test_two_processes_that_share_the_weights_train_and_resume_as_one_does(pretrained: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", pretrained, batch_size=2, precision="fp32")
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            Path(__file__).with_name("two_sharing.py"), tmp_path, pretrained,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two, parts = (tmp_path / name for name in ("one", "two", "parts"))
    assert_same(two, parts)
    assert 0 < float(log(two / "training_log.csv")[-1]["held_out_cm"]) < 1000
    for a, b in zip(log(one / "training_log.csv"), log(two / "training_log.csv"), strict=True):
        for name in ("loss", "gradient"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-4), (a["step"], name)
    for name in ("model", "trainer"):
        whole, shared = (load_file(folder / f"{name}.safetensors") for folder in (one, two))
        assert whole.keys() == shared.keys()
        for key, value in whole.items():
            # Adam divides by a gradient's size: what is rounded otherwise moves a weight by a share of a step of 1e-5.
            np.testing.assert_allclose(shared[key], value, rtol=2e-2, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": "lora"}, "--tune lora is for pretrained weights; name them with --pretrained"),
        ({"shard": True}, "--shard is for pretrained weights"),
        ({"shard": True, "tune": "lora", "pretrained": "x"}, "leave --shard out"),
    ],
)
def test_options_of_pretrained_weights_alone(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)  # type: ignore[arg-type]


def test_one_process_shares_nothing_out(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shard is for several processes, got 1"):
        run(tmp_path, pretrained, shard=True)
