"""Two families of diffusion behind one interface: a noise level, how noise is added, what the network's output means.

``EDM`` is that of Stable Video Diffusion (Karras et al. 2022, https://arxiv.org/abs/2206.00364, with v-prediction), for
its weights; ``RectifiedFlow`` is for models trained from scratch, which need one to eight steps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from geo4d_bench.errors import ConfigError

FAMILIES = ("edm", "rectified_flow")


class Diffusion(Protocol):
    """A family of noise levels. Levels are (B,) float32 unless said otherwise; x, z and noise are (B, ...)."""

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        """(size,) noise levels to train at."""
        ...

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Clean ``z`` as it looks at a level."""
        ...

    def network_input(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is given for noisy ``x``: of about unit variance, and the level (B,) as it is told."""
        ...

    def denoised(self, output: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """The clean z that the network's ``output`` for noisy ``x`` stands for."""
        ...

    def loss_weight(self, level: Tensor) -> Tensor:
        """(B,) weight of the squared error of the clean z."""
        ...

    def sampling_levels(self, steps: int) -> Tensor:
        """(steps + 1,) falling noise levels, the last one 0."""
        ...

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        """Where sampling begins; ``level`` is the first of :meth:`sampling_levels`, 0-dimensional."""
        ...


def sample(diffusion: Diffusion, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Euler steps from noise to a clean sample of the same shape (B, ...).

    Both families move along (x - z) / level: for rectified flow that is the velocity, noise - z.

    Args:
        diffusion: the family.
        denoise: noisy x (B, ...) and level (B,) to the clean z it takes it for.
        noise: of unit variance.
        steps: at least 1; so often is ``denoise`` called.
    """
    levels = diffusion.sampling_levels(steps).to(noise.device)
    x = diffusion.start(noise, levels[0])
    for level, following in pairwise(levels):
        direction = (x - denoise(x, level.expand(len(x)))) / level
        x = x + direction * (following - level)
    return x


class EDM:
    """x = z + s noise with the level s; the network predicts v. The numbers are Stable Video Diffusion's."""

    sigma_min: ClassVar[float] = 0.002
    sigma_max: ClassVar[float] = 700.0
    rho: ClassVar[float] = 7.0
    log_mean: ClassVar[float] = 1.0
    log_std: ClassVar[float] = 1.6

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        return (self.log_mean + self.log_std * torch.randn(size, generator=rng)).exp()

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return z + _like(level, z) * noise

    def network_input(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return x / (_like(level, x) ** 2 + 1).sqrt(), 0.25 * level.log()

    def denoised(self, output: Tensor, x: Tensor, level: Tensor) -> Tensor:
        s = _like(level, x)
        return output * (-s / (s**2 + 1).sqrt()) + x / (s**2 + 1)

    def loss_weight(self, level: Tensor) -> Tensor:
        return (level**2 + 1) / level**2

    def sampling_levels(self, steps: int) -> Tensor:
        high, low = (s ** (1 / self.rho) for s in (self.sigma_max, self.sigma_min))
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1)]).float()

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        return noise * (level**2 + 1).sqrt()


class RectifiedFlow:
    """x = (1 - t) z + t noise with the level t in 0..1 (Liu et al. 2022, https://arxiv.org/abs/2209.03003).

    The network predicts z itself: with little training and fat cells that is far easier to learn than the velocity,
    which would have it carry the noise through.
    """

    pure_noise_share: ClassVar[float] = 0.7
    """Share of the training samples at t = 1, where one-step generation works; the others are logit-normal."""

    def draw_levels(self, size: int, rng: torch.Generator) -> Tensor:
        inner = torch.sigmoid(torch.randn(size, generator=rng))
        pure = torch.rand(size, generator=rng) < self.pure_noise_share
        return torch.where(pure, torch.ones(size), inner)

    def add_noise(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return torch.lerp(z, noise, _like(level, z))

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


def make_diffusion(family: str) -> Diffusion:
    """The family of that name; ConfigError where there is none."""
    if family == "edm":
        return EDM()
    if family == "rectified_flow":
        return RectifiedFlow()
    raise ConfigError(f"diffusion '{family}', expected {' or '.join(FAMILIES)}")


def _like(level: Tensor, x: Tensor) -> Tensor:
    """(B,) to (B, 1, ...) with as many dimensions as x."""
    return level.view(-1, *[1] * (x.ndim - 1))
