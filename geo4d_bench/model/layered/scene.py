"""What both first frames say of the scene, seen from where no camera stands, and where the hands will go in it.

An image from a camera that was never trained on is new to a network. The points in it are not, once they lie in the
scene's frame: drawn from above, from the front and from the side they look as they did from any other camera (RVT:
Goyal et al. 2023, https://arxiv.org/abs/2306.14896). The hands' future is therefore told from such pictures alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geo4d_bench.model.blocks import Block, Head, rotation
from geo4d_bench.model.layered.config import LayeredConfig

OPENING_SCALE_M = 0.08
"""Metres a unit of opening: a Panda's hand, fully open."""
CHANNELS = 6  # rgb, hand mask, height, whether there is anything
_SEEN_ALONG = ((2, 0, 1), (0, 1, 2), (1, 0, 2))  # axis that is looked along, and the picture's two
_LAYER = 0.03  # of the cube's half edge: what lies this little below the topmost point is mixed with it


@dataclass(frozen=True)
class Hands:
    """Hands over T future frames; V is 1 where the views share them.

    Attributes:
        position: (B, V, A, T, 3).  rotation: (B, V, A, T, 3, 3).
        opening: (B, V, A, T) in units of ``OPENING_SCALE_M``.
        start: (B, V, A, 3) where they are at first or, for a view that is not told, in the first of the T frames; V is
            always that of the views.
    """

    position: Tensor
    rotation: Tensor
    opening: Tensor
    start: Tensor


class Way(NamedTuple):
    """Hands' way in the scene's axes: position (B, 1, A, T, 3) from where they are at first, in motion units, rotation
    (B, 1, A, T, 3, 3), opening (B, 1, A, T)."""

    position: Tensor
    rotation: Tensor
    opening: Tensor


class SceneNetwork(nn.Module):
    """Points of the first frames in, the hands' way in the scene's frame out."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = c = config
        self.patch, cells = 8, c.scene_cells
        self.embed = nn.Linear(CHANNELS * self.patch**2, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(1 + 3 * (cells // self.patch) ** 2, c.dim))
        self.embed_hands = nn.Linear(4 * c.arms, c.dim)
        self.blocks = nn.ModuleList(Block(c.dim, c.heads) for _ in range(c.scene_layers))
        self.norm = nn.LayerNorm(c.dim)
        self.out = Head(c.dim + 4 * c.arms, c.dim, c.arms * c.frames * 10)

    def forward(self, points: Tensor, features: Tensor, valid: Tensor, anchor: Tensor, opening: Tensor) -> Way:
        """Where the hands go.

        Args:
            points: (B, P, 3) in the scene's frame, in half edges of the cube in which the hands work.
            features: (B, P, 4) colour in -1..1 and hand mask.  valid: (B, P) bool.
            anchor: (B, A, 3) where the hands are at first, as ``points``.  opening: (B, A).
        """
        c, b, p = self.config, len(points), self.patch
        side = c.scene_cells // p
        pictures = scene_pictures(points, features, valid, c.scene_cells)
        patches = (
            pictures.view(b, 3, CHANNELS, side, p, side, p)
            .permute(0, 1, 3, 5, 2, 4, 6)
            .reshape(b, -1, CHANNELS * p * p)
        )
        hands = torch.cat([anchor, opening[..., None]], -1).flatten(1)
        x = torch.cat([self.embed_hands(hands)[:, None], self.embed(patches)], 1) + self.position
        for block in self.blocks:
            x = block(x)
        out = self.out(torch.cat([self.norm(x[:, 0]), hands], -1)).float().view(b, 1, c.arms, c.frames, 10)
        upright = torch.tensor([1.0, 0, 0, 0, 1, 0], device=out.device)
        turned, opening = rotation(out[..., 3:9] + upright), opening[:, None, :, None] + out[..., 9]
        return Way(out[..., :3], turned, opening)


def scene_pictures(points: Tensor, features: Tensor, valid: Tensor, cells: int) -> Tensor:
    """(B, 3, 6, cells, cells) orthographic pictures of a cloud along z, x and y.

    A cell shows the mean colour of the points that are nearly topmost in it, and the height of the topmost one.

    Args:
        points: (B, P, 3) of which those in the cube -1..1 are drawn.
        features: (B, P, 4).  valid: (B, P) bool.
    """
    b, area = len(points), cells * cells
    inside = valid & (points.abs() < 1).all(-1)
    points = torch.where(inside[..., None], points, 0.0)
    cell = ((points + 1) * (0.5 * cells)).long().clamp(0, cells - 1)
    pictures = []
    for along, row, column in _SEEN_ALONG:
        index = torch.where(inside, cell[..., row] * cells + cell[..., column], area)
        height = points[..., along]
        top = torch.full((b, area + 1), -2.0, device=points.device).scatter_reduce(1, index, height, "amax")
        shown = inside & (height >= top.gather(1, index) - _LAYER)
        count = torch.zeros_like(top).scatter_add(1, index, shown.float())
        mixed = torch.zeros((b, area + 1, features.shape[-1]), device=points.device)
        mixed = mixed.scatter_add(1, index[..., None].expand_as(features), features * shown[..., None])
        there = (count > 0).float()[..., None]
        picture = torch.cat([mixed / count.clamp(min=1)[..., None], top[..., None] * there, there], -1)[:, :-1]
        pictures.append(picture.view(b, cells, cells, CHANNELS).permute(0, 3, 1, 2))
    return torch.stack(pictures, 1)
