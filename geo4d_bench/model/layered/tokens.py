"""A video transformer with few, fat tokens, a shared trunk and a decoder for each view.

A token is a square of pixels of one view over all T frames, for speed on two cores; a frame's pixels are decoded from
it and from where the hands are in that frame, as :class:`Layers`. Depths are never averaged over a hand's edge, because
the hands have points of their own. View n is the reference; view m's weights serve every further view.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from geo4d_bench.model.blocks import Block, Head, constant
from geo4d_bench.model.layered.condition import INPUT_CHANNELS, Condition, points_in_scene
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import NUMBERS, AttachmentMask, Layers
from geo4d_bench.model.layered.poses import OPENING_SCALE_M, Hands, Poses, metres
from geo4d_bench.model.layered.sprites import CHANNELS, CLOUD_POINTS, SIZE, HandClouds, pictures

NOISY_CHANNELS = 6  # rgb, points in frame n
_FIRST_CHANNELS = INPUT_CHANNELS + 3  # and the points in the scene's frame
_MOTION_FEATURES = 15  # beside a patch's middle (2), near it (2), depth, motion (3), rotation (6), opening


class TokenNetwork(nn.Module):
    """First frames, noisy frames and noise level in, :class:`Layers` out."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = c = config
        area = c.patch**2
        self.embed_condition = nn.Linear(_FIRST_CHANNELS * area, c.dim)
        self.embed_noisy = nn.Linear(NOISY_CHANNELS * c.frames * area, c.dim)
        self.embed_time = nn.Sequential(nn.Linear(c.dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.embed_hands = nn.Linear(4 * c.arms, c.dim)
        self.embed_thumbnail = Head(_FIRST_CHANNELS * c.tokens, c.dim, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(c.tokens, c.dim))
        self.view = nn.Parameter(0.02 * torch.randn(2, c.dim))
        self.summary = nn.Parameter(0.02 * torch.randn(2, 1, c.dim))
        self.trunk = nn.ModuleList(Block(c.dim, c.heads) for _ in range(c.trunk_layers))
        self.decoder_n = ViewDecoder(c, cross=False)
        self.decoder_m = ViewDecoder(c, cross=c.cross_view_attention)
        if c.shared_decoders:
            self.decoder_m.share(self.decoder_n)
        self.rides = AttachmentMask(c, _FIRST_CHANNELS + c.arms) if c.predicts_trajectory else None
        self.sprites = (
            Head(c.dim + 13 * c.arms, c.dim, c.arms * CHANNELS * SIZE * SIZE) if c.predicts_trajectory else None
        )
        for name, shape in (("points", (CLOUD_POINTS, 3)), ("rgb", (CLOUD_POINTS, 3)), ("axis", (3,))):
            self.register_buffer(f"hand_{name}", torch.zeros(c.arms, *shape))
        self.register_buffer("hand_part", torch.full((c.arms, CLOUD_POINTS), -1.0))
        nn.init.normal_(self.embed_noisy.weight, std=0.1 * self.embed_noisy.in_features**-0.5)  # mostly pure noise

    def forward(
        self, condition: Condition, noisy: Tensor, time: Tensor, cameras: Poses, hands: Hands | None, frames: Tensor
    ) -> Layers:
        """Layers of V views, the reference first.

        Args:
            noisy: (B, V, N, 6, T, patch²) noisy frames.
            time: (B,) noise level, 0 clean to 1 pure noise.
            cameras: of the views in the scene.
            hands: of all T frames, in each view's own frame; None where there are no points to place them by.
            frames: (F,) the frames whose pixels are wanted; they are most of the work.
        """
        c, (b, views) = self.config, condition.inputs.shape[:2]
        first = torch.cat([condition.inputs, points_in_scene(condition.inputs, cameras)], 3)
        which = constant((0, *[1] * (views - 1)), first.device, torch.long)
        x = self.embed_condition(first.flatten(3)) + self.embed_noisy(noisy.flatten(3))
        x = x + self.position + self.view[which][:, None]
        thumbnail = self.embed_thumbnail(first.mean(4).flatten(2))  # (B, V, N * 11) -> (B, V, D)
        known = self.embed_hands(torch.cat([condition.anchor.flatten(2), condition.opening], -1)) + thumbnail
        x = torch.cat([self.summary[which] + known[:, :, None], x], 2)  # (B, V, 1 + N, D)
        x = x + self.embed_time(_time_features(time, c.dim))[:, None, None]
        x = x.reshape((b, -1, c.dim) if c.cross_view_attention else (views * b, -1, c.dim))
        for block in self.trunk:
            x = block(x)
        x = x.reshape(b, views, 1 + c.tokens, c.dim)
        motion = None if hands is None else _motion_features(c, hands, condition.rays, frames)
        decoded, states = self.decoder_n(x[:, 0], None, frames, None if motion is None else motion[:, 0])
        decoded = tuple(part[:, None] for part in decoded)
        if views > 1:
            context = [s.repeat_interleave(views - 1, 0) for s in states]
            motion_m = None if motion is None else motion[:, 1:].flatten(0, 1)
            further, _ = self.decoder_m(x[:, 1:].flatten(0, 1), context, frames, motion_m)
            pairs = zip(decoded, further, strict=True)
            decoded = tuple(torch.cat([n, m.unflatten(0, (b, views - 1))], 1) for n, m in pairs)
        summary, pixels, warp = decoded
        # Untrained, the model copies the first frame and shows no hand.
        rgb, depth, keep, valid, parts, hand = torch.split(pixels, [3, 1, 1, 1, c.part_classes, 3 * c.arms], dim=3)
        return Layers(
            rgb=rgb,
            depth=depth,
            keep=keep + 2.0,
            valid=valid,
            parts=torch.cat([parts[:, :, :, :1] + 3.0, parts[:, :, :, 1:]], 3),
            hand=hand,
            warp=warp,
            attachment=None if hands is None else self._attachment(first, x[:, :, 1:], hands),
            sprites=None if hands is None else self._sprites(summary, hands.at(frames)),
        )

    def set_gripper_template(self, clouds: HandClouds) -> None:
        """Draw hands that look like this from now on; it is kept with the weights."""
        for name, value in clouds._asdict().items():
            getattr(self, f"hand_{name}").copy_(value)

    def _attachment(self, first: Tensor, tokens: Tensor, hands: Hands) -> Tensor:
        """(B, V, N, A, patch²) logits: what of the first frames goes with a hand; its distance from it helps."""
        assert self.rides is not None
        away = first[:, :, :, None, 3:6] - hands.start.detach()[:, :, None, :, :, None]  # (B, V, N, A, 3, patch²)
        return cast(Tensor, self.rides(torch.cat([first, away.square().sum(4).sqrt()], 3), tokens))

    def _sprites(self, summary: Tensor, hands: Hands) -> Tensor:
        """(B, V, A, F, 9, S, S) sprites of hands in F frames, in each view's own frame."""
        assert self.sprites is not None
        c, (b, views) = self.config, summary.shape[:2]
        state = torch.cat([hands.rotation.flatten(-2), hands.position, hands.opening[..., None]], -1)
        state = state.transpose(2, 3).flatten(3).detach()  # (B, V, F, A * 13)
        features = torch.cat([summary[:, :, None].expand(-1, -1, state.shape[2], -1), state], -1)
        drawn = self.sprites(features).float().view(b, views, -1, c.arms, CHANNELS, SIZE, SIZE)
        clouds = HandClouds(*(getattr(self, f"hand_{name}") for name in HandClouds._fields))
        centre_m, opening_m = metres(c, hands.position, 4), OPENING_SCALE_M * hands.opening
        with torch.no_grad():
            start = pictures(clouds, hands.rotation, centre_m, opening_m, c.motion_scale_m)
        return cast(Tensor, start + drawn.transpose(2, 3))


class ViewDecoder(nn.Module):
    """One view's own blocks and heads; view m's also look at view n's tokens, layer by layer."""

    def __init__(self, c: LayeredConfig, cross: bool) -> None:
        super().__init__()
        self.config = c
        self.blocks = nn.ModuleList(Block(c.dim, c.heads, cross) for _ in range(c.decoder_layers))
        self.norm = nn.LayerNorm(c.dim)
        # A frame's pixels are decoded from its tokens, which are of all frames, and where the hands are in this one:
        # how what moves with a hand looks is learned once, not anew for every frame.
        self.frame = nn.Parameter(0.02 * torch.randn(c.frames, c.dim))
        self.embed_way = nn.Linear(_MOTION_FEATURES * c.arms, c.dim) if c.predicts_trajectory else None
        self.mix = Head(c.dim, 2 * c.dim, c.dim)
        self.norm_frame = nn.LayerNorm(c.dim)
        self.channels = 6 + c.part_classes + 3 * c.arms  # rgb, depth, keep, valid, parts, hand points
        self.to_pixels = nn.Linear(c.dim, self.channels * c.patch**2 + NUMBERS * c.arms)
        nn.init.normal_(self.to_pixels.weight, std=0.01)
        nn.init.zeros_(self.to_pixels.bias)

    def share(self, other: ViewDecoder) -> None:
        """Use the other decoder's weights, all but those of cross-view attention."""
        for mine, its in zip(self.blocks, other.blocks, strict=True):
            for name in ("norm_attention", "attention", "norm_mlp", "mlp"):
                setattr(mine, name, getattr(its, name))
        for name in ("norm", "frame", "embed_way", "mix", "norm_frame", "to_pixels"):
            setattr(self, name, getattr(other, name))

    def forward(
        self, x: Tensor, context: list[Tensor] | None, frames: Tensor, motion: Tensor | None
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """The summary token (B, D), pixels (B, N, channels, F, patch²) and ``NUMBERS`` (B, N, A * 3, F) of some
        frames (F,), given the hands' motion (B, N, F, A * 15); and the state after every block for the other view.
        """
        c, states = self.config, []
        for i, block in enumerate(self.blocks):
            x = block(x, None if context is None else context[i])
            states.append(x)
        x = self.norm(x)
        h = x[:, 1:, None] + self.frame[frames]  # (B, N, F, D)
        if self.embed_way is not None and motion is not None:
            h = h + self.embed_way(motion)
        out = self.to_pixels(self.norm_frame(h + self.mix(h)))
        pixels, warp = out.split([self.channels * c.patch**2, NUMBERS * c.arms], -1)
        return (x[:, 0], pixels.unflatten(3, (self.channels, -1)).transpose(2, 3), warp.transpose(2, 3)), states


def _motion_features(c: LayeredConfig, hands: Hands, rays: Tensor, frames: Tensor) -> Tensor:
    """(B, V, N, F, A * 15) where hands, in each view's own frame, are in some frames, as seen from a patch's middle."""
    position, turned, opening, start = hands.at(frames)
    place_m = metres(c, position, 4)  # (B, V, A, F, 3)
    middle = rays.mean((4, 5))[:, :, :, None, None, :2]  # (B, V, N, 1, 1, 2)
    beside = (place_m[..., :2] / place_m[..., 2:].clamp(min=0.1))[:, :, None] - middle  # (B, V, N, A, F, 2)
    far = beside.square().sum(-1, keepdim=True)
    moved = position - start[:, :, :, None]
    same = torch.cat([position[..., 2:], moved, turned[..., :2, :].flatten(-2), opening[..., None]], -1)[:, :, None]
    features = torch.cat([4.0 * beside, (-8.0 * far).exp(), (-64.0 * far).exp(), same.expand(*far.shape[:-1], -1)], -1)
    return features.detach().transpose(3, 4).flatten(4)


def _time_features(time: Tensor, dim: int) -> Tensor:
    """(B, dim) sines and cosines of a noise level (B,) in 0..1."""
    frequency = torch.exp(torch.linspace(0.0, math.log(100.0), dim // 2, device=time.device))
    angle = time[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
