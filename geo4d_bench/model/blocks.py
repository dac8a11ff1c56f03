"""What the networks are made of: transformer blocks, small heads, and rotations out of six numbers."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        return cast(Tensor, self.out(attend(q, k, v).transpose(1, 2).reshape(b, length, dim)))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of queries (N, heads, L, d) to keys and values (N, heads, M, d)."""
    if written_out(q):
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def written_out(x: Tensor) -> bool:
    """Whether attention is computed by products of matrices: with few tokens three times as fast on a CPU as torch's
    own ``scaled_dot_product_attention``."""
    return x.is_cpu


def in_bf16(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 for a GPU that computes in it."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@functools.cache
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N,) of some numbers, never to be changed: copied to a device once, for each copy makes a GPU's queue run dry."""
    return torch.tensor(values, dtype=dtype, device=device)


def rotation(six: Tensor) -> Tensor:
    """(..., 3, 3) rotations from two rows that need not be orthonormal (..., 6): Zhou et al., CVPR 2019."""
    a, b = six[..., :3], six[..., 3:]
    x = F.normalize(a, dim=-1)
    y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of small matrices in float32, also where autocast would round geometry to three digits."""
    return (a.float()[..., :, :, None] * b.float()[..., None, :, :]).sum(-2)
