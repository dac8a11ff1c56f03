"""A training step stays on its device and never waits for it; the meta device plays the GPU."""

import contextlib
import dataclasses
import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from no_waiting import NoWaiting, Waited

from geo4d_bench.model.batch import fake_batch
from geo4d_bench.model.generators import presets
from geo4d_bench.model.layered.losses import _turned
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.state import Average, Progress
from geo4d_bench.training.train import TrainConfig
from geo4d_bench.training.trainer import Trainer, _LossOf


class OnTheDevice(torch.Generator):
    """Draws on the meta device, as a GPU's generator does on the GPU."""

    device = torch.device("meta")  # type: ignore[assignment]

    def __new__(cls, device: torch.device) -> "OnTheDevice":
        assert device.type == "meta"
        return super().__new__(cls)


@pytest.fixture
def numberless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a GPU would wait for raises: tensors on the meta device have no values to read, and constants are copied
    there once."""
    copied, tensor = set(), torch.tensor

    def noticed(values: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if str(device) == "meta":
            if repr(values) in copied:
                raise Waited(f"torch.tensor({values}, device=...) again")
            copied.add(repr(values))
        return tensor(values, *args, device=device, **kwargs)

    monkeypatch.setattr(torch, "tensor", noticed)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch, "Generator", OnTheDevice)
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)


def trainer(c: Any) -> Trainer:
    """A trainer in the middle of its training, on the meta device."""
    made = Trainer.__new__(Trainer)
    made.config, made.progress, made.unread = TrainConfig(steps=100), Progress(step=10), []
    made.bf16 = False
    made.generator = c.build().to("meta")
    made.model = _LossOf(made.generator)
    made.optimizers = Optimizers(made.generator.optimizer_groups(), 1e-3, 0.01)
    made.average = Average(made.generator, 0.99)
    made.accelerator = SimpleNamespace(device=torch.device("meta"), backward=torch.autograd.backward)
    return made


@pytest.mark.usefixtures("numberless")
@pytest.mark.parametrize(
    ("preset", "calibrated", "ablation"),
    [
        ("layered_debug", True, "none"),
        ("unet_debug", True, "none"),
        ("dit_debug", True, "none"),
        *(("layered_debug", False, a) for a in ("none", "no_mv_attention", "native_frame", "no_mask", "svd_mv")),
        ("layered_debug", False, "trajectory_regression"),
        *(("dit_debug", False, a) for a in ("none", "native_frame", "no_mask", "svd_mv")),
    ],
)
def test_a_training_step_never_waits_for_its_device(preset: str, calibrated: bool, ablation: Any) -> None:
    c: Any = dataclasses.replace(presets().get(preset), calibrated=calibrated).with_ablation(ablation)
    made = trainer(c)
    batch = {k: v.to("meta") for k, v in fake_batch(c, 2, further=3 if c.predicts_trajectory else 0).items()}
    made.generator.loss(batch, OnTheDevice(torch.device("meta")))  # copies the constants
    with NoWaiting():
        made._step(iter([batch]))
    assert made.progress.step == 11
    on = [*made.unread[-1], *made.average.weights.values(), *made.optimizers.state().values()]
    assert {x.device.type for x in on if isinstance(x, torch.Tensor)} == {"meta"}
    with pytest.raises((Waited, RuntimeError), match="cpu"), NoWaiting():
        made._step(iter([batch | {"first_rgb": torch.ones(batch["first_rgb"].shape)}]))
    with pytest.raises(RuntimeError, match="meta tensor"):
        made._read()


def test_small_rotations_are_the_same_without_the_exponential(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, z = 0.02 * torch.randn((3, 100), generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(100)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    exact = _turned(skew)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    torch.testing.assert_close(_turned(skew), exact, rtol=0, atol=1e-5)
