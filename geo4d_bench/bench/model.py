"""What ``geo4d-bench bench`` measures of the generator: plans by steps and views, and what training costs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo4d_bench.bench.measurement import Measurement, compared, count, median_seconds
from geo4d_bench.bench.scene import simulator_of
from geo4d_bench.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from geo4d_bench.bench.config import BenchConfig
    from geo4d_bench.model.config import GeneratorConfig
    from geo4d_bench.model.types import FirstFrames

Seconds = Callable[..., tuple[float, ...]]
"""``median_seconds`` of so many repeats: works in, the median seconds of each out."""

STEPS = (1, 2, 4, 8, 25)
"""The paper's is the last."""
VIEWS = (2, 3, 4, 8)
BATCH = 8
_PRODUCT = {"cuda": 8192, "cpu": 2048}
"""Edge of the square matrices whose product tells how much arithmetic a device can do at best."""


def generate(config: BenchConfig) -> list[Measurement]:
    """Plans of the generator: against the time that the robot takes to carry out what is executed of them, by steps
    against 25, by views against generating pair by pair."""
    import torch

    from geo4d_bench.geometry.rig import Rig
    from geo4d_bench.model.generators import load_generator
    from geo4d_bench.policies import PlanOptions
    from geo4d_bench.tasks.rigs import make_rig

    folder = config.checkpoint or Path("runs") / config.task / "layered_nano"
    torch.set_num_threads(os.cpu_count() or 1)
    generator = load_generator(folder, config.device)
    if not generator.config.generates_video:
        raise ConfigError(f"{folder}: was trained for trajectory_regression, which generates nothing")
    c = generator.config
    simulator = simulator_of(config.task, (c.height, c.width))
    rig = make_rig("hemisphere16", simulator.task.spec.workspace)
    assert isinstance(rig, Rig)
    pairs = first_frames_of_pairs(simulator, list(rig.views("seen"))[: max(VIEWS)])
    seconds = functools.partial(median_seconds, config.repeats)
    by_steps = plan_seconds(generator, pairs[0], seconds)
    by_views = view_seconds(generator, pairs, seconds)
    executed_ms = 1e3 * PlanOptions().execute * c.dt_s
    plan = f"{c.frames} frames x 2 views {c.height}x{c.width}"
    return [
        compared(f"generate one plan, {plan}", 1e3 * by_steps[1], "ms", executed_ms, more_is_better=False),
        *_plans(by_steps, plan),
        *(
            compared(
                f"generate {views} views in one pass, {c.frames} frames {c.height}x{c.width}", 1e3 * took, "ms",
                1e3 * (views - 1) * by_views[2], more_is_better=False,
            )
            for views, took in by_views.items()
        ),
    ]  # fmt: skip


def train(config: BenchConfig) -> list[Measurement]:
    """One pass for both views and modalities against four passes through the same network."""
    found = training_seconds("layered_nano", functools.partial(median_seconds, config.repeats))
    return [
        compared(
            f"train nano's {what}, 2 views and 2 modalities in one pass", BATCH / one, "samples/s", BATCH / four,
            more_is_better=True,
        )
        for what, (one, four) in found.items()
    ]  # fmt: skip


def preset(config: BenchConfig) -> list[Measurement]:
    """What an untrained preset costs on noise: a training step as the trainer takes it, but for reading its windows;
    its arithmetic against that of a large product of matrices on the same device; memory; and a plan by its steps
    (without registration of the cameras, since there is no map of a scene).
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from geo4d_bench.model.generators import check_device, find_config
    from geo4d_bench.training.device import peak_mib

    c = find_config(config.preset)
    if not c.generates_video:
        raise ConfigError(f"bench preset: {config.preset} is of trajectory_regression, which generates nothing")
    check_device(config.device)
    device = torch.device(config.device)
    torch.set_num_threads(os.cpu_count() or 1)
    step = TrainingStep(c, config.batch_size, device)
    with FlopCounterMode(display=False) as counter:
        step()
    step()
    memory_gib = peak_mib(device) / 1024
    factor = torch.randn(_PRODUCT[device.type], _PRODUCT[device.type], device=device)
    factor = factor.bfloat16() if step.bf16 else factor
    works = (step, lambda: factor @ factor)
    step_s, product_s = median_seconds(config.repeats, *(functools.partial(_finished, device, w) for w in works))
    by_steps = plan_seconds(
        step.averaged_generator(), _fake_first_frames(c), functools.partial(median_seconds, config.repeats)
    )
    on = f"{config.preset} ({'calibrated, ' if c.calibrated else ''}{c.height}x{c.width}) on {_name(device)}"
    size = f"batch {config.batch_size}, {'bfloat16' if step.bf16 else 'float32'}"
    return [
        Measurement(f"train {on}, {size}", config.batch_size / step_s, "samples/s"),
        compared(
            f"arithmetic of training {on}, {size}, against a product of matrices",
            1e-12 * counter.get_total_flops() / step_s, "TFLOP/s", 2e-12 * len(factor) ** 3 / product_s,
            more_is_better=True,
        ),
        Measurement(f"peak memory of training {on}, {size}", memory_gib, "GiB"),
        *_plans(by_steps, f"{c.frames} frames x 2 views, {on}"),
    ]  # fmt: skip


class TrainingStep:
    """A call is one training step of an untrained generator on noise, as the trainer takes it."""

    def __init__(self, c: GeneratorConfig, batch_size: int, device: torch.device) -> None:
        import torch

        from geo4d_bench.model.batch import fake_batch
        from geo4d_bench.training.data import AUXILIARY_WINDOWS
        from geo4d_bench.training.device import computes_in_bf16
        from geo4d_bench.training.optimizer import Optimizers
        from geo4d_bench.training.state import Average

        torch.manual_seed(0)
        self._generator = c.build().to(device)
        further = batch_size * AUXILIARY_WINDOWS if c.predicts_trajectory else 0
        self._batch = {k: v.to(device) for k, v in fake_batch(c, batch_size, further).items()}
        self._optimizers, self._average = (
            Optimizers(self._generator.optimizer_groups(), 1e-4, 0.01),
            Average(self._generator, 0.99),
        )
        self._device, self._taken, self.bf16 = device, 0, computes_in_bf16(device)

    def __call__(self) -> None:
        import torch

        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            total = self._generator.loss(self._batch, torch.Generator().manual_seed(0)).total
        self._optimizers.zero_grad()
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(self._generator.parameters(), self._generator.config.gradient_clip)
        self._optimizers.step()
        self._taken += 1
        self._average.update(self._generator, self._taken)

    def averaged_generator(self) -> Any:
        return self._average.module(self._generator)


def _plans(by_steps: dict[int, float], what: str) -> list[Measurement]:
    most = 1e3 * by_steps[max(by_steps)]
    return [
        compared(f"generate one plan of {count(steps, 'step')}, {what}", 1e3 * s, "ms", most, more_is_better=False)
        for steps, s in by_steps.items()
    ]


def _finished(device: torch.device, work: Callable[[], object]) -> None:
    """Do it, and wait until the GPU has."""
    import torch

    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else count(os.cpu_count() or 1, "core")


def _fake_first_frames(c: GeneratorConfig) -> FirstFrames:
    """Of noise, see :func:`~geo4d_bench.model.batch.fake_batch`."""
    import numpy as np

    from geo4d_bench.model.batch import fake_batch
    from geo4d_bench.model.types import FirstFrames

    batch = {k: v[0].numpy() for k, v in fake_batch(c, 1).items()}
    K = np.array([[c.width, 0, c.width / 2], [0, c.width, c.height / 2], [0, 0, 1]])
    return FirstFrames(
        rgb=batch["first_rgb"], points=np.where(batch["first_valid"][..., None], batch["first_points"], np.nan),
        K=np.stack([K, K]), hand_mask=batch["hand_mask"], p_n_ee=batch["first_hand"],
        opening_m=batch["opening"], T_world_cam=batch["T_world_cam"],
    )  # fmt: skip


def plan_seconds(generator: Any, first: FirstFrames, seconds: Seconds) -> dict[int, float]:
    """Of a plan, by the number of steps."""
    works = [lambda steps=steps: generator.generate([first], [0], steps) for steps in STEPS]
    return dict(zip(STEPS, seconds(*works), strict=True))


def view_seconds(generator: Any, pairs: list[FirstFrames], seconds: Seconds) -> dict[int, float]:
    """Of a plan in one pass, by the number of views; ``pairs`` are of one view n with each of its further views."""
    works = []
    for views in VIEWS:
        first = pairs[0]
        for other in pairs[1 : views - 1]:
            first = first.with_view_m_of(other)
        works.append(lambda first=first: generator.generate([first], [0], 1))
    return dict(zip(VIEWS, seconds(*works), strict=True))


def first_frames_of_pairs(simulator: Any, cameras: list[Any]) -> list[FirstFrames]:
    """What the simulator shows now to the first camera beside each of the others."""
    from geo4d_bench.policies.generated import first_frames

    pairs = []
    for camera in cameras[1:]:
        simulator.cameras = (cameras[0], camera)
        pairs.append(first_frames(simulator.observe(True), simulator.info))
    return pairs


def training_seconds(preset: str, seconds: Seconds) -> dict[str, tuple[float, ...]]:
    """Of one pass and of four over ``BATCH`` windows, see :func:`~geo4d_bench.model.layered.passes.passes`."""
    import torch

    from geo4d_bench.model.layered.passes import passes
    from geo4d_bench.training.data import AUXILIARY_WINDOWS
    from geo4d_bench.training.device import computes_in_bf16

    torch.set_num_threads(os.cpu_count() or 1)
    works = passes(preset, BATCH, AUXILIARY_WINDOWS * BATCH, computes_in_bf16(torch.device("cpu")))
    found = seconds(*works["network"], *works["generator"])
    return {"network": found[:2], "generator": found[2:]}
