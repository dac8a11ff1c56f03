"""Two families of diffusion: how noise is added, and what the network's output means.

``EDM`` is that of Stable Video Diffusion (Karras et al. 2022, https://arxiv.org/abs/2206.00364, with v-prediction), for
its weights; ``RectifiedFlow`` is for models trained from scratch, which need one to eight steps. Noise levels are (B,)
float32; noisy x, clean z and noise are (B, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def sample(diffusion: Diffusion, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Euler steps from noise of unit variance to a clean sample of the same shape (B, ...).

    ``denoise`` estimates clean z from noisy x (B, ...) and level (B,). Both families move along (x - z) / level: for
    rectified flow that is the velocity, noise - z.
    """
    levels = diffusion.sampling_levels(steps).to(noise.device, non_blocking=True)
    x = diffusion.start(noise, levels[0])
    for level, following in pairwise(levels):
        direction = (x - denoise(x, level.expand(len(x)))) / level
        x = x + direction * (following - level)
    return x


class EDM:
    """x = z + s noise with the level s; the network predicts v. The numbers are Stable Video Diffusion's."""

    sigma_min, sigma_max, rho = 0.002, 700.0, 7.0
    log_mean, log_std = 1.0, 1.6

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        """(size,) noise levels to train at, on the device of ``rng``."""
        return (self.log_mean + self.log_std * torch.randn(size, generator=rng, device=rng.device)).exp()

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return z + expand_as(level, z) * noise

    def network_input(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """x scaled to about unit variance, and the level (B,) as the network is given it."""
        return x / (expand_as(level, x) ** 2 + 1).sqrt(), 0.25 * level.log()

    def denoised(self, output: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """The clean z that the network's ``output`` for noisy ``x`` stands for."""
        s = expand_as(level, x)
        return output * (-s / (s**2 + 1).sqrt()) + x / (s**2 + 1)

    def loss_weight(self, level: Tensor) -> Tensor:
        """(B,) weight of the squared error of the clean z."""
        return (level**2 + 1) / level**2

    def sampling_levels(self, steps: int) -> Tensor:
        """(steps + 1,) falling noise levels, the last one 0."""
        high, low = (s ** (1 / self.rho) for s in (self.sigma_max, self.sigma_min))
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1)]).float()

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        """Where sampling begins; ``level`` is the first of :meth:`sampling_levels`, 0-dimensional."""
        return noise * (level**2 + 1).sqrt()


class RectifiedFlow:
    """x = (1 - t) z + t noise with the level t in 0..1 (Liu et al. 2022, https://arxiv.org/abs/2209.03003).

    The network predicts z itself: with little training and large cells that is far easier to learn than the velocity,
    which contains the noise. The methods are those of :class:`EDM`.
    """

    def __init__(self, pure_noise_share: float = 0.7) -> None:
        """``pure_noise_share`` of the training samples are at t = 1, where one-step generation works; the others'
        levels are logit-normal."""
        self.pure_noise_share = pure_noise_share

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        inner = torch.sigmoid(torch.randn(size, generator=rng, device=rng.device))
        pure = torch.rand(size, generator=rng, device=rng.device) < self.pure_noise_share
        return torch.where(pure, torch.ones_like(inner), inner)

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return torch.lerp(z, noise, expand_as(level, z))

    def network_input(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return x, 1000.0 * level

    def denoised(self, output: Tensor, x: Tensor, level: Tensor) -> Tensor:
        return output

    def loss_weight(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)

    def sampling_levels(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1)

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        return noise


Diffusion = EDM | RectifiedFlow


def expand_as(values: Tensor, x: Tensor) -> Tensor:
    """(B,) to (B, 1, ...) with as many dimensions as x."""
    return values.view(-1, *[1] * (x.ndim - 1))
