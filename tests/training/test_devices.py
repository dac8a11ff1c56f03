"""A training step stays on its device. No GPU is needed: the meta device refuses to be mixed with the processor too."""

import contextlib
import dataclasses
from typing import Any

import pytest
import torch

from geo4d_bench.model.batch import fake_batch
from geo4d_bench.model.generators import presets
from geo4d_bench.training.state import Average


@pytest.fixture
def numberless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values: whoever reads one in a training step, for which a GPU would have to
    wait, gets an error."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())


@pytest.mark.usefixtures("numberless")
@pytest.mark.parametrize(
    ("preset", "calibrated", "ablation"),
    [
        ("layered_debug", True, "none"),
        ("unet_debug", True, "none"),
        ("dit_debug", True, "none"),
        *(("layered_debug", False, a) for a in ("none", "no_mv_attention", "native_frame", "no_mask", "svd_mv")),
        ("layered_debug", False, "trajectory_regression"),
        *(("unet_debug", False, a) for a in ("none", "native_frame", "no_mask", "svd_mv")),
        *(("dit_debug", False, a) for a in ("none", "native_frame", "no_mask", "svd_mv")),
    ],
)
def test_a_training_step_stays_on_its_device(preset: str, calibrated: bool, ablation: Any) -> None:
    c: Any = dataclasses.replace(presets().get(preset), calibrated=calibrated).with_ablation(ablation)
    generator = c.build().to("meta")
    batch = {k: v.to("meta") for k, v in fake_batch(c, 2, further=3 if c.predicts_trajectory else 0).items()}
    loss = generator.loss(batch, torch.Generator().manual_seed(0))
    assert loss.total.device.type == "meta"
    average = Average(generator, 0.99)
    loss.total.backward()
    average.update(generator, 1)
    assert {v.device.type for v in average.weights.values()} == {"meta"}
    with pytest.raises(RuntimeError, match="device"):
        generator.loss(batch | {"first_rgb": torch.ones(batch["first_rgb"].shape)}, torch.Generator().manual_seed(0))
