"""What the latent generator is told by the first frames, and what it reads of the generated ones.

First frames are (N, 8, H, W): colours in -1..1, normalised points in the view's own frame (0 where invalid), whether
they are valid, and the mask of the hands (view n's; view m has none).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.video.config import ImageEncoderSizes

FIRST_CHANNELS = 8
VALID = 6  # where validity is in them
_GRID = 4  # a learned embedding is told of so many places along each side


class ClipEmbedding(nn.Module):
    """CLIP's image embedding of a view's first frame, frozen."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, sizes: ImageEncoderSizes) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.size = sizes.image_size
        self.register_buffer("mean", torch.tensor(sizes.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(sizes.image_std).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, first: Tensor) -> Tensor:
        """(N, 8, H, W) -> (N, 1, D)."""
        with torch.autocast(first.device.type, enabled=False):  # the same in training as when generating
            rgb = _squeezed(first[:, :3], self.size)
            embedding: Tensor = self.encoder(((rgb + 1) / 2 - self.mean) / self.std).image_embeds
        return embedding[:, None]


class LearnedEmbedding(nn.Module):
    """A small network's embedding of a view's first frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(FIRST_CHANNELS, 32, 4, 4), nn.SiLU(), nn.Conv2d(32, 64, 3, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), nn.Linear(64 * _GRID**2, dim),
        )  # fmt: skip

    def forward(self, first: Tensor) -> Tensor:
        """(N, 8, H, W) -> (N, 1, D)."""
        return cast(Tensor, self.layers(first))[:, None]


class PartSegmenter(nn.Module):
    """Where a frame shows hands and where it has depth, told from its colours and points: a segmenter.

    It also sees the view's first frame, whose validity it corrects: the scene hardly changes.
    """

    def __init__(self, part_classes: int, width: int = 32) -> None:
        super().__init__()
        self.part_classes = part_classes
        self.layers = nn.Sequential(
            nn.Conv2d(6 + FIRST_CHANNELS, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2), nn.SiLU(),
            nn.Conv2d(width, 1 + part_classes, 3, padding=1),
        )  # fmt: skip

    def forward(self, frames: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a validity (N, 1, H, W) and of the parts (N, P, H, W).

        Args:
            frames: (N, 6, H, W) colours in -1..1, normalised points; what the points are where there is no depth must
                not matter, so training puts noise there.
            first: (N, 8, H, W).
        """
        valid, parts = self.layers(torch.cat([frames, first], 1)).split([1, self.part_classes], 1)
        return valid + 3.0 * (2.0 * first[:, VALID : VALID + 1] - 1.0), parts


def random_image_encoder(sizes: ImageEncoderSizes) -> nn.Module:
    """CLIP's image encoder of some size, with random weights; ConfigError where transformers is not installed."""
    transformers = import_transformers()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
             "patch_size", "projection_dim", "hidden_act")  # fmt: skip
    config = transformers.CLIPVisionConfig(**{name: getattr(sizes, name) for name in names})
    return cast(nn.Module, transformers.CLIPVisionModelWithProjection(config))


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


def import_transformers() -> Any:
    """The library, which the extra ``svd`` installs."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "Stable Video Diffusion's image encoder needs transformers, which is not installed; "
            "pip install 'geo4d-bench[svd]'"
        ) from None
    return transformers
