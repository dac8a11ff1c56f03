"""What a loss of pixels counts besides on grippers, which are a small part of an image and decide an episode.

All of it is of the video as it is drawn, in the way a plan is read from it. Latents are cells of pixels here: an
autoencoder's say nothing about single ones, and have no such terms.
"""

from __future__ import annotations

from torch import Tensor

from geo4d_bench.model.video.autoencoders import LABELS, POINTS
from geo4d_bench.model.video.config import VideoConfig
from geo4d_bench.model.video.labels import LEAST_SHOWN, change_sums

_TOLERANCE = 0.02  # of contracted points: below it their errors count as squares
STRAY = 0.3  # what a gripper counts that is drawn away from its place alone, as a distance of contracted points


def hand_error(c: VideoConfig, error: Tensor, z: Tensor) -> Tensor | float:
    """Sum over the pixels of grippers of the errors (B, V, S, T, C, h, w) of how far they are open and of where their
    points are, weighted; ``z`` says where they are."""
    if not c.pixels or not c.weight_gripper:
        return 0.0
    hand = _by_pixel(z, LABELS)[:, :, :, 1].abs()
    summed = c.opening_weight * (hand * _by_pixel(error, LABELS)[:, :, :, 2]).sum()
    if c.rgb_only:
        return summed
    return summed + c.hand_point_weight * (hand[:, :, :, None] * _by_pixel(error, POINTS)).sum()


def read_error(c: VideoConfig, denoised: Tensor, z: Tensor, known: Tensor, near: Tensor) -> Tensor | float:
    """How far off is what a plan is read from, weighted means: where grippers' centres are in each view (contracted
    points), and how much farther they are open than in the first frame (shares of a full opening).

    Errors of pixels do not say in which direction a gripper is that was drawn beside its place; its centre does, as
    where integral regression is added to heat maps (Sun et al. 2018, https://arxiv.org/abs/1711.08229). A network that
    does not know where in view m the gripper is could tell its place by a few pixels in a corner, whose points can be
    anywhere: so the share of a gripper that is drawn elsewhere than ``near`` it (B, V, 1, T, 1, h, w) counts as well,
    squared, so that a network that is unsure still does best to draw both.
    """
    if not c.pixels or not c.weight_gripper or c.rgb_only:
        return 0.0
    total: Tensor | float = 0.0
    for sign in (1.0, -1.0)[: c.arms]:
        true, drawn = (sign * _by_pixel(x, LABELS)[:, :, :, 1] for x in (z, denoised))
        placed = true * _by_pixel(known, POINTS)[:, :, :, 0]
        surely, shown = (x.clamp(min=0.0).square() for x in (drawn, placed))
        stray = (surely * (1.0 - near[:, :, 0])).sum((-3, -2, -1)) / surely.sum((-3, -2, -1)).clamp(min=LEAST_SHOWN)
        off = _robust(_centre(denoised, surely) - _centre(z, shown), 3) + STRAY * stray.square()
        total = total + c.centre_weight * (off * (placed > 0).flatten(3).any(3)).mean()
    (of_drawn, surely), (of_true, shown) = (change_sums(_by_pixel(x, LABELS), c.arms) for x in (denoised, z))
    off = (of_drawn / surely.clamp(min=LEAST_SHOWN) - of_true / shown.clamp(min=LEAST_SHOWN)).abs()
    return total + c.change_weight * (off * (shown > 0)).mean((0, 2)).sum()


def robust_points(denoised: Tensor, z: Tensor) -> Tensor:
    """(B, V, T, C, h, w) pseudo-Huber loss of points' distances, for each of their three channels."""
    off = _by_pixel(denoised - z, POINTS)
    return _robust(off, 3)[:, :, :, None].expand_as(off).flatten(3, 4)


def _by_pixel(latents: Tensor, stream: int) -> Tensor:
    """(B, V, T, 3, P, h, w) the channels of a stream in latents (B, V, S, T, C, h, w) that are cells of P pixels."""
    x = latents[:, :, stream]
    return x.reshape(*x.shape[:3], 3, -1, *x.shape[4:])


def _robust(difference: Tensor, dim: int) -> Tensor:
    """Pseudo-Huber loss of the length along ``dim`` of contracted points' differences."""
    return (difference.square().sum(dim) + _TOLERANCE**2).sqrt() - _TOLERANCE


def _centre(latents: Tensor, surely: Tensor) -> Tensor:
    """(B, V, T, 3) mean of the contracted points of latents (B, V, S, T, C, h, w), weighted by how surely an arm's
    gripper is shown there (B, V, T, P, h, w)."""
    points = (_by_pixel(latents, POINTS) * surely[:, :, :, None]).sum((-3, -2, -1))
    return points / surely.sum((-3, -2, -1)).clamp(min=LEAST_SHOWN)[..., None]
