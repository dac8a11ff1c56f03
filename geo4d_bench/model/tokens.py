"""The `tokens` backbone: a video transformer with few, fat tokens, a shared trunk and a decoder for each view.

A token is a square of pixels of one view over all T frames, so that two cores see as many windows a second as
possible. What a token says about its pixels is layered: what stays as in the first frame, what is new, and the
hands. Depths are never averaged over a hand's edge, because the hands have points of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.model.config import GeneratorConfig

_CONDITION_CHANNELS = 8  # rgb, points in the own frame, validity, hand mask
_NOISY_CHANNELS = 6  # rgb, points in frame n


@dataclass(frozen=True)
class Layers:
    """What the network says, in patches (B, 2, N, channels, T * patch²); N tokens a view, A arms.

    Attributes:
        rgb: 3 channels, the new colour.  depth: 1, the new background depth, normalised.
        keep: 1, logit of "as in the first frame".  valid: 1, logit.
        parts: 1 + 3 A logits.  hand: (A * 3), points of each hand about its predicted position, in motion units.
        position: (B, 2, A, T, 3) each view's prediction of the hands' motion from where they were, motion units.
        R_n_m: (B, 3, 3), t_n_m: (B, 3) predicted pose of camera m in camera n, translation in metres.
    """

    rgb: Tensor
    depth: Tensor
    keep: Tensor
    valid: Tensor
    parts: Tensor
    hand: Tensor
    position: Tensor
    R_n_m: Tensor
    t_n_m: Tensor


class TokenNetwork(nn.Module):
    """First frames, noisy frames and noise level in, :class:`Layers` out."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        area = c.patch * c.patch
        self.embed_condition = nn.Linear(_CONDITION_CHANNELS * area, c.dim)
        self.embed_noisy = nn.Linear(_NOISY_CHANNELS * c.frames * area, c.dim)
        self.embed_time = nn.Sequential(nn.Linear(c.dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.embed_anchor = nn.Linear(3, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(c.tokens, c.dim))
        self.view = nn.Parameter(0.02 * torch.randn(2, c.dim))
        self.summary = nn.Parameter(0.02 * torch.randn(2, 1, c.dim))
        self.trunk = nn.ModuleList(Block(c.dim, c.heads) for _ in range(c.trunk_layers))
        self.decoder_n = ViewDecoder(c, cross=False)
        self.decoder_m = ViewDecoder(c, cross=c.cross_view_attention)
        self.pose = nn.Linear(c.dim, 9)
        nn.init.normal_(self.embed_noisy.weight, std=0.1 * self.embed_noisy.in_features**-0.5)  # mostly pure noise
        nn.init.zeros_(self.pose.weight)
        with torch.no_grad():
            self.pose.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))

    def forward(
        self, condition: Tensor, noisy: Tensor, time: Tensor, anchor: Tensor, frames: Tensor | None = None
    ) -> Layers:
        """Layers of both views.

        Args:
            condition: (B, 2, N, 8, patch²) first frames in patches.
            noisy: (B, 2, N, 6, T * patch²) noisy frames in patches.
            time: (B,) noise level, 0 clean to 1 pure noise.
            anchor: (B, 2, 3) where the hands are at first, as far as a view knows it, normalised.
            frames: (F,) the frames whose pixels are wanted, all where None; they are most of the work.
        """
        c, b = self.config, len(condition)
        x = self.embed_condition(condition.flatten(3)) + self.embed_noisy(noisy.flatten(3))
        x = x + self.position + self.view[:, None]
        summary = self.summary + self.embed_anchor(anchor)[:, :, None]
        x = torch.cat([summary, x], 2)  # (B, 2, 1 + N, D)
        x = x + self.embed_time(_time_features(time, c.dim))[:, None, None]
        joint = (b, -1, c.dim) if c.cross_view_attention else (2 * b, -1, c.dim)
        x = x.reshape(joint)
        for block in self.trunk:
            x = block(x)
        x = x.reshape(b, 2, 1 + c.tokens, c.dim)
        n, states = self.decoder_n(x[:, 0], None)
        m, _ = self.decoder_m(x[:, 1], states if c.cross_view_attention else None)
        return self._layers(n, m, frames)

    def _layers(self, n: Tensor, m: Tensor, frames: Tensor | None) -> Layers:
        c = self.config
        b, a = len(n), c.arms
        pixels = torch.stack([self.decoder_n.pixels(n[:, 1:], frames), self.decoder_m.pixels(m[:, 1:], frames)], 1)
        pixels = pixels.view(b, 2, c.tokens, channels(c), -1)
        rgb, depth, keep, valid, parts, hand = torch.split(pixels, [3, 1, 1, 1, c.part_classes, 3 * a], dim=3)
        position = torch.stack([self.decoder_n.to_position(n[:, 0]), self.decoder_m.to_position(m[:, 0])], 1)
        pose = self.pose(m[:, 0]).float()
        return Layers(
            rgb=rgb,
            depth=depth,
            keep=keep + 2.0,  # untrained, the model copies the first frame
            valid=valid + 2.0,
            parts=parts,
            hand=hand,
            position=position.float().view(b, 2, a, c.frames, 3),
            R_n_m=_rotation(pose[:, :6]),
            t_n_m=pose[:, 6:],
        )


class ViewDecoder(nn.Module):
    """One view's own blocks and heads; view m's also look at view n's tokens, layer by layer."""

    def __init__(self, c: GeneratorConfig, cross: bool) -> None:
        super().__init__()
        self.config = c
        self.blocks = nn.ModuleList(Block(c.dim, c.heads, cross) for _ in range(c.decoder_layers))
        self.norm = nn.LayerNorm(c.dim)
        self.to_pixels = nn.Linear(c.dim, channels(c) * c.frames * c.patch**2)
        self.to_position = nn.Linear(c.dim, c.arms * c.frames * 3)
        nn.init.normal_(self.to_pixels.weight, std=0.01)
        nn.init.zeros_(self.to_pixels.bias)
        nn.init.zeros_(self.to_position.weight)
        nn.init.zeros_(self.to_position.bias)

    def forward(self, x: Tensor, context: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Normalised tokens (B, 1 + N, D), and the state after every block for the other view to look at."""
        states = []
        for i, block in enumerate(self.blocks):
            x = block(x, None if context is None else context[i])
            states.append(x)
        return self.norm(x), states

    def pixels(self, x: Tensor, frames: Tensor | None) -> Tensor:
        """(B, N, channels * F * patch²) what tokens (B, N, D) say about the pixels of some frames (F,), or of all."""
        weight: Tensor = self.to_pixels.weight
        bias: Tensor = self.to_pixels.bias
        if frames is not None:
            c = self.config
            weight = weight.view(channels(c), c.frames, -1, c.dim)[:, frames].reshape(-1, c.dim)
            bias = bias.view(channels(c), c.frames, -1)[:, frames].flatten()
        return F.linear(x, weight, bias)


class Block(nn.Module):
    """Pre-norm transformer block: attention, cross-view attention where asked for, MLP."""

    def __init__(self, dim: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm_cross = nn.LayerNorm(dim) if cross else None
        self.cross = Attention(dim, heads) if cross else None
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.norm_attention(x)
        x = x + self.attention(h, h)
        if self.cross is not None and self.norm_cross is not None and context is not None:
            x = x + self.cross(self.norm_cross(x), context)
        return cast(Tensor, x + self.mlp(self.norm_mlp(x)))


class Attention(nn.Module):
    """Multi-head attention of queries x (B, L, D) to a context (B, M, D), residual left to the caller."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, length, dim = x.shape
        q = self.query(x).view(b, length, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(context).view(b, -1, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: with so few tokens it is three times as fast on a CPU as scaled_dot_product_attention.
        weights = torch.softmax((q * (dim // self.heads) ** -0.5) @ k.transpose(-1, -2), -1)
        return cast(Tensor, self.out((weights @ v).transpose(1, 2).reshape(b, length, dim)))


def channels(c: GeneratorConfig) -> int:
    """Numbers said about one pixel of one frame: rgb, depth, keep, valid, parts, hand points."""
    return 6 + c.part_classes + 3 * c.arms


def _time_features(time: Tensor, dim: int) -> Tensor:
    """(B, dim) sines and cosines of a noise level (B,) in 0..1."""
    frequency = torch.exp(torch.linspace(0.0, math.log(100.0), dim // 2, device=time.device))
    angle = time[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)


def _rotation(six: Tensor) -> Tensor:
    """(B, 3, 3) rotations from two rows that need not be orthonormal (B, 6): Zhou et al., CVPR 2019."""
    a, b = six[:, :3], six[:, 3:]
    x = F.normalize(a, dim=-1)
    y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], 1)
