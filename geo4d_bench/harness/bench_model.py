"""What ``geo4d-bench bench`` measures of the generator: a plan by its steps and views, and a training step."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geo4d_bench.model.video import FirstFrames

Seconds = Callable[..., tuple[float, ...]]
"""``median_seconds`` of so many repeats: works in, the median seconds of each out."""

STEPS = (1, 2, 4, 8, 25)
"""The paper's is the last."""
VIEWS = (2, 3, 4, 8)
BATCH = 8


def plan_seconds(generator: Any, first: FirstFrames, seconds: Seconds) -> dict[int, float]:
    """Of a plan, by the number of steps."""
    works = [lambda steps=steps: generator.generate([first], [0], steps) for steps in STEPS]
    return dict(zip(STEPS, seconds(*works), strict=True))


def view_seconds(generator: Any, pairs: list[FirstFrames], seconds: Seconds) -> dict[int, float]:
    """Of a plan in one pass, by the number of views; ``pairs`` are of one view n with each of its further views."""
    works = []
    for count in VIEWS:
        first = pairs[0]
        for other in pairs[1 : count - 1]:
            first = first.with_view_m_of(other)
        works.append(lambda first=first: generator.generate([first], [0], 1))
    return dict(zip(VIEWS, seconds(*works), strict=True))


def first_frames_of_pairs(simulator: Any, cameras: list[Any]) -> list[FirstFrames]:
    """What the simulator shows now to the first camera beside each of the others."""
    from geo4d_bench.policies.geo4d import first_frames

    pairs = []
    for camera in cameras[1:]:
        simulator.cameras = (cameras[0], camera)
        pairs.append(first_frames(simulator.observe(True), simulator.info))
    return pairs


def training_seconds(preset: str, seconds: Seconds) -> tuple[float, float]:
    """Of a step of the preset's network on ``BATCH`` samples: one pass for both views and both modalities, and four
    passes, each for one view and one modality; forward and backward on random input."""
    import torch

    from geo4d_bench.model.config import PRESETS
    from geo4d_bench.model.foresight import CONDITION_CHANNELS, Poses
    from geo4d_bench.model.scene import Hands
    from geo4d_bench.model.tokens import NOISY_CHANNELS, TokenNetwork

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    c = PRESETS.get(preset)
    network, area = TokenNetwork(c), c.patch**2
    condition = torch.randn(BATCH, 2, c.tokens, CONDITION_CHANNELS, area)
    noisy = torch.randn(BATCH, 2, c.tokens, NOISY_CHANNELS, c.frames * area)
    anchor, opening = torch.zeros(BATCH, 2, c.arms, 3), torch.zeros(BATCH, 2, c.arms)
    still = Poses(torch.eye(3).expand(BATCH, 2, 3, 3), torch.zeros(BATCH, 2, 3))
    hands = Hands(
        torch.zeros(BATCH, 2, c.arms, c.frames, 3),
        torch.eye(3).expand(BATCH, 2, c.arms, c.frames, 3, 3),
        torch.zeros(BATCH, 2, c.arms, c.frames),
        torch.zeros(BATCH, 2, c.arms, 3),
    )
    rays = torch.randn(BATCH, 2, c.tokens, 3, 1, area)
    frames = torch.arange(c.loss_frames)

    def step(view: slice, *names: str) -> None:
        poses = Poses(still.R[:, view], still.t[:, view])
        layers = network(
            condition[:, view], noisy[:, view], torch.ones(BATCH), anchor[:, view], opening[:, view], poses,
            Hands(**{k: v[:, view] for k, v in vars(hands).items()}), rays[:, view], frames,
        )  # fmt: skip
        sum(getattr(layers, name).square().mean() for name in names).backward()
        network.zero_grad()

    mix = ("keep", "carried", "rides")
    colour, shape = ("rgb", *mix), ("depth", "hand", "valid", *mix)

    def four() -> None:
        for view in (slice(0, 1), slice(1, 2)):
            step(view, *colour)
            step(view, *shape)

    one, apart = seconds(lambda: step(slice(0, 2), *{*colour, *shape}), four)
    return one, apart
