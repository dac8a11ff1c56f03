"""The `tokens` backbone: a video transformer with few, fat tokens, a shared trunk and a decoder for each view.

A token is a square of pixels of one view over all T frames, so that two cores see as many windows a second as
possible. What it says of one frame, it says when told where the hands are in that frame. That is layered: what stays as
in the first frame, what hands take along, what is new, and the hands. Depths are never averaged over a hand's edge,
because the hands have points of their own.

View n is the reference; every further view is told by view m's weights.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from geo4d_bench.model.blocks import Block, Head
from geo4d_bench.model.layered.condition import metres
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import Layers
from geo4d_bench.model.layered.scene import OPENING_SCALE_M, Hands
from geo4d_bench.model.layered.sprites import CHANNELS, CLOUD_POINTS, SIZE, HandClouds, pictures
from geo4d_bench.model.layered.trajectory import CONDITION_CHANNELS, Poses, in_scene
from geo4d_bench.model.layered.warp import NUMBERS, AttachmentMask

_SCENE_CHANNELS = 3  # the points of the condition, in the scene's frame
NOISY_CHANNELS = 6  # rgb, points in frame n
_WAY_NUMBERS = 15  # beside a patch's middle (2), near it (2), depth, moved since the start (3), turned (6), opening


class TokenNetwork(nn.Module):
    """First frames, noisy frames and noise level in, :class:`Layers` out."""

    hand_points: Tensor
    hand_rgb: Tensor
    hand_part: Tensor
    hand_axis: Tensor

    def __init__(self, config: LayeredConfig) -> None:
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
        self.rides = AttachmentMask(c, CONDITION_CHANNELS + _SCENE_CHANNELS + c.arms) if c.predicts_trajectory else None
        # One frame's picture of the hands, from how they are turned, where they are and how far they are open.
        self.sprites = (
            Head(c.dim + 13 * c.arms, c.dim, c.arms * CHANNELS * SIZE * SIZE) if c.predicts_trajectory else None
        )
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
        hands: Hands | None,
        rays: Tensor,
        frames: Tensor | None = None,
    ) -> Layers:
        """Layers of V views, the reference first.

        Args:
            condition: (B, V, N, 8, patch²) first frames in patches.
            noisy: (B, V, N, 6, T * patch²) noisy frames in patches.
            time: (B,) noise level, 0 clean to 1 pure noise.
            anchor: (B, V, A, 3) where the hands are at first, as far as a view knows it, normalised.
            opening: (B, V, A) how far they are open at first, about 0 to 1.
            cameras: of the views in the scene.
            hands: of all T frames, in each view's own frame, to draw and to tell tokens of; None where there are no
                points to place them by.
            rays: (B, V, N, 3, 1, patch²) of the pixels, z = 1.
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
        chosen = torch.arange(c.frames, device=x.device) if frames is None else frames
        way = None if hands is None else _way(c, hands, rays, chosen)  # (B, V, N, F, A * 15)
        n, states = self.decoder_n(x[:, 0], None)
        summary, said = [n[:, :1]], [self.decoder_n.say(n[:, 1:], chosen, None if way is None else way[:, 0])]
        if views > 1:
            context = [s.repeat_interleave(views - 1, 0) for s in states] if c.cross_view_attention else None
            m, _ = self.decoder_m(x[:, 1:].flatten(0, 1), context)
            summary.append(m[:, 0].view(b, views - 1, c.dim))
            said.append(self.decoder_m.say(m[:, 1:], chosen, None if way is None else way[:, 1:].flatten(0, 1)))
        pixels, carried = (
            torch.cat([s.reshape(b, -1, *s.shape[1:]) for s in both], 1) for both in zip(*said, strict=True)
        )
        # Untrained, the model copies the first frame and shows no hand.
        rgb, depth, keep, valid, parts, hand = torch.split(pixels, [3, 1, 1, 1, c.part_classes, 3 * c.arms], dim=3)
        return Layers(
            rgb=rgb,
            depth=depth,
            keep=keep + 2.0,
            valid=valid,
            parts=torch.cat([parts[:, :, :, :1] + 3.0, parts[:, :, :, 1:]], 3),
            hand=hand,
            carried=carried,
            rides=None if hands is None else self._rides(condition, x[:, :, 1:], hands),
            sprites=None if hands is None else self._sprites(torch.cat(summary, 1), hands, chosen),
        )

    def set_gripper_template(self, clouds: HandClouds) -> None:
        """Draw hands that look like this from now on; it is kept with the weights."""
        for name, value in vars(clouds).items():
            getattr(self, f"hand_{name}").copy_(value)

    def _rides(self, condition: Tensor, tokens: Tensor, hands: Hands) -> Tensor:
        """(B, V, N, A, patch²) logits: what of the first frames goes with a hand; its distance from it helps."""
        assert self.rides is not None
        away = condition[:, :, :, None, 3:6] - hands.start.detach()[:, :, None, :, :, None]  # (B, V, N, A, 3, patch²)
        return cast(Tensor, self.rides(torch.cat([condition, away.square().sum(4).sqrt()], 3), tokens))

    def _sprites(self, summary: Tensor, hands: Hands, frames: Tensor) -> Tensor:
        """(B, V, A, F, 9, S, S) pictures of the hands, given in each view's own frame."""
        assert self.sprites is not None
        c, (b, views) = self.config, summary.shape[:2]
        position, turned, opening = (x[:, :, :, frames] for x in (hands.position, hands.rotation, hands.opening))
        state = torch.cat([turned.flatten(-2), position, opening[..., None]], -1)
        state = state.transpose(2, 3).flatten(3).detach()  # (B, V, F, A * 13)
        told = torch.cat([summary[:, :, None].expand(-1, -1, state.shape[2], -1), state], -1)
        drawn = self.sprites(told).float().view(b, views, -1, c.arms, CHANNELS, SIZE, SIZE)
        with torch.no_grad():
            start = pictures(
                HandClouds(self.hand_points, self.hand_rgb, self.hand_part, self.hand_axis), turned,
                metres(c, position, 4), OPENING_SCALE_M * opening, c.motion_scale_m,
            )  # fmt: skip
        return cast(Tensor, start + drawn.transpose(2, 3))


class ViewDecoder(nn.Module):
    """One view's own blocks and heads; view m's also look at view n's tokens, layer by layer."""

    def __init__(self, c: LayeredConfig, cross: bool) -> None:
        super().__init__()
        self.config = c
        self.blocks = nn.ModuleList(Block(c.dim, c.heads, cross) for _ in range(c.decoder_layers))
        self.norm = nn.LayerNorm(c.dim)
        # One frame's pixels, from what is known of all of them and where the hands are in this one: how what moves with
        # a hand looks is learned once, not anew for every frame.
        self.frame = nn.Parameter(0.02 * torch.randn(c.frames, c.dim))
        self.embed_way = nn.Linear(_WAY_NUMBERS * c.arms, c.dim) if c.predicts_trajectory else None
        self.mix = Head(c.dim, 2 * c.dim, c.dim)
        self.norm_frame = nn.LayerNorm(c.dim)
        self.to_pixels = nn.Linear(c.dim, channels(c) * c.patch**2 + NUMBERS * c.arms)
        nn.init.normal_(self.to_pixels.weight, std=0.01)
        nn.init.zeros_(self.to_pixels.bias)

    def share(self, other: ViewDecoder) -> None:
        """Use the other decoder's weights, all but those of cross-view attention."""
        for mine, its in zip(self.blocks, other.blocks, strict=True):
            for name in ("norm_attention", "attention", "norm_mlp", "mlp"):
                setattr(mine, name, getattr(its, name))
        for name in ("norm", "frame", "embed_way", "mix", "norm_frame", "to_pixels"):
            setattr(self, name, getattr(other, name))

    def forward(self, x: Tensor, context: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Normalised tokens (B, 1 + N, D), and the state after every block for the other view to look at."""
        states = []
        for i, block in enumerate(self.blocks):
            x = block(x, None if context is None else context[i])
            states.append(x)
        return self.norm(x), states

    def say(self, x: Tensor, frames: Tensor, way: Tensor | None) -> tuple[Tensor, Tensor]:
        """What tokens (B, N, D) say about some frames (F,), given the hands' way (B, N, F, A * 15) in them: of
        each pixel (B, N, channels, F * patch²), and of the whole patch (B, N, A * 3, F)."""
        c = self.config
        h = x[:, :, None] + self.frame[frames]  # (B, N, F, D)
        if self.embed_way is not None and way is not None:
            h = h + self.embed_way(way)
        said = self.to_pixels(self.norm_frame(h + self.mix(h)))
        pixels, patches = said.split([channels(c) * c.patch**2, NUMBERS * c.arms], -1)
        return pixels.unflatten(3, (channels(c), -1)).transpose(2, 3).flatten(3), patches.transpose(2, 3)


def channels(c: LayeredConfig) -> int:
    """Numbers said about one pixel of one frame: rgb, depth, keep, valid, parts, hand points."""
    return 6 + c.part_classes + 3 * c.arms


def _way(c: LayeredConfig, hands: Hands, rays: Tensor, frames: Tensor) -> Tensor:
    """(B, V, N, F, A * 15) where hands, in each view's own frame, are in every frame, as seen from a patch's middle."""
    position, turned, opening = (x[:, :, :, frames] for x in (hands.position, hands.rotation, hands.opening))
    place_m = metres(c, position, 4)  # (B, V, A, F, 3)
    middle = rays.mean((4, 5))[:, :, :, None, None, :2]  # (B, V, N, 1, 1, 2)
    beside = (place_m[..., :2] / place_m[..., 2:].clamp(min=0.1))[:, :, None] - middle  # (B, V, N, A, F, 2)
    far = beside.square().sum(-1, keepdim=True)
    moved = position - hands.start[:, :, :, None]
    same = torch.cat([position[..., 2:], moved, turned[..., :2, :].flatten(-2), opening[..., None]], -1)[:, :, None]
    told = torch.cat([4.0 * beside, (-8.0 * far).exp(), (-64.0 * far).exp(), same.expand(*far.shape[:-1], -1)], -1)
    return told.detach().transpose(3, 4).flatten(4)


def _time_features(time: Tensor, dim: int) -> Tensor:
    """(B, dim) sines and cosines of a noise level (B,) in 0..1."""
    frequency = torch.exp(torch.linspace(0.0, math.log(100.0), dim // 2, device=time.device))
    angle = time[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
