"""Embeddings of first frames: one of a whole image for the U-Net, one of each cell for the transformer.

First frames are (N, 14, H, W): colours in -1..1, normalised points (0 where invalid), whether they are valid, 1 on the
first arm's hand and -1 on a second's (view n's; view m has none), each pixel's direction (of length 1), and where the
camera is, normalised as points are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.model.blocks import constant
from geo4d_bench.model.video.config import ImageEncoderSizes

FIRST_CHANNELS = 14
VALID = 6  # where validity is in them
_OCTAVES = 4  # of points' sines; the longest wave is two units
_GRID = 4  # cells along each side that a learned embedding pools an image to


class ClipEmbedding(nn.Module):
    """CLIP's image embedding of a view's first frame, frozen."""

    def __init__(self, encoder: Any, sizes: ImageEncoderSizes) -> None:
        super().__init__()
        self.encoder, self.sizes = encoder.requires_grad_(False).eval(), sizes

    @torch.no_grad()
    def forward(self, first: Tensor) -> Tensor:
        """(N, 14, H, W) -> (N, 1, D)."""
        statistics = (self.sizes.image_mean, self.sizes.image_std)
        mean, std = (constant(x, first.device).view(3, 1, 1) for x in statistics)
        with torch.autocast(first.device.type, enabled=False):  # the same in training as when generating
            rgb = _squeezed(first[:, :3], self.sizes.image_size)
            pixels = ((rgb + 1) / 2 - mean) / std
            embedding: Tensor = self.encoder(pixels.to(self.encoder.dtype)).image_embeds
        return embedding[:, None].float()


class LearnedEmbedding(nn.Module):
    """A small network's embedding of a view's first frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(FIRST_CHANNELS, 32, 4, 4), nn.SiLU(), nn.Conv2d(32, 64, 3, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), nn.Linear(64 * _GRID**2, dim),
        )  # fmt: skip

    def forward(self, first: Tensor) -> Tensor:
        """(N, 14, H, W) -> (N, 1, D)."""
        return cast(Tensor, self.layers(first))[:, None]


class CellEmbedding(nn.Module):
    """A small convolutional network's embedding of each cell of a view's first frame, with sines of its points.

    Convolutions before a transformer let it learn from fewer samples (Xiao et al. 2021,
    https://arxiv.org/abs/2106.14881).

    Args:
        cell: side in pixels, a power of 2.
        dim: of an embedding.
    """

    def __init__(self, cell: int, dim: int) -> None:
        super().__init__()
        channels, layers = FIRST_CHANNELS + 6 * _OCTAVES, []
        for further in reversed(range(cell.bit_length() - 1)):
            width = max(dim >> further, 16)
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.GELU(approximate="tanh")]
            channels = width
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, dim, 1))
        self.norm = nn.LayerNorm(dim)
        # By default each layer would shrink what tells one cell from another threefold.
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, first: Tensor) -> Tensor:
        """(N, 14, H, W) -> (N, h * w, D)."""
        points, valid = first[:, 3:6], first[:, VALID : VALID + 1]
        phases = torch.cat([points * (torch.pi * 2.0**k) for k in range(_OCTAVES)], 1)
        known = torch.cat([first, phases.sin() * valid, phases.cos() * valid], 1)
        return cast(Tensor, self.norm(self.stem(known).flatten(2).transpose(1, 2)))


def _squeezed(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) as squares (N, C, size, size), as Stable Video Diffusion's pipeline makes them for CLIP.

    Not cropped; along each side blurred by a Gaussian as wide as the side shrinks, then bicubic from corner to corner.
    The same as diffusers' ``_resize_with_antialiasing``, which is private and would be rounded under autocast.
    """
    for side, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        sigma = max((images.shape[side] / size - 1.0) / 2.0, 0.001)
        reach = int(max(4.0 * sigma, 3.0)) // 2
        offsets = torch.arange(-reach, reach + 1, device=images.device)
        kernel = (-0.5 * (offsets / sigma).square()).softmax(0)
        padded = F.pad(images, [reach * p for p in pad], mode="reflect")
        images = (padded.unfold(side, 2 * reach + 1, 1) * kernel).sum(-1)
    return F.interpolate(images, (size, size), mode="bicubic", align_corners=True)
