"""The video transformer: what its tokens attend to, and what it costs."""

from __future__ import annotations

import dataclasses
import re
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor.utils import run_fw_bw_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.model.batch import batch_from_windows, fake_batch, fake_window, frames_of_window
from geo4d_bench.model.generators import presets
from geo4d_bench.model.video import dit
from geo4d_bench.model.video import generator as generator_module
from geo4d_bench.model.video.config import DiTConfig
from geo4d_bench.model.video.dit import VideoTransformer

DEBUG = presets().get("dit_debug")
B, T, C, CELLS = 2, 3, DEBUG.channels, (4, 6)


def network(c: DiTConfig = DEBUG) -> VideoTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VideoTransformer(c, 3, 4).double().eval()
        with torch.no_grad():  # zeros hide mistakes
            for p in made.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return made


def inputs(views: int = 2) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    return {
        "x": normal(views, 3, B, T, C, *CELLS), "first": normal(views, 3, B, 1, C, *CELLS),
        "context": normal(B, views, CELLS[0] * CELLS[1], DEBUG.dim),
        "level": torch.tensor([0.3, 900.0], dtype=torch.float64)[:, None].repeat(1, views),
        "proprioception": normal(B, 4),
    }  # fmt: skip


def changed(given: dict[str, torch.Tensor], name: str, *at: int) -> dict[str, torch.Tensor]:
    other = {**given, name: given[name].clone()}
    other[name][at] += 1.0
    return other


@torch.no_grad()
def test_a_sample_is_made_of_all_its_inputs_and_of_nothing_else() -> None:
    made, given = network(), inputs()
    out = made(**given)
    assert out.shape == given["x"].shape
    places = {"x": (1, 2, 0), "first": (1, 2, 0), "context": (0, 1, 0, 0), "level": (0, 1), "proprioception": (0, 3)}
    for name, at in places.items():
        other = made(**changed(given, name, *at))
        differs = (other != out).movedim(2, 0).flatten(1).any(1)
        assert differs.tolist() == [True, False], name
    # Every frame of every view depends on the first frames of both.
    assert (made(**changed(given, "context", 0, 1, 0, 0)) != out)[:, :, 0].all()
    some = torch.tensor([0, 2])
    of_some = made(**{**given, "x": given["x"][:, :, :, some]}, frames=some)
    assert of_some.shape[3] == 2
    every = made(**given, frames=torch.arange(T))
    assert torch.equal(every, out)


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_without_attention_between_views_each_is_by_itself(shared: bool) -> None:
    c = dataclasses.replace(DEBUG, cross_view_attention=False, shared_decoders=shared)
    made, given = network(c), inputs(views=3)
    assert (made.decoders[0] is made.decoders[1]) == shared
    assert not made.cross_view
    out = made(**given)
    for view in range(3):
        of_context = changed(given, "context", slice(None), view, slice(None), 0)
        for other in (changed(given, "x", view), changed(given, "first", view), of_context):
            differs = (made(**other) != out).flatten(1).any(1)
            assert differs.tolist() == [v == view for v in range(3)]


@torch.no_grad()
def test_further_views_are_treated_alike() -> None:
    made, given = network(), inputs(views=4)
    order = [0, 3, 1, 2]
    given["level"] += torch.arange(4)
    permuted = {
        k: v[order] if k in ("x", "first") else v[:, order] if k in ("context", "level") else v
        for k, v in given.items()
    }
    torch.testing.assert_close(made(**permuted), made(**given)[order], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_view_m_attends_to_view_n_in_each_decoder_layer() -> None:
    made, given = network(), inputs()
    assert len(made.cross_view) == DEBUG.decoder_layers
    out = made(**given)
    for layer in made.cross_view:
        layer.out.weight.zero_()
        layer.out.bias.zero_()
        without = made(**given)
        assert torch.equal(without[0], out[0])
        assert not torch.equal(without[1], out[1])
        out = without


class Kernels(TorchDispatchMode):
    """Counts what computes or copies: on a GPU each is a kernel to launch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.overloadpacket.__name__ not in ("_unsafe_view", "detach")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_layer_launches_at_most_fifteen_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dit, "attend", torch.nn.functional.scaled_dot_product_attention)  # as on a GPU
    counts, given = [], {k: v.float() for k, v in inputs().items()}
    for layers in (3, 6, 9):
        made = network(dataclasses.replace(DEBUG, trunk_layers=layers)).float()
        with Kernels() as kernels:
            made(**given)
        counts.append(kernels.count)
    assert counts[2] - counts[1] == counts[1] - counts[0] <= 3 * 15


@pytest.mark.filterwarnings("ignore")  # compilers warn of what is theirs
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a processor with g++")
def test_a_compiled_layer_launches_at_most_fifteen_kernels_in_either_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's code for a processor, which merges what its code for a GPU merges."""
    monkeypatch.setattr(dit, "attend", torch.nn.functional.scaled_dot_product_attention)  # as on a GPU
    layer = dit.Layer(DEBUG, 0)
    layer.compile(dynamic=False, fullgraph=True)
    x, modulation = torch.randn(2, 3, 2, 24, DEBUG.dim), torch.randn(2, 2, 6, DEBUG.dim)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x.requires_grad_(), modulation.requires_grad_())

    _, passes = run_fw_bw_and_get_code(forward)
    assert len(passes) == 2
    for code in passes:
        calls = re.findall(
            r"^\s+cpp_fused\w*\(|extern_kernels\.\w+\(|torch\.ops\.aten\.[\w.]+\(",
            code[code.rindex("def call(") :],
            re.M,
        )
        assert 8 <= len(calls) <= 15


def test_muon_trains_the_matrices_inside_layers() -> None:
    generator = DEBUG.build()
    groups = generator.optimizer_groups()
    assert {p.ndim for p in groups["muon"]} == {2}
    names = {id(p): name for name, p in generator.named_parameters()}
    assert len(groups["muon"]) + len(groups["adamw"]) == len(names)
    assert {names[id(p)].split(".")[1] for p in groups["muon"]} == {"trunk", "decoders", "cross_view"}
    inside = len(groups["muon"])
    assert inside == 4 * (DEBUG.trunk_layers + 2 * DEBUG.decoder_layers) + 3 * DEBUG.decoder_layers
    batch = fake_batch(DEBUG, 2)
    generator.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad is not None for p in generator.parameters())


def two_futures() -> list[Window]:
    """From one first frame a square goes to the left or to the right; both views see the same."""
    windows = []
    for step in (-4, 4):
        shows = np.zeros((2, 2, 4, 12), np.uint8)
        shows[:, 0, 1:3, 5:7], shows[:, 1, 1:3, 5 + step : 7 + step] = 1, 1
        rgb = np.where(shows[..., None] > 0, [220, 60, 60], 60).astype(np.uint8)
        K = np.array([[16.0, 0, 5.5], [0, 16.0, 1.5], [0, 0, 1]])
        points = depth_to_points(np.where(shows > 0, 0.8, 1.0), K)
        windows.append(
            Window(
                rgb=rgb, points=points, parts=shows, hand_mask=shows[0, 0] > 0, K=np.stack([K, K]), T_n_m=np.eye(4),
                T_world_n=np.eye(4), T_n_ee=np.tile(np.eye(4), (1, 2, 1, 1)), opening_m=np.full((1, 2), 0.04), dt_s=0.4,
                episode="made up", start=0, cameras=("n", "m"),
            )
        )  # fmt: skip
    return windows


def test_two_futures_are_sampled_apart_and_not_between_and_both_views_show_the_same() -> None:
    c = dataclasses.replace(
        DEBUG, height=4, width=12, frames=1, dim=48, trunk_layers=1, decoder_layers=1, hand_weight=0.0,
        pure_noise_share=0.1, point_mean_m=(0.0, 0.0, 1.0), point_scale_m=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = c.build()
    windows = two_futures()
    batch = batch_from_windows(windows * 8)
    optimizer, rng = torch.optim.Adam(generator.parameters(), 3e-3), torch.Generator().manual_seed(0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, 450)
    for _ in range(450):
        optimizer.zero_grad()
        generator.loss(batch, rng).total.backward()
        optimizer.step()
        schedule.step()
    generator.eval()
    first = frames_of_window(windows[0])
    for steps in (1, c.sample_steps, 8):
        videos = generator.generate([first] * 24, range(24), steps, batch=24)
        # How bright the square is at the left and at the right of each view, 0 to 1, in each sample.
        red = np.stack([(v.rgb[:, 0, 1:3, :, 0].mean(1) - 60.0) / 160.0 for v in videos])
        left, right = red[..., 1:3].mean(-1), red[..., 9:11].mean(-1)
        if steps == 1:  # the mean of both
            assert np.abs(left - right).max() < 0.2
            continue
        goes_left = left > right
        assert 6 <= goes_left[:, 0].sum() <= 18
        assert (goes_left[:, 0] == goes_left[:, 1]).mean() > 0.9
        # What rounds otherwise on another processor changes how clear a sample is after so short a training.
        assert (np.abs(left - right).mean(0) > (0.75 if steps == 8 else 0.4)).all()
    alone = (np.maximum(left, right) > 0.8) & (np.minimum(left, right) < 0.2)
    assert (alone.mean(0) > 0.5).all()
    # The gripper that a policy would follow is where the square is.
    moved = [np.median(v.points[0, 0][v.parts[0, 0] > 0][:, 0]) for v in np.array(videos, dtype=object)[alone[:, 0]]]
    assert (np.sign(moved) == np.where(goes_left, -1, 1)[alone[:, 0], 0]).all()


@pytest.fixture
def gpus_bf16(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """What a GPU does in bfloat16, on the CPU; the types of what the layers were given."""
    seen: list[torch.dtype] = []
    forward = dit.Layer.forward
    monkeypatch.setattr(generator_module, "in_bf16", lambda device: torch.autocast("cpu", torch.bfloat16))
    autocast = torch.get_autocast_dtype
    monkeypatch.setattr(
        dit, "_layers_dtype", lambda x: autocast("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    )
    monkeypatch.setattr(dit.Layer, "forward", lambda self, x, shared: seen.append(x.dtype) or forward(self, x, shared))
    return seen


def test_bfloat16_changes_a_plan_by_millimetres(request: pytest.FixtureRequest) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = DEBUG.build().eval()
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(0.02 * torch.randn_like(p))
    first = frames_of_window(fake_window(DEBUG))
    (exact,) = generator.generate([first], [0], 4)
    seen = request.getfixturevalue("gpus_bf16")
    (rounded,) = generator.generate([first], [0], 4)
    assert set(seen) == {torch.bfloat16}
    off = np.abs(rounded.points - exact.points)
    assert 0 < np.nanmedian(off) < 0.005
    assert np.nanquantile(off, 0.99) < 0.05  # more far from the hands
    assert np.abs(rounded.rgb.astype(int) - exact.rgb.astype(int)).mean() < 1.0


def test_tokens_and_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(gpus_bf16: list[torch.dtype]) -> None:
    made, given = network().float(), {k: v.float() for k, v in inputs().items()}
    with torch.autocast("cpu", torch.bfloat16):
        out = made(**given)
    assert out.dtype == torch.float32
    assert set(gpus_bf16) == {torch.bfloat16}
    out.square().sum().backward()
    rounded = torch.cat([p.grad.flatten() for p in made.parameters()])
    made.zero_grad()
    expected = network()(**inputs())
    assert (out - expected).square().mean().sqrt() < 0.02 * expected.std()
    assert rounded.isfinite().all()


def test_weights_that_are_cast_together_give_what_autocast_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network().float()
    given = {k: v.float() for k, v in inputs().items()}

    def found() -> list[torch.Tensor]:
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = made(**given)
        out.square().mean().backward()
        return [out.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)]

    together = found()
    monkeypatch.setattr(dit, "_ready", lambda device, *layers: [(layer.weight, layer.bias) for layer in layers])
    one_by_one = found()
    assert len(together) == len(one_by_one) > 50
    assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))
