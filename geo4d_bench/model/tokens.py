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

from geo4d_bench.model.blocks import Block, Head, product, rotation
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.scene import OPENING_SCALE_M, Hands, SceneNetwork
from geo4d_bench.model.sprites import CHANNELS, CLOUD_POINTS, SIZE, HandClouds, pictures

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
        parts: 1 + 3 A logits.  hand: (A * 3), points of each hand about its predicted position, in motion units and
            the end effector's axes.
        hands: V = 2, what each view says of the hands, in camera n's frame; positions are of normalised points.
        sprites: (B, 2, A, F, 9, S, S) pictures of the hands, see :mod:`geo4d_bench.model.sprites`.
        R_n_m: (B, 3, 3), t_n_m: (B, 3) pose of camera m in camera n, of normalised points.
    """

    rgb: Tensor
    depth: Tensor
    keep: Tensor
    valid: Tensor
    parts: Tensor
    hand: Tensor
    hands: Hands
    sprites: Tensor
    R_n_m: Tensor
    t_n_m: Tensor


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
        self.scene = SceneNetwork(c)
        # Where the poses are not known, each camera is found in the scene by itself: twelve cameras are learned instead
        # of 132 pairs. A thumbnail is enough to tell a camera: learned in a hundred steps, where the trunk took
        # thousands.
        self.camera = None if c.calibrated else Head(_CONDITION_CHANNELS * c.tokens, c.dim, 9)
        # One frame's picture of the hands, from how they are turned, where they are and how far they are open.
        self.sprites = Head(c.dim + 13 * c.arms, c.dim, c.arms * CHANNELS * SIZE * SIZE)
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
        cameras: tuple[Tensor, Tensor],
        frames: Tensor | None = None,
        hands: Hands | None = None,
    ) -> Layers:
        """Layers of both views.

        Args:
            condition: (B, 2, N, 8, patch²) first frames in patches.
            noisy: (B, 2, N, 6, T * patch²) noisy frames in patches.
            time: (B,) noise level, 0 clean to 1 pure noise.
            anchor: (B, 2, A, 3) where the hands are at first, as far as a view knows it, normalised.
            opening: (B, 2, A) how far they are open at first, about 0 to 1.
            cameras: (B, 2, 3, 3) and (B, 2, 3), from each camera's normalised points to the scene's.
            frames: (F,) the frames whose pixels are wanted, all where None; they are most of the work.
            hands: V = 1, the true hands in camera n's frame, to draw them by; None draws what is predicted.
        """
        c, b = self.config, len(condition)
        R, t = cameras
        predicted = self.foresee_hands(condition, anchor, opening, cameras)
        condition = torch.cat([condition, _in_scene(condition, cameras)], 3)
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

        pixels = torch.stack([self.decoder_n.pixels(n[:, 1:], frames), self.decoder_m.pixels(m[:, 1:], frames)], 1)
        pixels = pixels.view(b, 2, c.tokens, channels(c), -1)
        # Untrained, the model copies the first frame and shows no hand.
        rgb, depth, keep, valid, parts, hand = torch.split(pixels, [3, 1, 1, 1, c.part_classes, 3 * c.arms], dim=3)
        R_n, t_n = self._frame_n(R, t)
        R_n_m = product(R_n[:, 1].transpose(-1, -2), R[:, 1])
        t_n_m = product(R_n[:, 1].transpose(-1, -2), (t[:, 1] - t_n[:, 1])[..., None])[..., 0]
        return Layers(
            rgb=rgb,
            depth=depth,
            keep=keep + 2.0,
            valid=valid,
            parts=torch.cat([parts[:, :, :, :1] + 3.0, parts[:, :, :, 1:]], 3),
            hand=hand,
            hands=predicted,
            sprites=self._sprites(torch.stack([n[:, 0], m[:, 0]], 1), hands or predicted, R_n_m, t_n_m, frames),
            R_n_m=R_n_m,
            t_n_m=t_n_m,
        )

    def show_hands(self, clouds: HandClouds) -> None:
        """Draw hands that look like this from now on; it is kept with the weights."""
        for name, value in vars(clouds).items():
            getattr(self, f"hand_{name}").copy_(value)

    def find_cameras(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, 3, 3), (B, 2, 3): from each camera's normalised points to the scene's, told from its first frame."""
        assert self.camera is not None
        camera = self.camera(condition.mean(4).flatten(2)).float()  # (B, 2, N * 8) -> (B, 2, 9)
        upright = torch.tensor([1.0, 0, 0, 0, 1, 0], device=camera.device)
        return rotation(camera[..., :6] + upright), camera[..., 6:]

    def _frame_n(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, 3, 3), (B, 2, 3): camera n's pose, as each view knows it."""
        if self.config.cross_view_attention or self.config.calibrated:
            return R[:, :1].expand_as(R), t[:, :1].expand_as(t)
        # Without cross-view attention view m knows nothing of camera n, and takes its frame for the scene's own.
        identity = torch.eye(3, device=R.device).expand_as(R[:, 1])
        return torch.stack([R[:, 0], identity], 1), torch.stack([t[:, 0], torch.zeros_like(t[:, 1])], 1)

    def foresee_hands(
        self, condition: Tensor, anchor: Tensor, opening: Tensor, cameras: tuple[Tensor, Tensor]
    ) -> Hands:
        """What each view says of the hands, V = 2, in camera n's frame: one thing where anything flows between them.

        The arguments are those of :meth:`forward`.
        """
        c, b = self.config, len(condition)
        R_n, t_n = self._frame_n(*cameras)
        anchor_in_scene = product(R_n[:, :, None], anchor[..., None])[..., 0] + t_n[:, :, None]
        unit = c.point_scale_m / c.work_half_m

        def points(x: Tensor) -> Tensor:  # (B, 2, N, C, patch²) -> (B or 2 B, P, C)
            x = x.movedim(3, -1).flatten(2, 3)
            return x.flatten(1, 2) if c.cross_view_attention else x.flatten(0, 1)

        told = slice(0, 1) if c.cross_view_attention else slice(None)
        found = self.scene(
            unit * points(_in_scene(condition, cameras)),
            points(condition[:, :, :, [0, 1, 2, 7]]),
            points(condition[:, :, :, 6:7])[..., 0] > 0,
            unit * anchor_in_scene[:, told].flatten(0, 1),
            opening[:, told].flatten(0, 1),
        )
        to_n = R_n.transpose(-1, -2)[:, :, None, None]  # (B, 2, 1, 1, 3, 3)
        motion = found.position.view(b, -1, c.arms, c.frames, 3) * (c.motion_scale_m / c.point_scale_m)
        turned = found.rotation.view(b, -1, c.arms, c.frames, 3, 3)
        return Hands(
            position=anchor[:, :, :, None] + product(to_n, motion[..., None])[..., 0],
            rotation=product(to_n, turned),
            opening=found.opening.view(b, -1, c.arms, c.frames).expand(b, 2, -1, -1),
        )

    def _sprites(self, summary: Tensor, hands: Hands, R_n_m: Tensor, t_n_m: Tensor, frames: Tensor | None) -> Tensor:
        """(B, 2, A, F, 9, S, S) pictures of the hands in each view's own frame."""
        c, b = self.config, len(summary)
        position, turned = hands.position.expand(b, 2, -1, -1, -1), hands.rotation.expand(b, 2, -1, -1, -1, -1)
        to_m = R_n_m.transpose(-1, -2)[:, None, None]
        in_m = product(to_m, (position[:, 1] - t_n_m[:, None, None])[..., None])[..., 0]
        position = torch.stack([position[:, 0], in_m], 1)
        turned = torch.stack([turned[:, 0], product(to_m, turned[:, 1])], 1)
        opening = hands.opening.expand(b, 2, -1, -1)
        if frames is not None:
            position, turned, opening = position[:, :, :, frames], turned[:, :, :, frames], opening[:, :, :, frames]
        state = torch.cat([turned.flatten(-2), position, opening[..., None]], -1)
        state = state.transpose(2, 3).flatten(3).detach()  # (B, 2, F, A * 13)
        told = torch.cat([summary[:, :, None].expand(-1, -1, state.shape[2], -1), state], -1)
        drawn = self.sprites(told).float().view(b, 2, -1, c.arms, CHANNELS, SIZE, SIZE)
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


def _in_scene(condition: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """(B, 2, N, 3, P) each view's own points, moved to the scene's frame; 0 where invalid."""
    R, t = cameras
    return (product(R[:, :, None], condition[:, :, :, 3:6]) + t[:, :, None, :, None]) * condition[:, :, :, 6:7]
