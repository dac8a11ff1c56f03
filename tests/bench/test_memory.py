"""The memory table against what a real training allocates."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from geo4d_bench.bench.bench import BenchConfig, run
from geo4d_bench.bench.memory import budget
from geo4d_bench.bench.model import TrainingStep
from geo4d_bench.errors import ConfigError
from geo4d_bench.model.batch import fake_batch
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.generators import presets
from geo4d_bench.model.video.config import AutoencoderSizes, ImageEncoderSizes, UNetSizes
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.state import Average

SMALL_SVD = dataclasses.replace(
    presets().get("svd"), height=64, width=64, frames=2,
    unet=UNetSizes((32, 64), (1, 2), 1, cross_attention_dim=32, addition_time_embed_dim=8, cross_view_heads=1),
    autoencoder=AutoencoderSizes((32, 32, 32, 32), 1),
    image_encoder=ImageEncoderSizes(32, 32, 1, 2, patch_size=56, projection_dim=32),
)  # fmt: skip


def measured(c: GeneratorConfig, batch_size: int, lean: bool, lora: bool) -> int:
    """The most bytes that torch's allocator held in two steps of a training on the processor, in float32."""
    batch = fake_batch(c, batch_size)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        generator = c.build()
        if lora:
            generator.add_adapters()
        optimizers = Optimizers(generator.optimizer_groups(), 1e-4, 0.01, eight_bit=lean and not lora)
        average = None if lean else Average(generator, 0.99)  # of a lean one it is not on the card
        for step in (1, 2):
            total = generator.loss(batch, torch.Generator().manual_seed(0)).total
            torch.autograd.backward(total)
            del total
            optimizers.step()
            optimizers.zero_grad()
            if average is not None:
                average.update(generator, step)
    assert profiled.profiler is not None
    results = profiled.profiler.kineto_results
    assert results is not None
    held = most = 0
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize(("checkpointing", "lean", "lora"), [(True, True, False), (False, True, True)])
def test_the_table_is_what_a_training_takes(
    checkpointing: bool, lean: bool, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geo4d_bench.model.video.generator.VideoGenerator.halve_frozen", lambda self: None)
    c = dataclasses.replace(SMALL_SVD, gradient_checkpointing=checkpointing)
    table = budget(c, 2, bf16=False, lean=lean, lora=lora)
    assert sum(table.values()) == pytest.approx(measured(c, 2, lean, lora), rel=0.1)


def test_a_measured_step_of_pretrained_weights_takes_as_little_as_training_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("geo4d_bench.bench.model.computes_in_bf16", lambda device: True)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # emulated it takes minutes
    monkeypatch.setattr("geo4d_bench.model.video.generator.VideoGenerator.halve_frozen", lambda self: None)
    step = TrainingStep(SMALL_SVD, 1, torch.device("cpu"))
    step()
    assert any(name.endswith("exp_avg.codes") for name in step._optimizers.state())
    assert (step._average.every, step._average.module(step.generator).training) == (10, False)
    assert all(p.grad is None for p in step.generator.parameters())


def test_cards_share_out_what_is_trained() -> None:
    alone, shared = (budget(presets().get("unet_debug"), 1, cards=cards) for cards in (1, 4))
    for part in ("weights, trained", "optimiser states", "averaged weights"):
        assert shared[part] == alone[part] // 4
    assert shared["weights, frozen"] == alone["weights, frozen"]
    assert 0 < shared["weights gathered"] < alone["weights, trained"]


def test_rows_add_up_for_any_preset(tmp_path: Path) -> None:
    rows = run(BenchConfig("preset", tmp_path, preset="dit_debug", batch_size=64, memory=True)).rows
    parts, together = rows[:-1], rows[-1]
    assert together.name == "memory of dit_debug, batch 64 a card: together"
    assert sum(row.value for row in parts) == pytest.approx(together.value)
    assert {row.command for row in rows} == {
        "geo4d-bench bench preset --memory --preset dit_debug --batch-size 64 --cards 1"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "train", "memory": True}, "--memory is of 'bench preset'"),
        ({"what": "preset", "cards": 4}, "--cards of --memory"),
        ({"what": "preset", "memory": True, "profile": True}, "leave --profile and --data out"),
    ],
)
def test_memory_is_of_presets(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchConfig(**options)  # type: ignore[arg-type]
