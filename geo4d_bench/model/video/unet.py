"""Stable Video Diffusion's U-Net with a decoder for each of two views and cross-view attention between them.

View n is the reference; further views all use view m's decoder and do not attend to one another.
Encoder and middle are shared. View m's decoder is a deep copy of view n's, made after pretrained weights were loaded,
so that the two can differ (paper, section 3.2). After each decoder layer the pointmap stream of view m attends to that
of view n, within each frame; the attention's output starts at zero, so that untrained both views are bit-equal to the
stock model. The forward pass follows ``UNetSpatioTemporalConditionModel.forward`` of diffusers 0.42.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geo4d_bench.model import blocks
from geo4d_bench.model.video.config import UNetSizes

CROSS_VIEW_HEAD_DIM = 64
ADDED_NUMBERS = 3
"""Frame rate, motion and noise, which Stable Video Diffusion's time embedding is given besides the level."""


class _Condition(NamedTuple):
    """What every layer is given of N videos of T frames."""

    time: Tensor  # (N * T, D)
    context: Tensor  # (N * T, L, context)
    still: Tensor  # (N, T) zeros: none of the frames is a still image


class DualDecoderUNet(nn.Module):
    """The network; built from a stock U-Net, whose modules it takes over.

    Args:
        stock: with its weights, pretrained or random.
        cross_view_heads: of ``CROSS_VIEW_HEAD_DIM`` each; 0 leaves cross-view attention out (an ablation of the paper).
        shared_decoders: one decoder's weights serve both views, as in the paper's release.
        proprioception: numbers in a sample's proprioception, which is added to the time embedding, at first as zero.

    Attributes:
        gradient_checkpointing: compute layers anew in the backward pass instead of storing their activations.
    """

    def __init__(
        self,
        stock: UNetSpatioTemporalConditionModel,
        cross_view_heads: int,
        shared_decoders: bool = False,
        proprioception: int = 4,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.time_proj, self.time_embedding = stock.time_proj, stock.time_embedding
        self.add_time_proj, self.add_embedding = stock.add_time_proj, stock.add_embedding
        self.conv_in, self.down_blocks, self.mid_block = stock.conv_in, stock.down_blocks, stock.mid_block
        self.proprioception = nn.Linear(proprioception, stock.time_embedding.linear_2.out_features)
        nn.init.zeros_(self.proprioception.weight)
        nn.init.zeros_(self.proprioception.bias)
        names = ("up_blocks", "conv_norm_out", "conv_act", "conv_out")
        decoder_n = nn.ModuleDict({name: getattr(stock, name) for name in names})
        self.decoders = nn.ModuleList([decoder_n, decoder_n if shared_decoders else copy.deepcopy(decoder_n)])
        widths = [block.resnets[0].spatial_res_block.out_channels for block in stock.up_blocks for _ in block.resnets]
        self.cross_view = nn.ModuleList(CrossView(width, cross_view_heads) for width in widths if cross_view_heads)

    def forward(self, x: Tensor, level: Tensor, context: Tensor, added_time: Tensor, proprioception: Tensor) -> Tensor:
        """Output of all views and streams in one pass.

        Args:
            x: (V, S, B, T, C, h, w) view n, then one view m or several; S streams, of which view m attends to view n in
                the last; noisy latents and condition on channels.
                h and w divide by 2 ** (number of down blocks - 1).
            level: (B, V) the noise levels, as the diffusion gives them to the network.
            context: (V, B, L, D) of each view, for cross-attention.
            added_time: (numbers,) what else the time embedding is given, the same for all.
            proprioception: (B, numbers).

        Returns:
            (V, S, B, T, C', h, w).
        """
        views, streams, batch, frames = x.shape[:4]
        videos, dtype = views * streams * batch, self.conv_in.weight.dtype
        time = self.time_embedding(self.time_proj(level.T[:, None].expand(-1, streams, -1).flatten()).to(dtype))
        time = time + self.add_embedding(self.add_time_proj(added_time).flatten().expand(videos, -1).to(dtype))
        time = time + self.proprioception(proprioception.to(dtype)).repeat(views * streams, 1)
        contexts = context[:, None].expand(-1, streams, -1, -1, -1).flatten(0, 2)  # (N, L, D)
        condition = _Condition(
            time.repeat_interleave(frames, 0),
            contexts.repeat_interleave(frames, 0),
            x.new_zeros(videos, frames, dtype=dtype),
        )
        hidden = self.conv_in(x.flatten(0, 3))  # (N * T, C, h, w), view by view
        skips = [hidden]
        for block in self.down_blocks:
            for index in range(len(block.resnets)):
                hidden = self._layer(block, index, hidden, condition)
                skips.append(hidden)
            if block.downsamplers is not None:
                hidden = self._run(block.downsamplers[0], hidden)
                skips.append(hidden)
        middle = self.mid_block
        hidden = self._run(_residual, middle.resnets[0], hidden, condition)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            hidden = self._run(_attention, attention, hidden, condition)
            hidden = self._run(_residual, resnet, hidden, condition)

        # From here on view n and the others apart.
        n, m = _split_views(hidden, views)
        given_n, given_m = (
            _Condition(*part) for part in zip(*(_split_views(c, views) for c in condition), strict=True)
        )
        decoders: Any = self.decoders
        layers = [[(block, i) for block in d.up_blocks for i in range(len(block.resnets))] for d in decoders]
        for k, ((block_n, index), (block_m, _)) in enumerate(zip(*layers, strict=True)):
            skip_n, skip_m = _split_views(skips.pop(), views)
            n = self._layer(block_n, index, n, given_n, skip_n)
            m = self._layer(block_m, index, m, given_m, skip_m)
            if index == len(block_n.resnets) - 1 and block_n.upsamplers is not None:
                n, m = self._run(block_n.upsamplers[0], n), self._run(block_m.upsamplers[0], m)
            if self.cross_view:
                each = m.unflatten(0, (views - 1, streams, -1))  # (V - 1, S, B * T, C, h, w)
                queries = each[:, -1].flatten(0, 1)
                attended = self._run(self.cross_view[k], queries, n.chunk(streams)[-1])
                m = torch.cat([each[:, :-1], attended.unflatten(0, (views - 1, 1, -1))], 1).flatten(0, 2)
        out = torch.cat([d.conv_out(d.conv_act(d.conv_norm_out(x))) for d, x in zip(decoders, (n, m), strict=True)])
        return out.view(views, streams, batch, frames, *out.shape[-3:])

    def write_out_attention(self) -> None:
        """Compute attention on a CPU by products of matrices: with a hundred tokens it trains a fifth to a quarter
        faster so than by ``scaled_dot_product_attention``, whose results differ by rounding."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.set_processor(_WrittenOutOnCPU())

    def layers(self) -> list[nn.Module]:
        """What computes its activations anew where ``gradient_checkpointing`` asks for it, each by itself."""
        found: list[nn.Module] = [*self.cross_view]
        decoders: Any = self.decoders
        for block in (*self.down_blocks, self.mid_block, *(b for d in decoders for b in d.up_blocks)):
            for name in ("resnets", "attentions", "downsamplers", "upsamplers"):
                found += getattr(block, name, None) or []
        return list(dict.fromkeys(found))

    def _layer(self, block: Any, index: int, hidden: Tensor, c: _Condition, *skip: Tensor) -> Any:
        """Of a block a residual block, of ``hidden`` and the ``skip`` connection to a decoder, and its attention where
        it has one."""
        out = self._run(_residual, block.resnets[index], hidden, c, *skip)
        if getattr(block, "has_cross_attention", False):
            out = self._run(_attention, block.attentions[index], out, c)
        return out

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Nothing in a layer draws random numbers.
            return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
        return function(*args)


class _WrittenOutOnCPU:
    def __init__(self) -> None:
        self._cpu, self._gpu = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attention: Attention, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (self._cpu if blocks.written_out(hidden) else self._gpu)(attention, hidden, *args, **kwargs)


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
        """V views (V * N * T, C, h, w) and the one that all attend to, (N * T, C, h, w) -> (V * N * T, C, h, w)."""
        tokens, others = (y.flatten(2).transpose(1, 2) for y in (x, other))  # (... * T, h * w, C)
        seen: Tensor = self.attention(tokens, encoder_hidden_states=others.repeat(len(x) // len(other), 1, 1))
        return x + seen.transpose(1, 2).reshape(x.shape)


def _residual(resnet: nn.Module, hidden: Tensor, c: _Condition, *skip: Tensor) -> Tensor:
    joined = torch.cat([hidden, *skip], 1) if skip else hidden
    out: Tensor = resnet(joined, c.time, image_only_indicator=c.still)
    return out


def _attention(attention: nn.Module, hidden: Tensor, c: _Condition) -> Tensor:
    given = {"encoder_hidden_states": c.context, "image_only_indicator": c.still}
    out: Tensor = attention(hidden, **given, return_dict=False)[0]
    return out


def _split_views(x: Tensor, views: int) -> tuple[Tensor, ...]:
    """The first view's and the others', (N, ...) -> (N / V, ...) and (N - N / V, ...)."""
    return x.tensor_split([len(x) // views])


def svd_unet(sizes: UNetSizes, channels: int, frames: int) -> UNetSpatioTemporalConditionModel:
    """Stable Video Diffusion's U-Net of some size, with random weights, for latents of so many channels."""
    levels = len(sizes.block_out_channels)
    return UNetSpatioTemporalConditionModel(
        in_channels=2 * channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * (levels - 1) + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * (levels - 1),
        projection_class_embeddings_input_dim=ADDED_NUMBERS * sizes.addition_time_embed_dim,
        num_frames=frames,
        **{k: v for k, v in dataclasses.asdict(sizes).items() if k != "cross_view_heads"},
    )
