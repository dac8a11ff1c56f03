"""The segmenter protocol, and a network that learns it from demonstrations.

A tracker needs to know which pixels of a video show which part of a gripper. Videos of the benchmark's own generators
carry such labels; for others, a segmenter finds them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.manifest import file_sha256
from geo4d_bench.errors import CheckpointError, DatasetError, TrainingError
from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.model.types import Video4D
from geo4d_bench.options import Steps, check_ranges
from geo4d_bench.seeding import Seed

if TYPE_CHECKING:
    from torch import Tensor, nn

_WEIGHTS = "runs/{}/segmenter.safetensors"  # of a task
CHANNELS = 32
DT_S = 0.4
RATE = 3e-3
NOISE = 0.05
"""Standard deviation of what is added to colours (-1 to 1) and points (metres): generated video is not sharp."""
NO_PART_WEIGHT = 0.2
"""Of pixels without a gripper in the loss: they are many."""


class Segmenter(ABC):
    """Labels the parts of grippers in videos; one lives for a whole episode.

    A segmenter of another package subclasses this and names the class as an entry point of the group
    ``geo4d_bench.segmenters`` (docs/adding_a_tracker.md).

    Args:
        hand: the gripper's surface model, end-effector frame, the same for every arm.
        task: id of the task.
    """

    name: ClassVar[str]

    def __init__(self, hand: HandModel, task: str) -> None:
        self.hand, self.task = hand, task

    @classmethod
    def version(cls, task: str) -> str:
        """What decides its labels besides its name, such as the sha256 of weights: results of two are never mixed."""
        return ""

    @abstractmethod
    def segment(self, video: Video4D, T_n_ee_start: Array, opening_start_m: Array) -> npt.NDArray[np.uint8]:
        """Labels (V, T, H, W) uint8: 0 or ``geometry.hand.part_label(arm, part)``.

        Args:
            video: T frames; its ``parts`` must not be read.
            T_n_ee_start: (arms, 4, 4) poses ``dt_s`` before frame 0, from forward kinematics, camera n's frame.
            opening_start_m: (arms,) metres between the fingers at that time.
        """


class TrainedSegmenter(Segmenter):
    """A small U-Net on colours and points, trained by ``geo4d-bench segmenter`` on a task's demonstrations.

    Raises:
        CheckpointError: none was trained for the task, or its file is damaged.
    """

    name = "trained"

    def __init__(self, hand: HandModel, task: str) -> None:
        super().__init__(hand, task)
        from geo4d_bench.model.checkpoint import read_tensors

        path = _weights(task)
        weights = read_tensors(path)
        try:
            self._network = network(len(weights["head.bias"]))
            self._network.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not a segmenter's weights ({error}); train it again") from None

    @classmethod
    def version(cls, task: str) -> str:
        return file_sha256(_weights(task))

    def segment(self, video: Video4D, T_n_ee_start: Array, opening_start_m: Array) -> npt.NDArray[np.uint8]:
        import torch

        frames = range(video.rgb.shape[1])
        with torch.inference_mode():
            logits = [self._network(inputs(video.rgb[:, t], video.points[:, t])) for t in frames]
            return torch.stack([each.argmax(1) for each in logits], 1).numpy().astype(np.uint8)


@dataclass(frozen=True)
class SegmenterConfig:
    """Train the segmenter of a task: what labels the gripper's parts in videos that carry no labels."""

    data: Path
    """Dataset folder, as 'geo4d-bench datagen' makes it."""
    steps: Steps = 400
    """Optimiser steps, of 4 pairs of images each."""
    seed: Seed = 0
    """Of the network's first weights and of what it is shown."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Trained:
    """What was trained; ``iou`` of gripper pixels on images from cameras that it was not trained on."""

    path: Path
    iou: float

    def __str__(self) -> str:
        return f"{self.path}: IoU of the gripper {self.iou:.2f} from cameras that it was not trained on"


def run(config: SegmenterConfig) -> Trained:
    """Train on seen cameras, measure on novel ones.

    Raises:
        DatasetError: no dataset there, or one of the eval split.
        TrainingError: the loss is not finite.
    """
    import torch
    import torch.nn.functional as F
    from tqdm import tqdm

    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.dataset.windows import Windows
    from geo4d_bench.geometry.hand import part_label
    from geo4d_bench.model.batch import true_video
    from geo4d_bench.model.checkpoint import write_tensors

    dataset = Dataset(config.data)
    if dataset.manifest.settings.split != "train":
        raise DatasetError(f"{config.data}: its episodes are of the eval split, which tests what was trained on others")
    shown = {views: Windows([dataset], cameras=views, horizon=1, dt_s=DT_S) for views in ("seen", "novel")}
    rng = np.random.default_rng(config.seed)

    def batch(views: str, size: int) -> tuple[Tensor, Tensor]:
        videos = [true_video(shown[views].sample(rng)) for _ in range(size)]
        x = torch.cat([inputs(v.rgb[:, 0], v.points[:, 0]) for v in videos])
        return x, torch.from_numpy(np.concatenate([v.parts[:, 0] for v in videos])).long()

    classes = part_label(len(dataset.arms), 0)
    noise = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = network(classes)
    weight = torch.ones(classes)
    weight[0] = NO_PART_WEIGHT
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, config.steps)
    for step in tqdm(range(config.steps), desc="segmenter", unit="step"):
        x, labels = batch("seen", 4)
        loss = F.cross_entropy(net(x + NOISE * torch.randn(x.shape, generator=noise)), labels, weight)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is {loss.item():g} at step {step + 1} (learning rate {RATE:g}, 4 pairs of images a batch); "
                f"nothing was written: look for the cause with 'geo4d-bench verify {config.data}'"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    both = either = 0
    with torch.inference_mode():
        for _ in range(25):
            x, labels = batch("novel", 2)
            found = net(x).argmax(1)
            both += int(((found > 0) & (labels > 0)).sum())
            either += int(((found > 0) | (labels > 0)).sum())
    path = Path(_WEIGHTS.format(dataset.manifest.settings.task))
    write_tensors(path, net.state_dict())
    return Trained(path, both / max(either, 1))


def _weights(task: str) -> Path:
    """A task's weights; CheckpointError where they are not there."""
    path = Path(_WEIGHTS.format(task))
    if not path.is_file():
        raise CheckpointError(
            f"segmenter 'trained' has no weights at {path}; make them with 'geo4d-bench segmenter --data data/{task}'"
        )
    return path


def inputs(rgb: npt.NDArray[np.uint8], points: npt.NDArray[np.float32]) -> Tensor:
    """(V, 7, H, W) float32 of images (V, H, W, 3) and points (V, H, W, 3) in camera n's frame: colours from -1 to 1,
    points in metres with 0 where invalid, and whether they are valid."""
    import torch

    valid = np.isfinite(points).all(-1, keepdims=True)
    channels = [rgb.astype(np.float32) / 127.5 - 1.0, np.where(valid, points, np.float32(0.0)), valid]
    return torch.from_numpy(np.concatenate(channels, axis=-1, dtype=np.float32)).permute(0, 3, 1, 2)


def network(classes: int) -> nn.Module:
    """(N, 7, H, W) to logits (N, classes, H, W): a U-Net of three scales."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    def block(channels_in: int, channels: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        return nn.Sequential(conv, nn.GroupNorm(8, channels), nn.SiLU())

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            c = CHANNELS
            self.down = nn.ModuleList([block(7, c, 2), block(c, 2 * c, 2), block(2 * c, 4 * c, 2)])
            self.deep = nn.Sequential(block(4 * c, 4 * c), block(4 * c, 4 * c))
            self.up = nn.ModuleList([block(6 * c, 2 * c), block(3 * c, c)])
            self.head = nn.Conv2d(c + 7, classes, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            half = self.down[0](x)
            quarter = self.down[1](half)
            y = self.deep(self.down[2](quarter))
            for up, skip in zip(self.up, (quarter, half), strict=True):
                y = up(torch.cat([F.interpolate(y, skip.shape[-2:], mode="nearest"), skip], 1))
            y = F.interpolate(y, x.shape[-2:], mode="bilinear")
            logits: Tensor = self.head(torch.cat([y, x], 1))
            return logits

    return Network()
