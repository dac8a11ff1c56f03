"""Two families of diffusion: how noise is added, and what the network's output means.

``EDM`` is that of Stable Video Diffusion (Karras et al. 2022, https://arxiv.org/abs/2206.00364, with v-prediction), for
its weights; ``RectifiedFlow`` is for models trained from scratch, which need one to eight steps. Noise levels are (B,
V) float32, one for each view; noisy x, clean z and noise are (B, V, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def sample(diffusion: Diffusion, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Euler steps from noise of unit variance to a clean sample of the same shape (B, V, ...).

    ``denoise`` estimates clean z from noisy x (B, V, ...) and levels (B, V). Both families move along (x - z) / level:
    for rectified flow that is the velocity, noise - z.
    """
    batch, views = noise.shape[:2]
    of_n, of_m = diffusion.sampling_levels(steps).to(noise.device)
    levels = torch.stack([of_n, *[of_m] * (views - 1)]).expand(batch, -1, -1)  # (B, V, steps + 1)
    x = diffusion.start(noise, levels[..., 0])
    for level, following in pairwise(levels.unbind(-1)):
        direction = (x - denoise(x, level)) / expand_as(level, x)
        x = x + direction * expand_as(following - level, x)
    return x


class EDM:
    """x = z + s noise with the level s; the network predicts v. The numbers are Stable Video Diffusion's."""

    sigma_min, sigma_max, rho = 0.002, 700.0, 7.0
    log_mean, log_std = 1.0, 1.6

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        """(size, 2) noise levels of both views to train at, on the device of ``rng``."""
        log = self.log_mean + self.log_std * torch.randn(size, generator=rng, device=rng.device)
        return log.exp()[:, None].expand(-1, 2)

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return z + expand_as(level, z) * noise

    def network_input(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """x scaled to about unit variance, and the level (B, V) as the network is given it."""
        return x / (expand_as(level, x) ** 2 + 1).sqrt(), 0.25 * level.log()

    def denoised(self, output: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """The clean z that the network's ``output`` for noisy ``x`` stands for."""
        s = expand_as(level, x)
        return output * (-s / (s**2 + 1).sqrt()) + x / (s**2 + 1)

    def loss_weight(self, level: Tensor) -> Tensor:
        """(B, V) weight of the squared error of the clean z."""
        return (level**2 + 1) / level**2

    def sampling_levels(self, steps: int) -> Tensor:
        """(2, steps + 1) falling noise levels of view n and further views, the last ones 0."""
        high, low = (s ** (1 / self.rho) for s in (self.sigma_max, self.sigma_min))
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1)]).float().expand(2, -1)

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        """Where sampling begins, at the first levels (B, V) of :meth:`sampling_levels`."""
        return noise * (expand_as(level, noise) ** 2 + 1).sqrt()


class RectifiedFlow:
    """x = (1 - t) z + t noise with the level t in 0..1 (Liu et al. 2022, https://arxiv.org/abs/2209.03003).

    The network predicts z itself: with little training and large cells that is far easier to learn than the velocity,
    which contains the noise. View n is denoised ahead of the others, which see how it turns out and follow; levels of
    their own are from Diffusion Forcing (Chen et al. 2024, https://arxiv.org/abs/2407.01392). The methods are those of
    :class:`EDM`.
    """

    data_std = 0.5
    """Of latents z, taken to be the same for all streams."""
    last_level = 0.5
    """Of the last of several steps, which leaps to z. At lower ones the network, which has seen few of them, blurs what
    it has decided (docs/experiments/geo4d.md)."""

    def __init__(self, pure_noise_share: float = 0.7) -> None:
        """``pure_noise_share`` of the training samples are at t = 1, where one-step generation works; the others'
        levels are logit-normal."""
        self.pure_noise_share = pure_noise_share

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        of_n = torch.sigmoid(torch.randn(size, generator=rng, device=rng.device))
        further, pure = torch.rand((2, size), generator=rng, device=rng.device)
        both = torch.stack([of_n, torch.lerp(of_n, torch.ones_like(of_n), further)], 1)
        return torch.where((pure < self.pure_noise_share)[:, None], torch.ones_like(both), both)

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return torch.lerp(z, noise, expand_as(level, z))

    def network_input(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What x says of z, the best linear estimate: nothing at t = 1, where noise would drown what is given."""
        t = expand_as(level, x)
        variance = self.data_std**2
        return x * ((1 - t) * variance / ((1 - t).square() * variance + t.square())), 1000.0 * level

    def denoised(self, output: Tensor, x: Tensor, level: Tensor) -> Tensor:
        return output

    def loss_weight(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)

    def sampling_levels(self, steps: int) -> Tensor:
        falling = torch.linspace(1, self.last_level, steps)  # one step: 1
        end = torch.zeros(1)
        of_n = torch.cat([falling, end])
        of_m = torch.cat([torch.ones(1), falling[:-1], end]) if steps > 1 else of_n
        return torch.stack([of_n, of_m])

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        return noise


Diffusion = EDM | RectifiedFlow


def expand_as(values: Tensor, x: Tensor) -> Tensor:
    """(B, ...) to (B, ..., 1, ...) with as many dimensions as x."""
    return values.view(*values.shape, *[1] * (x.ndim - values.ndim))
