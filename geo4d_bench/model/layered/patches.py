"""Images to patches and back: the layout in which tokens are read and written."""

from __future__ import annotations

from torch import Tensor


def pixels(images: Tensor, patch: int) -> Tensor:
    """(B, V, T, H, W, C) -> (B, V, N, C, T, patch²)."""
    patches = to_patches(images, patch)
    return patches.view(*patches.shape[:4], images.shape[2], -1)


def apart(patches: Tensor, patch: int) -> Tensor:
    """(B, V, N, C, T * patch²) -> (B, V, N, C, T, patch²)."""
    return patches.reshape(*patches.shape[:4], -1, patch**2)


def to_patches(x: Tensor, patch: int) -> Tensor:
    """(B, V, T, H, W, C) -> (B, V, N, C, T * patch²), N patches row by row."""
    b, v, t, height, width, c = x.shape
    h, w = height // patch, width // patch
    x = x.reshape(b, v, t, h, patch, w, patch, c)
    # (B, V, T, h, p, w, p, C) -> (B, V, h, w, C, T, p, p)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, v, h * w, c, t * patch * patch)


def from_patches(x: Tensor, patch: int, height: int, width: int) -> Tensor:
    """(B, V, N, C, T * patch²) -> (B, V, T, H, W, C), the inverse of :func:`to_patches`."""
    b, v, _, c, area = x.shape
    h, w, t = height // patch, width // patch, area // (patch * patch)
    x = x.reshape(b, v, h, w, c, t, patch, patch)
    # (B, V, h, w, C, T, p, p) -> (B, V, T, h, p, w, p, C)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, v, t, height, width, c)
