"""The `tokens` backbone: a video transformer with few, fat tokens, a shared trunk and a decoder for each view.

A token is a square of pixels of one view over all T frames, so that two cores see as many windows a second as
possible. What a token says about its pixels is layered: what stays as in the first frame, what is new, and the
hands. Depths are never averaged over a hand's edge, because the hands have points of their own.

View n is the reference; every further view is told by view m's weights.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.model.blocks import Block, Head, product
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.foresight import CONDITION_CHANNELS, Poses, in_scene
from geo4d_bench.model.layers import Layers
from geo4d_bench.model.scene import OPENING_SCALE_M, Hands
from geo4d_bench.model.sprites import CHANNELS, CLOUD_POINTS, SIZE, HandClouds, pictures

_SCENE_CHANNELS = 3  # the points of the condition, in the scene's frame
NOISY_CHANNELS = 6  # rgb, points in frame n


class TokenNetwork(nn.Module):
    """First frames, noisy frames and noise level in, :class:`Layers` out."""

    hand_points: Tensor
    hand_rgb: Tensor
    hand_part: Tensor
    hand_axis: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        area = c.patch * c.patch
        self.embed_condition = nn.Linear((CONDITION_CHANNELS + _SCENE_CHANNELS) * area, c.dim)
        self.embed_noisy = nn.Linear(NOISY_CHANNELS * c.frames * area, c.dim)
        self.embed_time = nn.Sequential(nn.Linear(c.dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.embed_hands = nn.Linear(4 * c.arms, c.dim)
        self.embed_thumbnail = Head((CONDITION_CHANNELS + _SCENE_CHANNELS) * c.tokens, c.dim, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(c.tokens, c.dim))
        self.view = nn.Parameter(0.02 * torch.randn(2, c.dim))
        self.summary = nn.Parameter(0.02 * torch.randn(2, 1, c.dim))
        self.trunk = nn.ModuleList(Block(c.dim, c.heads) for _ in range(c.trunk_layers))
        self.decoder_n = ViewDecoder(c, cross=False)
        self.decoder_m = ViewDecoder(c, cross=c.cross_view_attention)
        if c.shared_decoders:
            self.decoder_m.share(self.decoder_n)
        # One frame's picture of the hands, from how they are turned, where they are and how far they are open.
        self.sprites = Head(c.dim + 13 * c.arms, c.dim, c.arms * CHANNELS * SIZE * SIZE) if c.foresees else None
        self.register_buffer("hand_points", torch.zeros(c.arms, CLOUD_POINTS, 3))
        self.register_buffer("hand_rgb", torch.zeros(c.arms, CLOUD_POINTS, 3))
        self.register_buffer("hand_part", torch.full((c.arms, CLOUD_POINTS), -1.0))
        self.register_buffer("hand_axis", torch.zeros(c.arms, 3))
        nn.init.normal_(self.embed_noisy.weight, std=0.1 * self.embed_noisy.in_features**-0.5)  # mostly pure noise

    def forward(
        self,
        condition: Tensor,
        noisy: Tensor,
        time: Tensor,
        anchor: Tensor,
        opening: Tensor,
        cameras: Poses,
        in_n: Poses,
        hands: Hands | None,
        frames: Tensor | None = None,
    ) -> Layers:
        """Layers of V views, the reference first.

        Args:
            condition: (B, V, N, 8, patch²) first frames in patches.
            noisy: (B, V, N, 6, T * patch²) noisy frames in patches.
            time: (B,) noise level, 0 clean to 1 pure noise.
            anchor: (B, V, A, 3) where the hands are at first, as far as a view knows it, normalised.
            opening: (B, V, A) how far they are open at first, about 0 to 1.
            cameras: of the views in the scene.  in_n: in camera n's frame.
            hands: to draw, in camera n's frame; None where there are no points to place them by.
            frames: (F,) the frames whose pixels are wanted, all where None; they are most of the work.
        """
        c, (b, views) = self.config, condition.shape[:2]
        condition = torch.cat([condition, in_scene(condition, cameras)], 3)
        which = torch.tensor([0] + [1] * (views - 1), device=condition.device)
        x = self.embed_condition(condition.flatten(3)) + self.embed_noisy(noisy.flatten(3))
        x = x + self.position + self.view[which][:, None]
        thumbnail = self.embed_thumbnail(condition.mean(4).flatten(2))  # (B, V, N * 11) -> (B, V, D)
        told = self.embed_hands(torch.cat([anchor.flatten(2), opening], -1)) + thumbnail
        x = torch.cat([self.summary[which] + told[:, :, None], x], 2)  # (B, V, 1 + N, D)
        x = x + self.embed_time(_time_features(time, c.dim))[:, None, None]
        x = x.reshape((b, -1, c.dim) if c.cross_view_attention else (views * b, -1, c.dim))
        for block in self.trunk:
            x = block(x)
        x = x.reshape(b, views, 1 + c.tokens, c.dim)
        n, states = self.decoder_n(x[:, 0], None)
        summary, pixels = [n[:, :1]], [self.decoder_n.pixels(n[:, 1:], frames)]
        if views > 1:
            context = [s.repeat_interleave(views - 1, 0) for s in states] if c.cross_view_attention else None
            m, _ = self.decoder_m(x[:, 1:].flatten(0, 1), context)
            summary.append(m[:, 0].view(b, views - 1, c.dim))
            pixels.append(self.decoder_m.pixels(m[:, 1:], frames))
        said = torch.cat([p.view(b, -1, c.tokens, channels(c), p.shape[-1] // channels(c)) for p in pixels], 1)
        # Untrained, the model copies the first frame and shows no hand.
        rgb, depth, keep, valid, parts, hand = torch.split(said, [3, 1, 1, 1, c.part_classes, 3 * c.arms], dim=3)
        return Layers(
            rgb=rgb,
            depth=depth,
            keep=keep + 2.0,
            valid=valid,
            parts=torch.cat([parts[:, :, :, :1] + 3.0, parts[:, :, :, 1:]], 3),
            hand=hand,
            sprites=None if hands is None else self._sprites(torch.cat(summary, 1), hands, in_n, frames),
        )

    def show_hands(self, clouds: HandClouds) -> None:
        """Draw hands that look like this from now on; it is kept with the weights."""
        for name, value in vars(clouds).items():
            getattr(self, f"hand_{name}").copy_(value)

    def _sprites(self, summary: Tensor, hands: Hands, in_n: Poses, frames: Tensor | None) -> Tensor:
        """(B, V, A, F, 9, S, S) pictures of the hands in each view's own frame."""
        assert self.sprites is not None
        c, (b, views) = self.config, summary.shape[:2]
        to_own = in_n.R.transpose(-1, -2)[:, :, None, None]  # (B, V, 1, 1, 3, 3)
        offset = hands.position.expand(b, views, -1, -1, -1) - in_n.t[:, :, None, None]
        position = product(to_own, offset[..., None])[..., 0]
        turned = product(to_own, hands.rotation.expand(b, views, -1, -1, -1, -1))
        opening = hands.opening.expand(b, views, -1, -1)
        if frames is not None:
            position, turned, opening = position[:, :, :, frames], turned[:, :, :, frames], opening[:, :, :, frames]
        state = torch.cat([turned.flatten(-2), position, opening[..., None]], -1)
        state = state.transpose(2, 3).flatten(3).detach()  # (B, V, F, A * 13)
        told = torch.cat([summary[:, :, None].expand(-1, -1, state.shape[2], -1), state], -1)
        drawn = self.sprites(told).float().view(b, views, -1, c.arms, CHANNELS, SIZE, SIZE)
        with torch.no_grad():
            mean = torch.tensor(c.point_mean_m, device=position.device)
            start = pictures(
                HandClouds(self.hand_points, self.hand_rgb, self.hand_part, self.hand_axis), turned,
                c.point_scale_m * position + mean, OPENING_SCALE_M * opening, c.motion_scale_m,
            )  # fmt: skip
        return cast(Tensor, start + drawn.transpose(2, 3))


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

    def share(self, other: ViewDecoder) -> None:
        """Use the other decoder's weights, all but those of cross-view attention."""
        for mine, its in zip(self.blocks, other.blocks, strict=True):
            for name in ("norm_attention", "attention", "norm_mlp", "mlp"):
                setattr(mine, name, getattr(its, name))
        self.norm, self.to_pixels = other.norm, other.to_pixels

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


def channels(c: GeneratorConfig) -> int:
    """Numbers said about one pixel of one frame: rgb, depth, keep, valid, parts, hand points."""
    return 6 + c.part_classes + 3 * c.arms


def _time_features(time: Tensor, dim: int) -> Tensor:
    """(B, dim) sines and cosines of a noise level (B,) in 0..1."""
    frequency = torch.exp(torch.linspace(0.0, math.log(100.0), dim // 2, device=time.device))
    angle = time[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
