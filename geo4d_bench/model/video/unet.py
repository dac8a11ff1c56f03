"""Stable Video Diffusion's U-Net with a decoder for each of two views and cross-view attention between them.

View n is the reference; further views are all told by view m's decoder, and none of them is looked at by another.
Encoder and middle are shared. View m's decoder is a deep copy of view n's, made after pretrained weights were loaded,
so that the two can part (paper, section 3.2). After each decoder layer the pointmap stream of view m looks at that of
view n, within each frame; the attention's output starts at zero, so that untrained both views are the stock model to
the bit.
The forward pass follows ``UNetSpatioTemporalConditionModel.forward`` of diffusers 0.42.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geo4d_bench.model.video.config import UNetSizes

CROSS_VIEW_HEAD_DIM = 64
ADDED_NUMBERS = 3
"""Frame rate, motion and noise, which Stable Video Diffusion's time embedding is given besides the level."""


@dataclass(frozen=True)
class _Given:
    """What every layer is given of N videos of T frames."""

    time: Tensor  # (N * T, D)
    context: Tensor  # (N * T, L, context)
    frames: Tensor  # (N, T) zeros: none of the frames is a still image

    def of_each(self, views: int) -> list[_Given]:
        """The videos of view n, which is the first of so many views on the batch, and those of the others."""
        parts = (_first_and_others(x, views) for x in (self.time, self.context, self.frames))
        return [_Given(*part) for part in zip(*parts, strict=True)]


class DualDecoderUNet(nn.Module):
    """The network; built from a stock U-Net, whose modules it takes over.

    Args:
        stock: with its weights, pretrained or random.
        cross_view_heads: of ``CROSS_VIEW_HEAD_DIM`` each; 0 leaves cross-view attention out (an ablation of the paper).
        shared_decoders: one decoder's weights serve both views, as in the paper's release.

    Attributes:
        gradient_checkpointing: compute layers anew in the backward pass instead of remembering them.
    """

    def __init__(
        self, stock: UNetSpatioTemporalConditionModel, cross_view_heads: int, shared_decoders: bool = False
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.time_proj, self.time_embedding = stock.time_proj, stock.time_embedding
        self.add_time_proj, self.add_embedding = stock.add_time_proj, stock.add_embedding
        self.conv_in, self.down_blocks, self.mid_block = stock.conv_in, stock.down_blocks, stock.mid_block
        decoder_n = _Decoder(stock)
        self.decoders = nn.ModuleList([decoder_n, decoder_n if shared_decoders else copy.deepcopy(decoder_n)])
        widths = [block.resnets[0].spatial_res_block.out_channels for block in stock.up_blocks for _ in block.resnets]
        self.cross_view = nn.ModuleList(CrossView(width, cross_view_heads) for width in widths if cross_view_heads)

    def forward(self, x: Tensor, level: Tensor, context: Tensor, added_time: Tensor) -> Tensor:
        """Output of all views and streams in one pass.

        Args:
            x: (V, S, B, T, C, h, w) view n, then one view m or several; streams RGB and pointmap, or RGB alone, between
                whose views attention then is; noisy latents and condition on channels.
                h and w divide by 2 ** (number of down blocks - 1).
            level: (B,) the noise level, as the diffusion tells it.
            context: (V, B, L, D) of each view, for cross-attention.
            added_time: (numbers,) what else the time embedding is given, the same for all.

        Returns:
            (V, S, B, T, C', h, w).
        """
        views, streams, batch, frames = x.shape[:4]
        videos = views * streams * batch
        contexts = context[:, None].expand(-1, streams, -1, -1, -1).flatten(0, 2)  # (N, L, D)
        given = self._given(level.repeat(views * streams), contexts, added_time, frames)
        hidden = self.conv_in(x.flatten(0, 3))  # (N * T, C, h, w), view by view
        skips = [hidden]
        for block in self.down_blocks:
            hidden, more = self._run(_call_block, block, hidden, given)
            skips += more
        hidden = self._run(_call_block, self.mid_block, hidden, given)
        assert len(hidden) == videos * frames

        n, m = _first_and_others(hidden, views)
        given_n, given_m = given.of_each(views)
        decoder_n, decoder_m = (cast(_Decoder, decoder) for decoder in self.decoders)
        for k, (layer_n, layer_m) in enumerate(zip(decoder_n.layers(), decoder_m.layers(), strict=True)):
            skip_n, skip_m = _first_and_others(skips.pop(), views)
            n, m = self._run(layer_n, n, skip_n, given_n), self._run(layer_m, m, skip_m, given_m)
            if self.cross_view:
                asked = n.chunk(streams)[-1]
                each = m.unflatten(0, (views - 1, streams, -1))  # (V - 1, S, B * T, C, h, w)
                asking = self._run(self.cross_view[k], each[:, -1].flatten(0, 1), asked)
                m = torch.cat([each[:, :-1], asking.unflatten(0, (views - 1, 1, -1))], 1).flatten(0, 2)
        out = torch.cat([decoder_n.output(n), decoder_m.output(m)])
        return out.view(views, streams, batch, frames, *out.shape[-3:])

    def write_out_attention(self) -> None:
        """Compute attention by products of matrices: with a hundred tokens a CPU trains a fifth to a quarter quicker so
        than by ``scaled_dot_product_attention``, whose results differ by rounding."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.set_processor(AttnProcessor())

    def _given(self, level: Tensor, context: Tensor, added_time: Tensor, frames: int) -> _Given:
        """Of N videos: level (N,), context (N, L, D)."""
        dtype = self.conv_in.weight.dtype
        time = self.time_embedding(self.time_proj(level).to(dtype))
        # (numbers,) -> (N, numbers * width)
        added = self.add_time_proj(added_time).flatten().expand(len(level), -1).to(dtype)
        time = time + self.add_embedding(added)
        return _Given(
            time=time.repeat_interleave(frames, 0),
            context=context.repeat_interleave(frames, 0),
            frames=torch.zeros(len(level), frames, dtype=dtype, device=time.device),
        )

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


class CrossView(nn.Module):
    """Attention of some views' pixels to another view's in the same frame, added to the first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(
            query_dim=width, cross_attention_dim=width, heads=heads, dim_head=CROSS_VIEW_HEAD_DIM
        )
        nn.init.zeros_(self.attention.to_out[0].weight)
        nn.init.zeros_(self.attention.to_out[0].bias)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """V views (V * N * T, C, h, w) and the one that all look at, (N * T, C, h, w) -> (V * N * T, C, h, w)."""
        tokens, others = (y.flatten(2).transpose(1, 2) for y in (x, other))  # (... * T, h * w, C)
        seen: Tensor = self.attention(tokens, encoder_hidden_states=others.repeat(len(x) // len(other), 1, 1))
        return x + seen.transpose(1, 2).reshape(x.shape)


class _Decoder(nn.Module):
    """One view's up blocks and what follows them."""

    def __init__(self, stock: UNetSpatioTemporalConditionModel) -> None:
        super().__init__()
        self.up_blocks = stock.up_blocks
        self.conv_norm_out, self.conv_act, self.conv_out = stock.conv_norm_out, stock.conv_act, stock.conv_out

    def layers(self) -> list[Callable[[Tensor, Tensor, _Given], Tensor]]:
        """Each up layer: (N * T, C, h, w) and its skip connection to the next layer's input."""
        return [
            _UpLayer(block, i, last=i == len(block.resnets) - 1)
            for block in self.up_blocks
            for i in range(len(block.resnets))
        ]

    def output(self, hidden: Tensor) -> Tensor:
        """(N * T, C, h, w) -> (N * T, C', h, w)."""
        out: Tensor = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return out


@dataclass(frozen=True)
class _UpLayer:
    """A residual block, its attention where it has one, and after the last of a block the upsampler."""

    block: nn.Module
    index: int
    last: bool

    def __call__(self, hidden: Tensor, skip: Tensor, given: _Given) -> Tensor:
        block: Any = self.block
        hidden = block.resnets[self.index](torch.cat([hidden, skip], 1), given.time, image_only_indicator=given.frames)
        if getattr(block, "has_cross_attention", False):
            hidden = block.attentions[self.index](
                hidden, encoder_hidden_states=given.context, image_only_indicator=given.frames, return_dict=False
            )[0]
        if self.last and block.upsamplers is not None:
            hidden = block.upsamplers[0](hidden)
        return hidden


def _first_and_others(x: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Of the first view and of the others, (N, ...) -> (N / V, ...) and (N - N / V, ...)."""
    first = len(x) // views
    return x[:first], x[first:]


def _call_block(block: Any, hidden: Tensor, given: _Given) -> Any:
    """A whole down or middle block of diffusers."""
    context = {"encoder_hidden_states": given.context} if getattr(block, "has_cross_attention", False) else {}
    return block(hidden, temb=given.time, image_only_indicator=given.frames, **context)


def svd_unet(sizes: UNetSizes, channels: int, frames: int) -> UNetSpatioTemporalConditionModel:
    """Stable Video Diffusion's U-Net of some size, with random weights, for latents of so many channels."""
    levels = len(sizes.block_out_channels)
    return UNetSpatioTemporalConditionModel(
        in_channels=2 * channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * (levels - 1) + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * (levels - 1),
        block_out_channels=sizes.block_out_channels,
        num_attention_heads=sizes.num_attention_heads,
        layers_per_block=sizes.layers_per_block,
        cross_attention_dim=sizes.cross_attention_dim,
        addition_time_embed_dim=sizes.addition_time_embed_dim,
        projection_class_embeddings_input_dim=ADDED_NUMBERS * sizes.addition_time_embed_dim,
        num_frames=frames,
    )
