"""Poses of cameras and hands, of normalised points.

A point p of a camera's frame is normalised to (p - ``point_mean_m``) / ``point_scale_m``; the scene's frame is the
world's with its origin at ``work_centre_m``, in the same unit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geo4d_bench.model.blocks import constant, product
from geo4d_bench.model.layered.config import LayeredConfig

OPENING_SCALE_M = 0.08
"""Metres a unit of opening: a Panda's hand, fully open."""


class Poses(NamedTuple):
    """Poses of V views' cameras."""

    R: Tensor  # (B, V, 3, 3)
    t: Tensor  # (B, V, 3)

    def apply(self, points: Tensor) -> Tensor:
        """R p + t of points (B, V, ..., 3)."""
        R, t = self._expanded(points)
        return rotate(R, points) + t

    def undo(self, points: Tensor) -> Tensor:
        """R^T (p - t) of points (B, V or 1, ..., 3)."""
        R, t = self._expanded(points)
        return rotate(R.mT, points - t)

    def _expanded(self, points: Tensor) -> tuple[Tensor, Tensor]:
        index = (slice(None), slice(None), *[None] * (points.ndim - 3))
        return self.R[index], self.t[index]


class Hands(NamedTuple):
    """Hands of A arms over T future frames; V is 1 where the views share them."""

    position: Tensor  # (B, V, A, T, 3)
    rotation: Tensor  # (B, V, A, T, 3, 3)
    opening: Tensor  # (B, V, A, T) in units of ``OPENING_SCALE_M``
    start: Tensor  # (B, V, A, 3) position in the first frames, see :func:`initial_positions`; V is that of the views

    def at(self, frames: Tensor) -> Hands:
        """Some of the T frames (F,)."""
        position, rotation, opening = (x[:, :, :, frames] for x in self[:3])
        return Hands(position, rotation, opening, self.start)

    def in_own_frames(self, in_n: Poses) -> Hands:
        """Hands in camera n's frame, as each of V views (``in_n``) has them in its own."""
        return Hands(
            position=in_n.undo(self.position),
            rotation=product(in_n.R.mT[:, :, None, None], self.rotation),
            opening=self.opening.expand(-1, in_n.t.shape[1], -1, -1),
            start=in_n.undo(self.start),
        )


def rotate(R: Tensor, vectors: Tensor) -> Tensor:
    """(..., 3) rotated by (..., 3, 3)."""
    return product(R, vectors[..., None])[..., 0]


def initial_positions(c: LayeredConfig, anchor: Tensor, position: Tensor) -> Tensor:
    """(B, V, A, 3) ``anchor``, or of a view that is not given it the first of the positions (B, V or 1, A, T, 3)."""
    if c.view_m_gets_ee:
        return anchor
    return torch.cat([anchor[:, :1], position.expand(-1, anchor.shape[1], -1, -1, -1)[:, 1:, :, 0]], 1)


def camera_poses(c: LayeredConfig, T_a_cam: Tensor, origin_m: tuple[float, float, float]) -> Poses:
    """Poses (B, V, 4, 4), metres, as they move normalised points: to the scene's frame from those in the world, with
    the origin ``work_centre_m``, or to camera n's from those in it, with ``point_mean_m``."""
    mean, origin = (constant(m, T_a_cam.device) for m in (c.point_mean_m, origin_m))
    R = T_a_cam[..., :3, :3]
    return Poses(R, (rotate(R, mean) + T_a_cam[..., :3, 3] - origin) / c.point_scale_m)


def normalise(c: LayeredConfig, points: Tensor, dim: int) -> Tensor:
    """Points in metres, xyz along ``dim``, normalised."""
    return (points - _mean_m(c, points, dim)) / c.point_scale_m


def metres(c: LayeredConfig, points: Tensor, dim: int) -> Tensor:
    """The inverse of :func:`normalise`."""
    return points * c.point_scale_m + _mean_m(c, points, dim)


def _mean_m(c: LayeredConfig, points: Tensor, dim: int) -> Tensor:
    shape = [1] * points.ndim
    shape[dim] = 3
    return constant(c.point_mean_m, points.device).view(shape)
