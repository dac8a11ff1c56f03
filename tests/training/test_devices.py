"""A training step stays on its device. No GPU is needed: the meta device refuses to be mixed with the processor too."""

import contextlib
import dataclasses
from typing import Any

import pytest
import torch

from geo4d_bench.model.backbones import PRESETS, make_generator
from geo4d_bench.model.batch import fake_batch
from geo4d_bench.training.state import Average


@pytest.fixture
def numberless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values: where one is logged, it is 0."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 0.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: [0.0] * self.numel())


@pytest.mark.usefixtures("numberless")
@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("debug", {}),
        ("debug", {"setting": "geo4d_calibrated"}),
        *(("debug", {"ablation": a}) for a in ("no_mv_attention", "native_frame", "no_mask", "svd_mv")),
        ("debug", {"ablation": "pose_regression"}),
        ("debug_unet", {}),
        ("debug_unet", {"setting": "geo4d_calibrated"}),
        *(("debug_unet", {"ablation": a}) for a in ("native_frame", "no_mask", "svd_mv")),
    ],
)
def test_a_training_step_stays_on_its_device(preset: str, told: dict[str, Any]) -> None:
    c: Any = dataclasses.replace(PRESETS.get(preset), **told)
    generator = make_generator(c).to("meta")
    batch = {k: v.to("meta") for k, v in fake_batch(c, 2, further=3 if c.foresees else 0).items()}
    loss = generator.loss(batch, torch.Generator().manual_seed(0))
    assert loss.total.device.type == "meta"
    average = Average(generator, 0.99)
    loss.total.backward()
    average.update(generator, 1)
    assert {v.device.type for v in average.weights.values()} == {"meta"}
    with pytest.raises(RuntimeError, match="device"):
        generator.loss(batch | {"first_rgb": torch.ones(batch["first_rgb"].shape)}, torch.Generator().manual_seed(0))
