"""The U-Net with two decoders: the stock model to the bit until trained, and then apart where it should be."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from small_svd import save_small_svd

from geo4d_bench.model.generators import presets
from geo4d_bench.model.video.config import UNetSizes
from geo4d_bench.model.video.generator import VideoGenerator
from geo4d_bench.model.video.unet import DualDecoderUNet, svd_unet

SVD = presets().get("svd")
SMALL = UNetSizes(
    block_out_channels=(32, 64), num_attention_heads=(1, 2), layers_per_block=2, cross_attention_dim=16,
    addition_time_embed_dim=8, cross_view_heads=2,
)  # fmt: skip
BATCH, FRAMES, CHANNELS = 2, 3, 4


@pytest.fixture(scope="module")
def stock() -> UNetSpatioTemporalConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = svd_unet(SMALL, CHANNELS, FRAMES)
        with torch.no_grad():  # what diffusers starts at zero or at a half hides mistakes
            for p in unet.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return unet.double().eval()


def in_halves(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same function, called for each half of the batch by itself.

    How many samples are computed together decides how a library sums, and so the last bit: the stock model by itself
    differs from itself there. To compare bits it must be called with as many samples as the two decoders are.
    """

    def half(value: object, i: int) -> object:
        if isinstance(value, tuple):
            return tuple(half(v, i) for v in value)
        return value.chunk(2)[i] if isinstance(value, torch.Tensor) else value

    def run(*args: object, **named: object) -> torch.Tensor:
        return torch.cat([function(*half(args, i), **{k: half(v, i) for k, v in named.items()}) for i in range(2)])

    return run


def inputs(views: int = 2) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(views, 2, BATCH, FRAMES, 2 * CHANNELS, 4, 6, generator=rng, dtype=torch.float64)
    context = torch.randn(views, BATCH, 1, 16, generator=rng, dtype=torch.float64)
    return {
        "x": x, "level": torch.randn(BATCH, views, generator=rng, dtype=torch.float64), "context": context,
        "added_time": torch.tensor([1.5, 127.0, 0.0], dtype=torch.float64),
        "proprioception": torch.randn(BATCH, 4, generator=rng, dtype=torch.float64),
    }  # fmt: skip


def dual(stock: UNetSpatioTemporalConditionModel, heads: int = 2) -> DualDecoderUNet:
    return DualDecoderUNet(copy.deepcopy(stock), heads).double()


@torch.no_grad()
def test_untrained_each_view_is_the_stock_model_exactly(stock: UNetSpatioTemporalConditionModel) -> None:
    given = inputs()
    out = dual(stock)(**given)
    assert out.shape == (2, 2, BATCH, FRAMES, CHANNELS, 4, 6)
    assert torch.equal(out, in_one_batch(stock, given))
    # One video by itself, as the stock model is used, up to the order of its sums.
    torch.testing.assert_close(out[1, 1, :1], alone(stock, given, 1, 1), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_from_a_saved_checkpoint_each_view_is_the_library_s_model_exactly(tmp_path: Path) -> None:
    save_small_svd(tmp_path)
    config = dataclasses.replace(SVD, height=64, width=64, frames=FRAMES)
    network = VideoGenerator.from_pretrained(tmp_path, config).eval().network
    library = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path, subfolder="unet").eval()
    given = {k: v.float() for k, v in inputs().items()}  # as the library reads it, and as it is fine-tuned
    out = network(**given)
    assert torch.equal(out, in_one_batch(library, given))
    for view, stream in ((0, 0), (0, 1), (1, 0), (1, 1)):
        torch.testing.assert_close(out[view, stream, :1], alone(library, given, view, stream), rtol=1e-4, atol=1e-5)


def in_one_batch(stock: UNetSpatioTemporalConditionModel, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the stock model makes of each video of two views, (2, S, B, T, C, h, w)."""
    reference = copy.deepcopy(stock)
    for module in (*reference.up_blocks, reference.conv_norm_out, reference.conv_out):
        module.forward = in_halves(module.forward)
    context = given["context"][:, None].expand(-1, 2, -1, -1, -1).flatten(0, 2)
    added_time = given["added_time"].expand(4 * BATCH, -1)
    out: torch.Tensor = reference(
        given["x"].flatten(0, 2), given["level"].T[:, None].expand(-1, 2, -1).flatten(), context, added_time
    ).sample
    return out.view(2, 2, BATCH, *out.shape[1:])


def alone(
    stock: UNetSpatioTemporalConditionModel, given: dict[str, torch.Tensor], view: int, stream: int
) -> torch.Tensor:
    """What it makes of a view's first video by itself, (1, T, C, h, w)."""
    out: torch.Tensor = stock(
        given["x"][view, stream, :1], given["level"][:1, view], given["context"][view, :1], given["added_time"][None]
    ).sample
    return out


@pytest.mark.parametrize("heads", [2, 0])
@torch.no_grad()
def test_each_further_view_is_as_if_alone_with_view_n(stock: UNetSpatioTemporalConditionModel, heads: int) -> None:
    network = dual(stock, heads)
    for p in (*network.decoders[1].parameters(), *network.cross_view.parameters()):
        p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    given = inputs(views=4)
    out = network(**given)
    assert out.shape == (4, 2, BATCH, FRAMES, CHANNELS, 4, 6)
    for view in range(1, 4):
        pair = {**given, "level": given["level"][:, [0, view]]}
        pair |= {name: given[name][[0, view]] for name in ("x", "context")}
        # Up to the order of sums, which depends on how many samples are computed together.
        torch.testing.assert_close(out[[0, view]], network(**pair), rtol=1e-10, atol=1e-10)


def step(network: DualDecoderUNet) -> None:
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    network(**inputs()).square().mean().backward()
    optimizer.step()


def test_after_one_step_the_decoders_differ_and_the_encoder_is_one(stock: UNetSpatioTemporalConditionModel) -> None:
    network = dual(stock)
    n, m = (d.state_dict() for d in network.decoders)
    assert all(torch.equal(n[k], m[k]) for k in n)
    assert not {p.data_ptr() for p in n.values()} & {p.data_ptr() for p in m.values()}
    names = [k for k, _ in network.named_parameters()]
    assert sum("down_blocks" in k or "mid_block" in k for k in names) == sum(
        "down_blocks" in k or "mid_block" in k for k, _ in stock.named_parameters()
    )
    before = {k: v.clone() for k, v in network.state_dict().items()}
    step(network)
    assert not torch.equal(network.conv_in.weight, before["conv_in.weight"])
    assert not any(torch.equal(n[k], m[k]) for k in ("up_blocks.0.resnets.0.spatial_res_block.conv1.weight",
                                                     "conv_out.weight"))  # fmt: skip


@torch.no_grad()
def test_only_the_pointmaps_of_view_m_look_at_the_other_view_and_within_their_frame(
    stock: UNetSpatioTemporalConditionModel,
) -> None:
    network, plain = dual(stock), dual(stock, heads=0)
    for layer in network.cross_view:
        torch.nn.init.normal_(layer.attention.to_out[0].weight, std=0.1)
    given = inputs()
    a, b = network(**given), plain(**given)
    changed = [
        (view, stream) for view in range(2) for stream in range(2) if not torch.equal(a[view, stream], b[view, stream])
    ]
    assert changed == [(1, 1)]
    # Of view n only its pointmaps are looked at; without cross-view attention nothing is.
    for stream, seen in ((0, False), (1, True)):
        other = {**given, "x": given["x"].clone()}
        other["x"][0, stream] += 1.0
        assert torch.equal(network(**other)[1], a[1]) != seen
        assert torch.equal(plain(**other)[1], b[1])


def test_there_is_one_cross_view_layer_a_decoder_layer_and_it_learns(stock: UNetSpatioTemporalConditionModel) -> None:
    network = dual(stock)
    assert len(network.cross_view) == sum(len(b.resnets) for b in stock.up_blocks) == 6
    step(network)
    # A zero output layer learns in the first step; what lies before it gets gradients from then on.
    assert all(layer.attention.to_out[0].weight.abs().max() > 0 for layer in network.cross_view)


def test_gradient_checkpointing_changes_no_gradient(stock: UNetSpatioTemporalConditionModel) -> None:
    gradients, once = [], dual(stock)
    for checkpointing in (False, True):
        network = copy.deepcopy(once)
        network.gradient_checkpointing = checkpointing
        network(**inputs()).square().mean().backward()
        gradients.append({k: p.grad for k, p in network.named_parameters()})
    # What several layers share (the time embedding) sums its gradients in another order.
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)
    assert sum(g is not None for g in gradients[1].values()) > 0.9 * len(gradients[1])


def test_the_full_model_has_as_many_parameters_as_the_paper_says() -> None:
    with torch.device("meta"):
        stock = svd_unet(SVD.unet, SVD.channels, SVD.frames)
        stock_count = count(stock)
        network = DualDecoderUNet(stock, SVD.unet.cross_view_heads)
    assert round(stock_count / 1e6, 1) == 1524.6
    assert [layer.attention.to_q.in_features for layer in network.cross_view] == [1280] * 6 + [640] * 3 + [320] * 3
    # Four matrices c x 512 and one bias c a layer.
    assert count(network.cross_view) == sum(c * (4 * 512 + 1) for c in [1280] * 6 + [640] * 3 + [320] * 3)
    assert round(count(network.cross_view) / 1e6, 1) == 21.6
    own = (network.decoders[1], network.cross_view, network.proprioception)
    assert count(network) == stock_count + sum(map(count, own))
    assert round(count(network.decoders[1]) / 1e9, 3) == 0.855
    assert round(count(network) / 1e9, 2) == 2.40


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def test_written_out_attention_changes_nothing_but_rounding(stock: UNetSpatioTemporalConditionModel) -> None:
    network, given = dual(stock), inputs()
    for p in network.cross_view.parameters():  # zeros would hide its attention
        p.add_(0.1)
    expected = network(**given)
    network.write_out_attention()
    torch.testing.assert_close(network(**given), expected, rtol=1e-10, atol=1e-10)
