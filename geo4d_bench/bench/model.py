"""What ``geo4d-bench bench`` measures of generators: plans by steps and views, and what training costs."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from geo4d_bench.bench.bench import BenchConfig, Measurement, compared, count, median_seconds
from geo4d_bench.bench.profiling import OPTIMISER, profiled
from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import ConfigError
from geo4d_bench.model.batch import AUXILIARY, fake_batch, fake_window, frames_of_window
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.generators import check_device, find_config, load_generator
from geo4d_bench.model.types import FirstFrames
from geo4d_bench.training.compiled import compile_layers
from geo4d_bench.training.data import AUXILIARY_WINDOWS, WindowSource
from geo4d_bench.training.device import computes_in_bf16, peak_mib
from geo4d_bench.training.optimizer import Optimizers
from geo4d_bench.training.resident import device_batches, hold_frames
from geo4d_bench.training.state import AVERAGE_EVERY, Average

STEPS = (1, 2, 4, 8, 25)
"""The paper's is the last."""
VIEWS = (2, 3, 4, 8)
PLANS = 4
"""Of as many episodes, in one pass."""
BATCH = 8
_OF_VIEWS = ("first_rgb", "first_points", "first_valid", "rays", "T_world_cam", "rgb", "points", "valid", "parts")
"""What has an axis of views in a batch."""
_PRODUCT = {"cuda": 8192, "cpu": 2048}
"""Edge of the square matrices whose product tells how much arithmetic a device can do at best."""


def generate(config: BenchConfig) -> list[Measurement]:
    """Plans of the generator: against the time that the robot takes to carry out what is executed of them, by steps
    against 25, by views against generating pair by pair, of several episodes against one after the other."""
    from geo4d_bench.bench.scene import simulator_of
    from geo4d_bench.geometry.rig import Rig
    from geo4d_bench.policies import PlanOptions
    from geo4d_bench.policies.generated import frames_of_observation
    from geo4d_bench.tasks.rigs import make_rig

    folder = config.checkpoint or Path("runs") / config.task / "layered_nano"
    torch.set_num_threads(os.cpu_count() or 1)
    generator = load_generator(folder, config.device)
    c = generator.config
    if not c.generates_video:
        raise ConfigError(f"{folder}: was trained for trajectory_regression, which generates nothing")
    simulator = simulator_of(config.task, (c.height, c.width))
    rig = make_rig("hemisphere16", simulator.task.spec.workspace)
    assert isinstance(rig, Rig)
    view_n, *others = rig.views("seen")[: max(VIEWS)]
    pairs = []
    for view_m in others:
        simulator.cameras = (view_n, view_m)
        pairs.append(frames_of_observation(simulator.observe(True), simulator.info))
    by_steps = plan_seconds(generator, pairs[0], config.repeats)
    by_views = view_seconds(generator, pairs, config.repeats)
    executed_ms = 1e3 * PlanOptions().execute * c.dt_s
    size = f"{c.height}x{c.width}"
    plan = f"{c.frames} frames x 2 views {size}"
    rows = [compared(f"generate one plan, {plan}", 1e3 * by_steps[1], "ms", executed_ms), *_plans(by_steps, plan)]
    for views, took in by_views.items():
        name = f"generate {views} views in one pass, {c.frames} frames {size}"
        rows.append(compared(name, 1e3 * took, "ms", 1e3 * (views - 1) * by_views[2]))
    together, alone = batch_seconds(generator, pairs[:PLANS], config.repeats)
    rows.append(compared(f"generate {PLANS} plans of 1 step in one pass, {plan}", 1e3 * together, "ms", 1e3 * alone))
    return rows


def train(config: BenchConfig) -> list[Measurement]:
    """The gradient of a training step in one pass over both views, against a pass for each view and modality."""
    one, four = gradient_seconds("layered_nano", config.repeats)
    name = "train nano's generator, 2 views and 2 modalities in one pass"
    return [compared(name, BATCH / one, "samples/s", BATCH / four)]


def preset(config: BenchConfig) -> list[Measurement]:
    """What an untrained preset costs: a training step as the trainer takes it, on noise that is there already; its
    arithmetic against that of a large product of matrices on the same device; memory; of steps on batches that are read
    as the trainer reads them, how long each waits and computes; with ``profile`` where the time goes; and a plan by its
    steps (without registration of the cameras, since there is no map of a scene).

    Where memory runs out there is a line that says so, without a value, and the next are measured.
    """
    c = find_config(config.preset)
    if not c.generates_video:
        raise ConfigError(f"bench preset: {config.preset} is of trajectory_regression, which generates nothing")
    check_device(config.device)
    device = torch.device(config.device)
    source = Noise(c) if config.data is None else _windows(config.data, c)
    torch.set_num_threads(os.cpu_count() or 1)
    bf16 = computes_in_bf16(device)
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else count(os.cpu_count() or 1, "core")
    on = f"{config.preset} ({'calibrated, ' if c.calibrated else ''}{c.height}x{c.width}) on {on}"
    size = f"batch {config.batch_size}, {'bfloat16' if bf16 else 'float32'}"
    plan = f"{c.frames} frames x 2 views, {on}"
    rows = if_memory_lasts(f"train {on}, {size}", "samples/s", lambda: _training(config, c, source, f"{on}, {size}"))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows + if_memory_lasts(
        f"generate one plan, {plan}", "ms",
        lambda: _plans(
            plan_seconds(c.build().to(device).eval(), frames_of_window(fake_window(c)), config.repeats), plan
        ),
    )  # fmt: skip


def if_memory_lasts(name: str, unit: str, measure: Callable[[], list[Measurement]]) -> list[Measurement]:
    """What ``measure`` returns, or one line of that name, without a value, where memory runs out."""
    try:
        return measure()
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:  # a processor's is no class of its own
        if "DefaultCPUAllocator" not in str(error):
            raise
    return [Measurement(f"{name}: out of memory", math.nan, unit)]


def _training(config: BenchConfig, c: GeneratorConfig, source: WindowSource, of: str) -> list[Measurement]:
    """Of training steps."""
    device = torch.device(config.device)
    step = TrainingStep(c, config.batch_size, device)
    with FlopCounterMode(display=False) as counter:
        step()
    if (why := step.compile()) is not None:
        print(f"bench: {why}", file=sys.stderr)
    step()
    memory_gib = peak_mib(device) / 1024
    dtype = torch.bfloat16 if step.bf16 else torch.float32
    factor = torch.randn(_PRODUCT[device.type], _PRODUCT[device.type], device=device).to(dtype)

    def finished(work: Callable[[], object]) -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    works = (functools.partial(finished, work) for work in (step, lambda: factor @ factor))
    step_s, product_s = median_seconds(config.repeats, *works)
    achieved, possible = 1e-12 * counter.get_total_flops() / step_s, 2e-12 * len(factor) ** 3 / product_s
    waits = device_batches(
        source, hold_frames(source, device, 1), device, 0, config.batch_size, 0, further=_further(c)
    )  # fmt: skip
    taken: list[dict[str, torch.Tensor]] = []
    with closing(waits):
        reads = (lambda: taken.append(next(waits)), lambda: finished(lambda: step(taken.pop())))
        waiting_s, computing_s = median_seconds(config.repeats, *reads)
    arithmetic = f"arithmetic of training {of}, against a product of matrices"
    windows = "made-up windows" if config.data is None else f"windows of {config.data}"
    return [
        Measurement(f"train {of}", config.batch_size / step_s, "samples/s"),
        compared(arithmetic, achieved, "TFLOP/s", possible),
        Measurement(f"peak memory of training {of}", memory_gib, "GiB"),
        Measurement(f"waiting for {windows} in a step, {of}", 1e3 * waiting_s, "ms"),
        Measurement(f"computing in a step, {of}", 1e3 * computing_s, "ms"),
        *(profiled(step, step.generator, device, of) if config.profile else []),
    ]


class Noise:
    """A source of a few windows of noise, which are there already."""

    def __init__(self, c: GeneratorConfig) -> None:
        self.windows = [fake_window(c, seed) for seed in range(4)]

    def sample(self, rng: np.random.Generator) -> Window:
        return self.windows[int(rng.integers(len(self.windows)))]


def _windows(data: Path, c: GeneratorConfig) -> WindowSource:
    from geo4d_bench.dataset.windows import Windows

    windows = Windows(data, horizon=c.frames, dt_s=c.dt_s, sensor=c.sensor, both_poses=c.calibrated)
    if windows.datasets[0].size != (c.height, c.width):
        height, width = windows.datasets[0].size
        raise ConfigError(
            f"bench preset: the images of {data} have {height} x {width} pixels, the preset's {c.height} x {c.width}; "
            "give data of its size"
        )
    return windows


def _further(c: GeneratorConfig) -> int:
    return AUXILIARY_WINDOWS if c.predicts_trajectory else 0


class TrainingStep:
    """A call is one training step of an untrained generator, as the trainer takes it; on noise by default."""

    def __init__(self, c: GeneratorConfig, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.generator = c.build().to(device)
        self.batch = {k: v.to(device) for k, v in fake_batch(c, batch_size, batch_size * _further(c)).items()}
        self._device, self._taken, self.bf16 = device, 0, computes_in_bf16(device)
        lean = c.needs_pretrained and self.bf16
        self._optimizers = Optimizers(self.generator.optimizer_groups(), 1e-4, 0.01, eight_bit=lean)
        self._average = Average(self.generator, 0.99, AVERAGE_EVERY if lean else 1, off_card=lean)
        if lean:
            self._average.keep_frozen(self.generator)
            self.generator.halve_frozen()

    def compile(self) -> str | None:
        """As the trainer does on a GPU; why it could not be done."""
        if self._device.type != "cuda":
            return None
        return compile_layers(self.generator, lambda: torch.autograd.backward(self.loss(self.batch)))

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            return self.generator.loss(batch, torch.Generator(self._device).manual_seed(0)).total

    def __call__(self, batch: dict[str, torch.Tensor] | None = None) -> None:
        total = self.loss(self.batch if batch is None else batch)
        torch.autograd.backward(total)
        with record_function(OPTIMISER):
            torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.generator.config.gradient_clip)
            self._optimizers.step()
            self._optimizers.zero_grad()
            self._taken += 1
            self._average.update(self.generator, self._taken)


def _plans(by_steps: dict[int, float], what: str) -> list[Measurement]:
    most = 1e3 * by_steps[max(by_steps)]
    return [
        compared(f"generate one plan of {count(steps, 'step')}, {what}", 1e3 * seconds, "ms", most)
        for steps, seconds in by_steps.items()
    ]


def plan_seconds(generator: Any, first: FirstFrames, repeats: int) -> dict[int, float]:
    """Of a plan, by the number of steps."""
    works = [functools.partial(generator.generate, [first], [0], steps) for steps in STEPS]
    return dict(zip(STEPS, median_seconds(repeats, *works), strict=True))


def view_seconds(generator: Any, pairs: Sequence[FirstFrames], repeats: int) -> dict[int, float]:
    """Of a plan in one pass, by the number of views; ``pairs`` are of one view n with each of its further views."""
    works = []
    for views in VIEWS:
        first = functools.reduce(lambda first, pair: first.with_view_m_of(pair), pairs[: views - 1])
        works.append(functools.partial(generator.generate, [first], [0], 1))
    return dict(zip(VIEWS, median_seconds(repeats, *works), strict=True))


def batch_seconds(generator: Any, firsts: Sequence[FirstFrames], repeats: int) -> tuple[float, ...]:
    """Of one plan for each of some first frames, in one pass and one after the other."""
    seeds = range(len(firsts))
    works = [functools.partial(generator.generate, firsts, seeds, 1, batch) for batch in (len(firsts), 1)]
    return median_seconds(repeats, *works)


def gradient_seconds(preset: str, repeats: int) -> tuple[float, ...]:
    """Of the gradient over ``BATCH`` windows in one pass, and in four, each of which has the whole loss of one view."""
    torch.set_num_threads(os.cpu_count() or 1)
    step = TrainingStep(find_config(preset), BATCH, torch.device("cpu"))
    views = [
        {k: v[:, i : i + 1] if k.removeprefix(AUXILIARY) in _OF_VIEWS else v for k, v in step.batch.items()}
        for i in range(2)
    ]

    def add_gradients(*batches: dict[str, torch.Tensor]) -> None:
        for batch in batches:
            torch.autograd.backward(step.loss(batch))

    return median_seconds(repeats, lambda: add_gradients(step.batch), lambda: add_gradients(*views, *views))
