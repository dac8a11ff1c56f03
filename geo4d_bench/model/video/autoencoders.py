"""Images to latents and back: frozen autoencoders, or cells of pixels where a model is trained from scratch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from geo4d_bench.errors import TrainingError
from geo4d_bench.model.checkpoint import load_optimizer_state, optimizer_state

LABELS, RGB, POINTS = 0, 1, 2
"""The streams, images of three channels each: part labels and validity (see ``labels.py``), colours in -1..1, and
points normalised to about -1..1."""
_CHUNK = 8  # images encoded together: 256 x 320 ones fill memory fast
_LEARNING_RATE = 1e-5  # of the pointmap autoencoder's fine-tuning


class Autoencoders(nn.Module):
    """Stable Video Diffusion's autoencoder for colours and labels, and a copy of it for pointmaps, both frozen.

    Attributes:
        scale: the diffusion works on latents times this.
    """

    def __init__(self, rgb: AutoencoderKLTemporalDecoder) -> None:
        super().__init__()
        self.images, self.points = rgb, copy.deepcopy(rgb)
        self.scale = float(rgb.config["scaling_factor"])
        self.channels = int(rgb.config["latent_channels"])
        self.cell = 2 ** (len(rgb.config["block_out_channels"]) - 1)
        self.requires_grad_(False)

    @torch.no_grad()
    def encode(self, stream: int, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) float32 of a stream to unscaled latents (N, C, h, w) float32, the posterior's mode."""
        autoencoder: Any = self.points if stream == POINTS else self.images
        with torch.autocast(images.device.type, enabled=False):  # latents are what training aims at
            parts = torch.split(images.to(autoencoder.dtype), _CHUNK)
            return torch.cat([autoencoder.encode(some).latent_dist.mode() for some in parts]).float()

    @torch.no_grad()
    def decode(self, stream: int, latents: Tensor, frames: int) -> Tensor:
        """Images (N, 3, H, W) of latents (N, C, h, w), each ``frames`` of which are one video."""
        autoencoder: Any = self.points if stream == POINTS else self.images
        return torch.cat(
            [autoencoder.decode(video, num_frames=frames).sample for video in torch.split(latents, frames)]
        )

    def known(self, valid: Tensor) -> Tensor:
        """(N, C, h, w) float32 share of a latent's cell that is valid (N, 1, H, W): what it weighs in the loss.

        Partly valid cells count: holes lie along silhouettes, where the hands are.
        """
        return F.avg_pool2d(valid.float(), self.cell).expand(-1, self.channels, -1, -1)

    def fit_pointmaps(
        self, videos: Iterable[tuple[Tensor, Tensor]], state: dict[str, Tensor]
    ) -> list[dict[str, float]]:
        """Fine-tune the pointmap autoencoder, one Adam step a video batch, and freeze it again.

        The loss is the L1 distance under a learned scale b, |x' - x| / b + log b (as in latent diffusion, Rombach et
        al. 2022), of valid pixels alone.

        Args:
            videos: normalised pointmaps (N, T, 3, H, W) with anything finite where invalid, and which pixels are valid
                (N, T, 1, H, W).
            state: ``log_scale`` and Adam's moments, by ``<parameter>/<moment>``, as an earlier call left them here to
                continue from, or empty; this call leaves its own.

        Returns:
            For every step ``loss`` and ``l1``, the mean distance before it.

        Raises:
            TrainingError: the loss is not finite.
        """
        autoencoder: Any = self.points.requires_grad_(True)
        log_scale = nn.Parameter(torch.zeros((), device=next(self.parameters()).device))
        optimizer = torch.optim.Adam([*autoencoder.parameters(), log_scale], _LEARNING_RATE)
        if state:
            log_scale.data.copy_(state.pop("log_scale"))
            load_optimizer_state(optimizer, state)
        autoencoder.enable_gradient_checkpointing()
        rows = []
        for points, valid in videos:
            optimizer.zero_grad()
            count = valid.sum().clamp(min=1) * 3
            total = torch.zeros((), device=count.device)
            # A video at a time: ten frames at full size are as much as fits into memory.
            for images, counted in zip(points, valid.expand_as(points), strict=True):
                found = autoencoder.decode(autoencoder.encode(images).latent_dist.mode(), num_frames=len(images)).sample
                distance = (found - images)[counted].abs().sum() / count
                (distance / log_scale.detach().exp()).backward()
                total += distance.detach()
            loss = total / log_scale.exp() + log_scale
            loss.backward()  # type: ignore[no-untyped-call]
            rows.append({"loss": float(loss.detach()), "l1": float(total)})
            if not math.isfinite(rows[-1]["loss"]):
                step = int(optimizer.state[log_scale].get("step", 0)) + 1
                raise TrainingError(
                    f"the autoencoder's loss is {rows[-1]['loss']:g} at step {step} (learning rate {_LEARNING_RATE:g}, "
                    f"{len(points)} videos a batch), so that it is not fitted any further: look for the cause in the "
                    "data with 'geo4d-bench verify', and in the pretrained weights"
                )
            optimizer.step()
        autoencoder.disable_gradient_checkpointing()
        autoencoder.requires_grad_(False)
        autoencoder.zero_grad(set_to_none=True)
        state |= optimizer_state(optimizer) | {"log_scale": log_scale.detach()}
        return rows


def inpaint(points: Tensor, valid: Tensor) -> Tensor:
    """Points (N, 3, H, W), all finite, with those that are not ``valid`` (N, 1, H, W) bool replaced by the mean over
    the smallest square of 2, 4, 8 ... pixels, on a fixed grid, that has a valid one; 0 in an image that has none.

    An autoencoder mixes neighbours: anything else in a hole would change the latents of the surface beside it.
    """
    height, width = points.shape[-2:]
    known, size = valid.float(), 1
    found = points * known
    result, missing = found, ~valid
    while size < max(height, width):
        size *= 2
        pad = (0, -width % size, 0, -height % size)
        mean, share = (F.avg_pool2d(F.pad(x, pad), size) for x in (found, known))
        wide = F.interpolate(mean / share.clamp(min=1e-12), scale_factor=size)[..., :height, :width]
        here = missing & (F.interpolate(share, scale_factor=size)[..., :height, :width] > 0)
        result, missing = torch.where(here, wide, result), missing & ~here
    return result


class Pixels(nn.Module):
    """Cells of patch x patch pixels as latents: exact both ways, for all streams; methods as of `Autoencoders`."""

    scale = 1.0

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def encode(self, stream: int, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.patch)

    def decode(self, stream: int, latents: Tensor, frames: int) -> Tensor:
        return F.pixel_shuffle(latents, self.patch)

    def known(self, valid: Tensor) -> Tensor:
        return F.pixel_unshuffle(valid.float().expand(-1, 3, -1, -1), self.patch)
