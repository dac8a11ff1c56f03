"""The layout in which tokens are read and written, images in patches: (B, V, N, C, T, patch²), N patches row by row."""

from __future__ import annotations

from torch import Tensor


def to_patches(images: Tensor, patch: int) -> Tensor:
    """(B, V, T, H, W, C) -> (B, V, N, C, T, patch²)."""
    b, v, t, height, width, c = images.shape
    h, w = height // patch, width // patch
    x = images.reshape(b, v, t, h, patch, w, patch, c)
    # (B, V, T, h, p, w, p, C) -> (B, V, h, w, C, T, p, p)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, v, h * w, c, t, patch * patch)


def from_patches(patches: Tensor, patch: int, height: int, width: int) -> Tensor:
    """(B, V, N, C, T, patch²) -> (B, V, T, H, W, C), the inverse of :func:`to_patches`."""
    b, v, _, c, t, _ = patches.shape
    x = patches.reshape(b, v, height // patch, width // patch, c, t, patch, patch)
    # (B, V, h, w, C, T, p, p) -> (B, V, T, h, p, w, p, C)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, v, t, height, width, c)


def over_patches(points: Tensor) -> Tensor:
    """(B, V, T, 3) -> (B, V, 1, 3, T, 1), which broadcasts over patches."""
    return points.transpose(2, 3)[:, :, None, :, :, None]
