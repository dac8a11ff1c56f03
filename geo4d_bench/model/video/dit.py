"""A video transformer of several views, for training from scratch.

A token is a cell of one frame of one view, all streams together. Two layers attend over the cells of a frame, those of
all views in the trunk, the third over the frames of a cell (Latte takes turns, https://arxiv.org/abs/2401.03048); their
adaptive norms share one modulation (PixArt-alpha, https://arxiv.org/abs/2310.00426). Views n and m have decoders of
their own; after each layer of its decoder view m attends to view n in the same frame (paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from geo4d_bench.model.blocks import attend
from geo4d_bench.model.video.config import DiTConfig

_FREQUENCIES = 64  # of the noise level's embedding


class VideoTransformer(nn.Module):
    """The network.

    Args:
        c: its sizes.
        streams: what is denoised together.
        proprioception: numbers in a sample's proprioception.
    """

    def __init__(self, c: DiTConfig, streams: int, proprioception: int) -> None:
        super().__init__()
        cells, self.patch = (c.height // c.cell) * (c.width // c.cell), c.patch
        self.embed = nn.Linear(streams * c.channels, c.dim)
        self.frequencies = Timesteps(_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(_FREQUENCIES, c.dim)
        self.proprioception = nn.Linear(proprioception, c.dim)
        self.modulation = nn.Linear(c.dim, 6 * c.dim)
        self.cell_position, self.frame_position, self.view = (
            nn.Parameter(0.5 * torch.randn(shape)) for shape in ((cells, c.dim), (c.frames, 1, 1, c.dim), (2, 1, c.dim))
        )
        self.trunk = nn.ModuleList(Layer(c, i, c.cross_view_attention) for i in range(c.trunk_layers))
        decoder_n = Decoder(c, streams)
        self.decoders = nn.ModuleList([decoder_n, decoder_n if c.shared_decoders else Decoder(c, streams)])
        self.cross_view = nn.ModuleList(CrossView(c) for _ in range(c.decoder_layers if c.cross_view_attention else 0))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        first: Tensor,
        context: Tensor,
        proprioception: Tensor,
        frames: Tensor | None = None,
    ) -> Tensor:
        """Clean latents of all views and streams, in one pass.

        Args:
            x: (V, S, B, T, C, h, w) noisy latents of view n, then of one view m or several, in S streams.
            level: (B, V) the noise levels, as the diffusion gives them to the network.
            first: (V, S, B, 1, C, h, w) latents of the first frames, which stay where nothing is new.
            context: (B, V, h * w, D) embeddings of the first frames' cells.
            proprioception: (B, numbers).
            frames: (T,) which frames of the video these are; all by default.

        Returns:
            (V, S, B, T, C, h, w).
        """
        views, streams, batch, channels = *x.shape[:3], x.shape[4]
        view = torch.cat([self.view[:1], self.view[1:].expand(views - 1, -1, -1)])
        frame = self.frame_position if frames is None else self.frame_position[frames]
        tokens = self.embed(_tokens(x)) + context[:, None]  # (B, T, V, L, D)
        tokens = tokens + (self.cell_position + frame + view)
        tokens = tokens.to(_layers_dtype(tokens))
        time = self.time(self.frequencies(level.flatten()).to(self.view.dtype)).view(batch, views, -1)
        given = time + self.proprioception(proprioception)[:, None]
        shared = self.modulation(F.silu(given)).view(batch, views, 6, -1)
        decoder_n, decoder_m = (cast(Decoder, d) for d in self.decoders)
        layers = [cast(Layer, layer) for part in (self.trunk, decoder_n.layers, decoder_m.layers) for layer in part]
        own = torch.stack([layer.modulation for layer in layers])[:, None, None]
        each = (shared + own).to(tokens.dtype)  # (layers, B, V, 6, D)
        of_trunk, of_n, of_m = each.split([len(self.trunk), len(decoder_n.layers), len(decoder_m.layers)])
        for layer, modulation in zip(self.trunk, of_trunk, strict=True):
            tokens = layer(tokens, modulation)
        n, m = (part.contiguous() for part in tokens.tensor_split([1], 2))
        for i, (layer_n, layer_m) in enumerate(zip(decoder_n.layers, decoder_m.layers, strict=True)):
            n, m = layer_n(n, of_n[i][:, :1]), layer_m(m, of_m[i][:, 1:])
            if self.cross_view:
                m = self.cross_view[i](m, n)
        pixels = torch.cat([decoder_n.pixels(n), decoder_m.pixels(m)], 2)  # (B, T, V, 4 S, H, W)
        cells = F.pixel_unshuffle(pixels, self.patch)
        latents = cells.view(*cells.shape[:3], streams, -1, *cells.shape[-2:]).permute(2, 3, 0, 1, 4, 5, 6)
        new, gone = latents.tensor_split([channels], 4)
        return torch.addcmul(new + first, first, gone.repeat(1, 1, 1, 1, 3, 1, 1), value=-1)


class Layer(nn.Module):
    """Attention and MLP on tokens (B, T, V, L, D), each behind an adaptive norm and before a gate.

    Attention is over the L cells of a frame, of all views together where ``joint``, and in every third layer over the T
    frames of a cell.
    """

    def __init__(self, c: DiTConfig, number: int, joint: bool = False) -> None:
        super().__init__()
        self.heads, self.joint, self.over_frames = c.heads, joint, number % 3 == 2
        self.query_key_value, self.out = nn.Linear(c.dim, 3 * c.dim), nn.Linear(c.dim, c.dim)
        self.up, self.down = nn.Linear(c.dim, 4 * c.dim), nn.Linear(4 * c.dim, c.dim)
        # Added to the shared modulation: shift, scale and gate, of attention and of the MLP.
        self.modulation = nn.Parameter(torch.tensor([0.0, 1.0, 1.0] * 2)[:, None].repeat(1, c.dim))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``modulation`` (B, V, 6, D) is what all layers share and this one's own, together."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation[:, None, :, :, None].unbind(3)
        query_key_value, out, up, down = _ready(x.device, self.query_key_value, self.out, self.up, self.down)
        attended = self._attention(torch.addcmul(shift, _normalised(x), scale), query_key_value)
        x = torch.addcmul(x, gate, F.linear(attended, *out))
        hidden = F.gelu(F.linear(torch.addcmul(mlp_shift, _normalised(x), mlp_scale), *up), approximate="tanh")
        return torch.addcmul(x, mlp_gate, F.linear(hidden, *down))

    def _attention(self, x: Tensor, query_key_value: tuple[Tensor, Tensor]) -> Tensor:
        batch, frames, views, cells, dim = x.shape
        qkv, head = F.linear(x, *query_key_value), (self.heads, dim // self.heads)
        if self.over_frames:
            qkv = qkv.movedim(1, 3).reshape(-1, frames, 3, *head)
        else:
            qkv = qkv.view(-1, cells * views if self.joint else cells, 3, *head)
        found = attend(*qkv.permute(2, 0, 3, 1, 4))  # (N, heads, L or T, d)
        if self.over_frames:
            found = found.view(batch, views, cells, self.heads, frames, -1).permute(0, 4, 1, 2, 3, 5)
        else:
            found = found.transpose(1, 2)
        return found.reshape(x.shape).contiguous()


class CrossView(nn.Module):
    """Attention of further views' tokens to view n's in the same frame, added to the former."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.query, self.key_value, self.out = (nn.Linear(c.dim, width * c.dim) for width in (1, 2, 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, m: Tensor, n: Tensor) -> Tensor:
        """Tokens (B, T, V, L, D) of V views and (B, T, 1, L, D) of view n -> (B, T, V, L, D)."""
        batch, frames, views, cells, dim = m.shape
        head = (self.heads, dim // self.heads)
        query, key_value, out = _ready(m.device, self.query, self.key_value, self.out)
        q = F.linear(_normalised(m), *query).view(batch * frames, views * cells, *head).transpose(1, 2)
        k, v = F.linear(_normalised(n), *key_value).view(batch * frames, cells, 2, *head).permute(2, 0, 3, 1, 4)
        return m + F.linear(attend(q, k, v).transpose(1, 2).reshape(m.shape), *out)


class Decoder(nn.Module):
    """One view's own layers, and what reads pixels from its tokens.

    Convolutions across cells double an image's sides until they are those of pixels: read from each cell alone, a hand
    is cut at its edges. Each pixel of a stream has three channels of what is new, and how much of what was there is
    gone; untrained all are zero, and the first frame stays.
    """

    def __init__(self, c: DiTConfig, streams: int) -> None:
        super().__init__()
        self.cells = c.height // c.cell, c.width // c.cell
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c.decoder_layers))
        self.norm = nn.LayerNorm(c.dim)
        widths = [c.dim, *(max(c.dim >> k, 16) for k in range(1, c.patch.bit_length() - 1)), 4 * streams]
        read: list[nn.Module] = []
        for width, narrower in pairwise(widths):
            conv = nn.Conv2d(width, 4 * narrower, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(cast(Tensor, conv.bias))
            read += [nn.GELU(approximate="tanh"), conv, nn.PixelShuffle(2)]
        nn.init.zeros_(conv.weight)
        self.read, self.last = nn.Sequential(*read[1:-2]), nn.Sequential(*read[-2:])

    def pixels(self, x: Tensor) -> Tensor:
        """Tokens (B, T, V, L, D) -> (B, T, V, 4 S, H, W) float32: bfloat16 would round a point by millimetres."""
        images = self.norm(x).flatten(0, 2).transpose(1, 2).reshape(-1, x.shape[-1], *self.cells)
        read = self.read(images)
        with torch.autocast(read.device.type, enabled=False):
            pixels: Tensor = self.last(read.to(next(self.last.parameters()).dtype))
        return pixels.view(*x.shape[:3], *pixels.shape[1:])


class _Cast(torch.autograd.Function):
    """Tensors in another dtype, by one kernel on a GPU, where autocast launches one for each."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        return _in_dtype(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_in_dtype(gradients, ctx.dtype)


def _in_dtype(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    made = [torch.empty_like(x, dtype=dtype) for x in tensors]
    torch._foreach_copy_(made, list(tensors))
    return tuple(made)


def _ready(device: torch.device, *layers: nn.Linear) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases, in the dtype that autocast computes in."""
    tensors = tuple(x for layer in layers for x in (layer.weight, layer.bias))
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        tensors = _Cast.apply(torch.get_autocast_dtype(device.type), *tensors)  # type: ignore[no-untyped-call]
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _layers_dtype(x: Tensor) -> torch.dtype:
    """Of the tokens between layers: on a GPU what autocast computes in, for half of the bytes to read and write."""
    return torch.get_autocast_dtype("cuda") if x.is_cuda and torch.is_autocast_enabled("cuda") else x.dtype


def _normalised(x: Tensor) -> Tensor:
    """Layer norm in the dtype of x, not in autocast's where that is bfloat16; sums in it are of float32 anyway."""
    if x.dtype != torch.bfloat16:
        return F.layer_norm(x, x.shape[-1:])
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:])


def _tokens(x: Tensor) -> Tensor:
    """(V, S, B, T, C, h, w) -> (B, T, V, h * w, S * C)."""
    return x.permute(2, 3, 0, 5, 6, 1, 4).flatten(5).flatten(3, 4)
