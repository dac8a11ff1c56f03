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
from geo4d_bench.model.sprites import CHANNELS, SIZE

_CONDITION_CHANNELS = 8  # rgb, points in the own frame, validity, hand mask
_SCENE_CHANNELS = 3  # the same points in the scene's frame
_NOISY_CHANNELS = 6  # rgb, points in frame n


@dataclass(frozen=True)
class Layers:
    """What the network says, in patches (B, 2, N, channels, T * patch²); N tokens a view, A arms.

    Attributes:
        rgb: 3 channels, the new colour.  depth: 1, the new background depth, normalised.
        keep: 1, logit of "as in the first frame".  valid: 1, what the first frame's
            validity, as a logit, is corrected by.
        parts: 1 + 3 A logits.  hand: (A * 3), points of each hand about its predicted position, in motion units.
        position: (B, 2, A, T, 3) for each view, the hands' predicted motion from where they were, motion units.
        sprites: (B, 2, A, T, 9, 16, 16) pictures of the hands, see :mod:`geo4d_bench.model.sprites`.
        R_n: (B, 2, 3, 3) for each view, from the scene's own axes to camera n's; hand points are turned by it.
        R_n_m: (B, 3, 3), t_n_m: (B, 3) predicted pose of camera m in camera n, of normalised points.
    """

    rgb: Tensor
    depth: Tensor
    keep: Tensor
    valid: Tensor
    parts: Tensor
    hand: Tensor
    position: Tensor
    sprites: Tensor
    R_n: Tensor
    R_n_m: Tensor
    t_n_m: Tensor


class TokenNetwork(nn.Module):
    """First frames, noisy frames and noise level in, :class:`Layers` out."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        area = c.patch * c.patch
        self.embed_condition = nn.Linear((_CONDITION_CHANNELS + _SCENE_CHANNELS) * area, c.dim)
        self.embed_noisy = nn.Linear(_NOISY_CHANNELS * c.frames * area, c.dim)
        self.embed_time = nn.Sequential(nn.Linear(c.dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.embed_hands = nn.Linear(4 * c.arms, c.dim)
        self.embed_thumbnail = Head((_CONDITION_CHANNELS + _SCENE_CHANNELS) * c.tokens, c.dim, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(c.tokens, c.dim))
        self.view = nn.Parameter(0.02 * torch.randn(2, c.dim))
        self.summary = nn.Parameter(0.02 * torch.randn(2, 1, c.dim))
        self.trunk = nn.ModuleList(Block(c.dim, c.heads) for _ in range(c.trunk_layers))
        self.decoder_n = ViewDecoder(c, cross=False)
        self.decoder_m = ViewDecoder(c, cross=c.cross_view_attention)
        # Cameras are placed in a frame of the scene that the network chooses for itself, one view at a time: twelve
        # cameras are learned instead of 132 pairs, and a motion looks the same from all of them. A thumbnail is enough
        # to tell a camera: learned in a hundred steps, where the trunk took thousands.
        # Where both poses are known, that frame is the world's.
        self.camera = None if c.calibrated else Head(_CONDITION_CHANNELS * c.tokens, c.dim, 9)
        self.motion = Head(2 * c.dim + 4 * c.arms, c.dim, c.arms * c.frames * 3)
        self.sprites = Head(c.dim, c.dim, c.arms * c.frames * CHANNELS * SIZE * SIZE)
        nn.init.normal_(self.embed_noisy.weight, std=0.1 * self.embed_noisy.in_features**-0.5)  # mostly pure noise

    def forward(
        self,
        condition: Tensor,
        noisy: Tensor,
        time: Tensor,
        anchor: Tensor,
        opening: Tensor,
        frames: Tensor | None = None,
        cameras: tuple[Tensor, Tensor] | None = None,
    ) -> Layers:
        """Layers of both views.

        Args:
            condition: (B, 2, N, 8, patch²) first frames in patches.
            noisy: (B, 2, N, 6, T * patch²) noisy frames in patches.
            time: (B,) noise level, 0 clean to 1 pure noise.
            anchor: (B, 2, A, 3) where the hands are at first, as far as a view knows it, normalised.
            opening: (B, 2, A) how far they are open at first, about 0 to 1.
            frames: (F,) the frames whose pixels are wanted, all where None; they are most of the work.
            cameras: (B, 2, 3, 3) and (B, 2, 3), known poses of normalised points; None where they are to be told from
                the first frames.
        """
        c, b = self.config, len(condition)
        R, t = self._cameras(condition) if cameras is None else cameras
        in_scene = _move(R.detach(), t.detach(), condition[:, :, :, 3:6]) * condition[:, :, :, 6:7]
        condition = torch.cat([condition, in_scene], 3)
        x = self.embed_condition(condition.flatten(3)) + self.embed_noisy(noisy.flatten(3))
        x = x + self.position + self.view[:, None]
        thumbnail = self.embed_thumbnail(condition.mean(4).flatten(2))  # (B, 2, N * 11) -> (B, 2, D)
        summary = self.summary + (self.embed_hands(torch.cat([anchor.flatten(2), opening], -1)) + thumbnail)[:, :, None]
        x = torch.cat([summary, x], 2)  # (B, 2, 1 + N, D)
        x = x + self.embed_time(_time_features(time, c.dim))[:, None, None]
        joint = (b, -1, c.dim) if c.cross_view_attention else (2 * b, -1, c.dim)
        x = x.reshape(joint)
        for block in self.trunk:
            x = block(x)
        x = x.reshape(b, 2, 1 + c.tokens, c.dim)
        n, states = self.decoder_n(x[:, 0], None)
        m, _ = self.decoder_m(x[:, 1], states if c.cross_view_attention else None)
        return self._layers(n, m, R, t, thumbnail, anchor, opening, frames)

    def _cameras(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, 3, 3) and (B, 2, 3): from each camera's normalised points to the scene's own frame."""
        assert self.camera is not None
        camera = self.camera(condition.mean(4).flatten(2)).float()  # (B, 2, N * 8) -> (B, 2, 9)
        upright = torch.tensor([1.0, 0, 0, 0, 1, 0], device=camera.device)
        return _rotation(camera[..., :6] + upright), camera[..., 6:]

    def _layers(
        self,
        n: Tensor,
        m: Tensor,
        R: Tensor,
        t: Tensor,
        thumbnail: Tensor,
        anchor: Tensor,
        opening: Tensor,
        frames: Tensor | None,
    ) -> Layers:
        c = self.config
        b, a = len(n), c.arms
        pixels = torch.stack([self.decoder_n.pixels(n[:, 1:], frames), self.decoder_m.pixels(m[:, 1:], frames)], 1)
        pixels = pixels.view(b, 2, c.tokens, channels(c), -1)
        # Untrained, the model copies the first frame and shows no hand.
        rgb, depth, keep, valid, parts, hand = torch.split(pixels, [3, 1, 1, 1, c.part_classes, 3 * a], dim=3)
        summary = torch.stack([n[:, 0], m[:, 0]], 1)  # (B, 2, D)
        # Without cross-view attention view m knows nothing of camera n, and takes its frame for the scene's own.
        shared = c.cross_view_attention or c.calibrated
        R_n, t_n = (R[:, :1], t[:, :1]) if shared else _of_n_alone(R, t)
        in_scene = anchor @ R_n.detach().transpose(-1, -2) + t_n.detach()[:, :, None]  # (B, 2, A, 3)
        motion = (
            self.motion(torch.cat([summary, thumbnail, in_scene.flatten(2), opening], -1))
            .float()
            .view(b, 2, a * c.frames, 3)
        )
        if c.cross_view_attention:  # one hand, one place: what the views say of it is brought together
            motion = motion.mean(1, keepdim=True).expand_as(motion)
        sprites = self.sprites(summary)
        R_n = R_n.transpose(-1, -2).expand(b, 2, 3, 3)
        position = (motion @ R_n.transpose(-1, -2)).view(b, 2, a, c.frames, 3)
        return Layers(
            rgb=rgb,
            depth=depth,
            keep=keep + 2.0,
            valid=valid,
            parts=torch.cat([parts[:, :, :, :1] + 3.0, parts[:, :, :, 1:]], 3),
            hand=hand,
            position=position,
            sprites=sprites.float().view(b, 2, a, c.frames, CHANNELS, SIZE, SIZE),
            R_n=R_n,
            R_n_m=R_n[:, 1] @ R[:, 1],
            t_n_m=(R_n[:, 1] @ (t[:, 1] - t_n[:, -1])[..., None])[..., 0],
        )


class ViewDecoder(nn.Module):
    """One view's own blocks and heads; view m's also look at view n's tokens, layer by layer."""

    def __init__(self, c: GeneratorConfig, cross: bool) -> None:
        super().__init__()
        self.config = c
        self.blocks = nn.ModuleList(Block(c.dim, c.heads, cross) for _ in range(c.decoder_layers))
        self.norm = nn.LayerNorm(c.dim)
        self.to_pixels = nn.Linear(c.dim, channels(c) * c.frames * c.patch**2)
        nn.init.normal_(self.to_pixels.weight, std=0.01)
        nn.init.zeros_(self.to_pixels.bias)

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


class Head(nn.Module):
    """Two layers; small until trained, yet not zero: zeros behind zeros learn slowly."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(dim, hidden), nn.Linear(hidden, out)
        nn.init.normal_(self.out.weight, std=0.2 * hidden**-0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        return cast(Tensor, self.out(F.gelu(self.inner(x))))


class Attention(nn.Module):
    """Multi-head attention of queries x (B, L, D) to a context (B, M, D), residual left to the caller."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

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


def _move(R: Tensor, t: Tensor, points: Tensor) -> Tensor:
    """Points (B, 2, N, 3, P) moved by each view's rotation (B, 2, 3, 3) and translation (B, 2, 3)."""
    return torch.einsum("bvij,bvnjp->bvnip", R, points) + t[:, :, None, :, None]


def _of_n_alone(R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """View n's camera (B, 2, 3, 3), (B, 2, 3) for view n, and the scene's own frame for view m."""
    identity = torch.eye(3, device=R.device).expand_as(R[:, 1])
    return torch.stack([R[:, 0], identity], 1), torch.stack([t[:, 0], torch.zeros_like(t[:, 1])], 1)


def _rotation(six: Tensor) -> Tensor:
    """(..., 3, 3) rotations from two rows that need not be orthonormal (..., 6): Zhou et al., CVPR 2019."""
    a, b = six[..., :3], six[..., 3:]
    x = F.normalize(a, dim=-1)
    y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -2)
