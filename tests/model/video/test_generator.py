"""The video generator through its public door, with all backbones, on a scene of exact geometry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_windows import window

from geo4d_bench.errors import ConfigError, UnknownNameError
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.batch import apply_ablation, batch_from_windows, fake_batch, frames_of_window, input_spec
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.model.layered.generator import LayeredGenerator
from geo4d_bench.model.types import FirstFrames
from geo4d_bench.model.video.autoencoders import POINTS, RGB, Autoencoders, Pixels, inpaint
from geo4d_bench.model.video.conditioning import VALID
from geo4d_bench.model.video.config import AutoencoderSizes, ImageEncoderSizes, VideoConfig
from geo4d_bench.model.video.generator import VideoGenerator

UNET_DEBUG, DIT_DEBUG = presets().get("unet_debug"), presets().get("dit_debug")
SVD = presets().get("svd")

LATENT = dataclasses.replace(
    UNET_DEBUG, latent="autoencoder", diffusion="edm", sample_steps=3, condition_dropout=0.1,
    autoencoder=AutoencoderSizes(block_out_channels=(32, 32, 32), layers_per_block=1),
    image_encoder=ImageEncoderSizes(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
        projection_dim=16,
    ),
)  # fmt: skip
ALL = pytest.mark.parametrize("config", [UNET_DEBUG, LATENT, DIT_DEBUG], ids=["unet", "autoencoder", "dit"])


def build(config: VideoConfig = UNET_DEBUG, seed: int = 0) -> VideoGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VideoGenerator(config)


def train(generator: VideoGenerator, batch: dict[str, torch.Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], 2e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss = generator.loss(batch, rng).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def mean_loss(generator: VideoGenerator, batch: dict[str, torch.Tensor]) -> float:
    """Of the same four draws of levels and noise each time."""
    return float(np.mean([generator.loss(batch, noise(i)).total.item() for i in range(4)]))


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first(seed: int) -> FirstFrames:
    return frames_of_window(window(seed))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    return batch_from_windows([window(i) for i in range(6)])


@pytest.fixture(scope="module")
def trained(batch: dict[str, torch.Tensor]) -> VideoGenerator:
    generator = build()
    train(generator, batch, 10)
    return generator.eval()


@ALL
def test_losses_fall_and_frozen_networks_stay(batch: dict[str, torch.Tensor], config: VideoConfig) -> None:
    few = {k: v[:2] for k, v in batch.items()}
    fresh, generator = build(config), build(config)
    train(generator, few, 60 if config is DIT_DEBUG else 45)
    before, after = ([g.loss(few, noise(i)).parts for i in range(8)] for g in (fresh, generator))
    for name in ("labels", "rgb", "points"):
        assert np.mean([p[name] for p in after]) < 0.8 * np.mean([p[name] for p in before]), name
    frozen = [k for k in fresh.state_dict() if k.startswith("codec.")]
    assert bool(frozen) == (not config.pixels)
    frozen += [] if config.pixels else [k for k in fresh.state_dict() if k.startswith("embedding.")]
    assert all(torch.equal(fresh.state_dict()[k], generator.state_dict()[k]) for k in frozen)


@ALL
def test_invalid_pixels_change_nothing(batch: dict[str, torch.Tensor], config: VideoConfig) -> None:
    generator = build(config)
    train(generator, batch, 1)
    invalid, first_invalid = ~batch["valid"], ~batch["first_valid"]
    assert invalid.any()
    assert first_invalid.any()
    garbage = {k: v.clone() for k, v in batch.items()}
    garbage["points"][invalid] = 100.0
    garbage["first_points"][first_invalid] = -70.0
    assert torch.equal(generator.loss(batch, noise()).total, generator.loss(garbage, noise()).total)
    changed = {k: v.clone() for k, v in batch.items()}
    changed["points"][batch["valid"]] += 0.05
    assert not torch.equal(generator.loss(batch, noise()).total, generator.loss(changed, noise()).total)


@ALL
def test_the_latent_loss_of_the_truth_is_zero(
    batch: dict[str, torch.Tensor], config: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build(config)
    truth, known = generator._latents(*generator._targets(batch))
    wrong = torch.where(known > 0, truth, 1e3)  # what is not known may be anything
    monkeypatch.setattr(generator, "_denoise", lambda *_: wrong)
    assert float(generator.loss(batch, noise()).total) == 0.0
    monkeypatch.setattr(generator, "_denoise", lambda *_: truth + 1.0)
    loss = generator.loss(batch, noise())
    of_points = np.sqrt(3.0 + 0.02**2) - 0.02 if config.pixels else 1.0  # a distance, not a square
    expected = {"labels": 1.0, "rgb": 1.0, "points": of_points}
    assert {k: float(v) for k, v in loss.parts.items()} == pytest.approx(expected, rel=1e-4)
    # w is at least 1 in both families, and M only adds to it.
    assert float(loss.total) >= 0.999


def test_a_latent_counts_by_the_share_of_its_pixels_that_is_valid() -> None:
    valid = torch.ones(1, 1, 8, 12, dtype=torch.bool)
    valid[0, 0, 5, 6] = False
    valid[0, 0, :4, :4] = False
    codec = Autoencoders(build(LATENT).codec.images)
    expected = torch.ones(1, 4, 2, 3)
    expected[:, :, 1, 1], expected[:, :, 0, 0] = 15 / 16, 0
    assert torch.equal(codec.known(valid), expected)
    pixels = Pixels(4)
    assert torch.equal(pixels.decode(POINTS, pixels.known(valid), 1), valid.expand(-1, 3, -1, -1).float())
    images = torch.rand(2, 3, 8, 12)
    assert torch.equal(pixels.decode(RGB, pixels.encode(RGB, images), 1), images)


def test_holes_are_filled_by_the_mean_of_what_is_valid_nearby() -> None:
    rng = torch.Generator().manual_seed(0)
    points, valid = torch.randn(3, 3, 5, 7, generator=rng), torch.rand(3, 1, 5, 7, generator=rng) > 0.5
    valid[1] = False
    valid[2], valid[2, :, 2, 3] = False, True
    valid[0, :, :2, :2] = torch.tensor([[True, False], [False, True]])
    found = inpaint(points, valid)
    there = valid.expand_as(points)
    assert torch.equal(found[there], points[there])
    torch.testing.assert_close(found[0, :, 0, 1], (points[0, :, 0, 0] + points[0, :, 1, 1]) / 2)
    assert not found[1].any()
    torch.testing.assert_close(found[2], points[2, :, 2:3, 3:4].expand(3, 5, 7))  # the only one
    assert torch.equal(inpaint(torch.where(there, points, 9.0), valid), found)


def test_latents_do_not_depend_on_the_precision_that_is_trained_in(batch: dict[str, torch.Tensor]) -> None:
    generator = build(LATENT)
    exact = generator._latents(*generator._targets(batch))[0], *generator._condition(generator._first(batch))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = generator._latents(*generator._targets(batch))[0], *generator._condition(generator._first(batch))
    assert all(torch.equal(a, b) for a, b in zip(exact, mixed, strict=True))


@ALL
def test_checkpoints_come_back_and_generate_the_same_video(config: VideoConfig, tmp_path: Path) -> None:
    generator = build(config).eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.add_(0.02 * torch.randn_like(p))
    generator.save_pretrained(tmp_path)
    again = load_generator(tmp_path)
    assert isinstance(again, VideoGenerator)
    assert again.config == config
    (a,), (b,) = generator.generate([first(0)], [4]), again.generate([first(0)], [4])
    for name in ("rgb", "points", "parts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_generator_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    presets().get("layered_debug").build().save_pretrained(tmp_path)
    assert isinstance(load_generator(tmp_path), LayeredGenerator)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"layered"', '"layerd"'))
    with pytest.raises(UnknownNameError, match="did you mean 'layered'"):
        load_generator(tmp_path)
    assert isinstance(presets().get("unet_debug").build(), VideoGenerator)
    assert presets().get("svd") == SVD


@pytest.mark.parametrize("config", [UNET_DEBUG, DIT_DEBUG], ids=["unet", "dit"])
def test_untrained_it_copies_the_first_frame_and_its_hand(config: VideoConfig) -> None:
    w = window(3)
    (video,) = build(dataclasses.replace(config, calibrated=True)).generate([first(3)], [0])
    np.testing.assert_array_equal(video.rgb, np.repeat(w.rgb[:, :1], 3, axis=1))
    seen = np.isfinite(video.points).all(-1) & np.isfinite(w.points[:, :1]).all(-1)
    own = np.stack([w.points[0, 0], transform(w.T_n_m, w.points[1, 0])])
    difference = np.where(seen[..., None], video.points - own[:, None], 0.0)
    # In float32, through a pose and back out of normalised units.
    assert np.abs(difference).max() < 1e-4
    assert seen.mean() > 0.5
    np.testing.assert_array_equal(video.parts[0], np.repeat(w.hand_mask[None], 3, axis=0))
    assert not video.parts[1].any()


def test_of_two_arms_each_gripper_is_shown_as_its_own(batch: dict[str, torch.Tensor]) -> None:
    generator = build(dataclasses.replace(DIT_DEBUG, arms=2))
    told = fake_batch(generator.config, 2)
    left = torch.arange(told["first_points"].shape[3]) < 10
    for arm, there in ((0, left), (1, ~left)):
        told["first_points"][:, 0, :, there] = told["first_hand"][:, None, None, arm]
    labels = generator._first(told)[:, 0, VALID + 1]
    hand = told["hand_mask"]
    assert torch.equal(labels > 0, hand & left)
    assert torch.equal(labels < 0, hand & ~left)


def test_generated_video_has_shapes_units_and_nan(trained: VideoGenerator) -> None:
    w = window(20)
    (video,) = trained.generate([first(20)], [0])
    assert video.rgb.shape == (2, 3, 16, 24, 3)
    assert video.rgb.dtype == np.uint8
    assert video.points.shape == (2, 3, 16, 24, 3)
    assert video.points.dtype == np.float32
    assert video.parts.shape == (2, 3, 16, 24)
    assert video.parts.dtype == np.uint8
    assert video.parts.max() <= 3
    assert video.dt_s == UNET_DEBUG.dt_s
    np.testing.assert_array_equal(video.K, w.K)
    seen = np.isfinite(video.points).all(-1)
    assert (np.isnan(video.points).any(-1) == ~seen).all()  # a point is whole or absent
    assert seen[video.parts > 0].all()


@ALL
def test_a_video_is_a_function_of_condition_seed_and_steps(config: VideoConfig) -> None:
    generator = build(config).eval()
    with torch.no_grad():
        for p in generator.network.decoders.parameters():
            p.add_(0.03 * torch.randn_like(p))
    conditions = [first(30), first(31)]
    together = generator.generate(conditions, [5, 6], steps=2)
    for condition, seed, video in zip(conditions, [5, 6], together, strict=True):
        (alone,) = generator.generate([condition], [seed], steps=2)
        for name in ("rgb", "points", "parts"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(video, name))
    for video, joint in zip(together, generator.generate(conditions, [5, 6], 2, batch=2), strict=True):
        np.testing.assert_allclose(joint.points, video.points, rtol=1e-4, atol=1e-4)  # how sums are split
    for changed in (generator.generate(conditions[:1], [7], 2), generator.generate(conditions[:1], [5], 1)):
        assert not np.array_equal(changed[0].points, together[0].points, equal_nan=True)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("config", [UNET_DEBUG, DIT_DEBUG], ids=["unet", "dit"])
def test_view_m_sees_view_n_only_through_cross_view_attention(
    batch: dict[str, torch.Tensor], config: VideoConfig, cross: bool
) -> None:
    generator = build(config.with_ablation("none" if cross else "no_mv_attention"))
    train(generator, batch, 5)
    one, other = first(0), first(1)
    swapped = dataclasses.replace(
        one, rgb=np.stack([other.rgb[0], one.rgb[1]]), points=np.stack([other.points[0], one.points[1]])
    )
    a, b = generator.generate([one, swapped], [3, 3])
    assert not np.array_equal(a.rgb[0], b.rgb[0])
    assert np.array_equal(a.points[1], b.points[1], equal_nan=True) == (not cross)
    # The U-Net's pointmap stream alone attends; a token of the transformer is of all streams.
    assert np.array_equal(a.rgb[1], b.rgb[1]) == (config is UNET_DEBUG or not cross)


def of_four_cameras() -> list[FirstFrames]:
    """The pairs of one camera with each of the other three."""
    pairs = {w.cameras[1]: w for w in map(window, range(40)) if w.cameras[0] == "cam00"}
    assert len(pairs) == 3
    return [frames_of_window(w) for w in pairs.values()]


def joined(pairs: list[FirstFrames]) -> FirstFrames:
    """Four views; view n and its hand are the first pair's (another pair is of another moment)."""
    four = pairs[0]
    for other in pairs[1:]:
        four = four.with_view_m_of(other)
    return four


@pytest.mark.parametrize(
    ("calibrated", "ablation"),
    [(False, "none"), (True, "none"), (False, "native_frame"), (False, "svd"), (False, "svd_mv")],
)
@pytest.mark.parametrize(
    "config", [UNET_DEBUG, pytest.param(LATENT, marks=pytest.mark.exhaustive)], ids=["unet", "autoencoder"]
)
def test_each_further_view_of_the_unet_is_generated_as_if_alone_with_view_n(
    config: VideoConfig, calibrated: bool, ablation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build(dataclasses.replace(config, calibrated=calibrated).with_ablation(ablation)).eval()
    with torch.no_grad():
        for p in generator.network.parameters():
            p.add_(0.03 * torch.randn(p.shape, generator=noise(2)))
    views = joined(of_four_cameras())
    (four,) = generator.generate([views], [4], 2)
    assert four.rgb.shape == (4, 3, 16, 24, 3)
    drawn = generator._noise(4, 4)
    assert torch.equal(drawn[:, :2], generator._noise(4, 2))
    for view in range(1, 4):
        assert view == 1 or not torch.equal(drawn[:, view], drawn[:, 1])
        monkeypatch.setattr(generator, "_noise", lambda *_, both=(0, view): drawn[:, both])
        poses = views.T_world_cam
        assert poses is not None
        one = dataclasses.replace(
            views, rgb=views.rgb[[0, view]], points=views.points[[0, view]], K=views.K[[0, view]],
            T_world_cam=poses[[0, view]],
        )  # fmt: skip
        (alone,) = generator.generate([one], [4], 2)
        pair = four.pair(view)
        # Up to the order of sums, which depends on how many samples are computed together: a colour may round the
        # other way, and what is as good as undecided may be decided otherwise.
        assert np.abs(pair.rgb.astype(int) - alone.rgb).max() <= 1
        assert (pair.parts == alone.parts).mean() > 0.99
        seen = np.isfinite(pair.points) & np.isfinite(alone.points)
        assert (np.isfinite(pair.points) == np.isfinite(alone.points)).mean() > 0.99
        assert seen[0].any() != generator.config.rgb_only
        np.testing.assert_allclose(pair.points[seen], alone.points[seen], rtol=1e-4, atol=1e-4)
        assert np.isnan(pair.points[1]).all() != generator.config.shared_frame or generator.config.rgb_only
        np.testing.assert_array_equal(pair.K, alone.K)


def test_poses_move_every_further_view_to_camera_n() -> None:
    views = joined(of_four_cameras())
    (video,) = build(dataclasses.replace(UNET_DEBUG, calibrated=True)).generate([views], [0])
    assert views.T_world_cam is not None
    for view, T_world_m in enumerate(views.T_world_cam):
        # Untrained, the first frame stays.
        T_n_m = np.linalg.inv(views.T_world_cam[0]) @ T_world_m
        difference = video.points[view] - transform(T_n_m, views.points[view])
        assert np.isfinite(difference).mean() > 0.5
        assert np.nanmax(np.abs(difference)) < 1e-4  # in float32, as above


def test_poses_reach_the_calibrated_setting_alone(trained: VideoGenerator) -> None:
    known = first(0)
    assert known.T_world_cam is not None
    unknown = dataclasses.replace(known, T_world_cam=None)
    a, b = trained.generate([known, unknown], [1, 1])
    np.testing.assert_array_equal(a.points, b.points)
    calibrated = build(dataclasses.replace(UNET_DEBUG, calibrated=True))
    with pytest.raises(ConfigError, match="a calibrated generator needs the poses of both cameras"):
        calibrated.generate([unknown], [1])


@pytest.mark.parametrize("arms", [1, 2])
@ALL
def test_a_fake_batch_has_the_keys_shapes_and_dtypes_of_a_real_one(config: VideoConfig, arms: int) -> None:
    config = dataclasses.replace(config, arms=arms)
    fake = fake_batch(config, 2)
    assert fake["hand"].shape == (2, arms, config.frames, 3)
    assert torch.isfinite(build(config).loss(fake, noise()).total)
    if arms == 1:
        real = batch_from_windows([window(0), window(1)])
        assert {k: (tuple(v.shape), v.dtype) for k, v in real.items()} == input_spec(config, 2)


def test_gradient_checkpointing_is_the_configs(batch: dict[str, torch.Tensor]) -> None:
    assert build(dataclasses.replace(UNET_DEBUG, gradient_checkpointing=True)).network.gradient_checkpointing
    assert SVD.gradient_checkpointing


def test_the_pointmap_autoencoder_is_fitted_alone_and_to_valid_pixels(batch: dict[str, torch.Tensor]) -> None:
    batch = {k: v[:2] for k, v in batch.items()}
    assert not batch["valid"].all()
    generator, same = build(LATENT), build(LATENT)
    codec = generator.codec
    before = [{k: v.clone() for k, v in s.state_dict().items()} for s in (codec.images, codec.points)]
    assert all(torch.equal(before[0][k], v) for k, v in before[1].items())
    rows = generator.fit_autoencoder([batch] * 4)
    assert len(rows) == 4
    assert rows[-1]["l1"] < rows[0]["l1"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["l1"])  # at scale 1
    after = [s.state_dict() for s in (codec.images, codec.points)]
    assert all(torch.equal(before[0][k], v) for k, v in after[0].items())
    assert not torch.equal(before[1]["quant_conv.weight"], after[1]["quant_conv.weight"])
    assert not any(p.requires_grad for p in codec.parameters())
    garbage = {**batch, "points": torch.where(batch["valid"][..., None], batch["points"], 50.0)}
    assert same.fit_autoencoder([garbage] * 4) == rows
    with pytest.raises(ConfigError, match="there is no autoencoder to fit"):
        build().fit_autoencoder([batch])


def test_wrong_inputs_get_one_sentence(trained: VideoGenerator) -> None:
    with pytest.raises(ConfigError, match="16 x 24, got 32 x 24"):
        trained.loss(batch_from_windows([window(0, height=32)]), noise())
    with pytest.raises(ConfigError, match="3 frames, got windows of 4"):
        trained.loss(batch_from_windows([window(0, frames=4)]), noise())
    three = {k: torch.cat([v, v[:, 1:2]], 1) if v.ndim > 3 else v for k, v in fake_batch(UNET_DEBUG, 1).items()}
    with pytest.raises(ConfigError, match="trained on pairs of views, generates two or more; got 3"):
        trained.loss(three, noise())
    one = first(0)
    with pytest.raises(ConfigError, match="two or more; got 1"):
        trained.generate([dataclasses.replace(one, rgb=one.rgb[:1], points=one.points[:1], K=one.K[:1])], [0])
    with pytest.raises(ConfigError, match="2 first frames but 1 seeds"):
        trained.generate([first(0), first(1)], [0])


@pytest.mark.parametrize("config", [UNET_DEBUG, DIT_DEBUG], ids=["unet", "dit"])
@pytest.mark.parametrize(
    "ablation", ["shared_decoders", "no_mask", "no_gripper_weight", "native_frame", "svd", "svd_mv"]
)
def test_ablations_leave_out_what_they_say(batch: dict[str, torch.Tensor], config: VideoConfig, ablation: str) -> None:
    generator = build(config.with_ablation(ablation))
    before = mean_loss(generator, batch)
    train(generator, batch, 10)
    assert mean_loss(generator, batch) < before
    one, other = first(0), first(1)
    swapped = dataclasses.replace(
        one, rgb=np.stack([other.rgb[0], one.rgb[1]]), points=np.stack([other.points[0], one.points[1]])
    )
    a, b = generator.generate([one, swapped], [3, 3])
    decoders = generator.network.decoders
    assert (decoders[0] is decoders[1]) == (ablation in ("shared_decoders", "svd"))
    if ablation in ("svd", "svd_mv"):
        assert np.isnan(a.points).all()
        assert np.array_equal(a.rgb[1], b.rgb[1]) == (ablation == "svd")
    elif ablation == "native_frame":
        assert np.isnan(a.points[1]).all()
        assert np.isfinite(a.points[0]).any()
    with pytest.raises(ConfigError, match=f"'{config.name}' predicts no trajectory"):
        config.with_ablation("trajectory_regression")


def latent_loss(generator: VideoGenerator, batch: dict[str, torch.Tensor], denoised: torch.Tensor) -> float:
    """Of a network that takes anything for these latents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "_denoise", lambda *_: denoised)
        return float(generator.loss(batch, noise()).total)


@ALL
def test_without_mask_what_is_made_of_invalid_pixels_counts(
    batch: dict[str, torch.Tensor], config: VideoConfig
) -> None:
    for ablation in ("none", "no_mask"):
        generator = build(config.with_ablation(ablation))
        told = apply_ablation(generator.config, batch)
        truth, _ = generator._latents(*generator._targets(told))
        _, known = generator._latents(*generator._targets(batch))
        assert (known == 0).any()
        assert latent_loss(generator, batch, truth) == 0.0
        off = latent_loss(generator, batch, truth + (known == 0))
        assert off > 0.1 * float((known == 0).float().mean()) if ablation == "no_mask" else off == 0.0


@pytest.mark.parametrize("ablation", ["none", "no_gripper_weight"])
def test_without_gripper_weight_an_error_on_a_hand_counts_as_any_other(ablation: str) -> None:
    config = dataclasses.replace(UNET_DEBUG.with_ablation(ablation), frames=1, hand_dilation=0)  # so that each is read
    generator, batch = build(config), batch_from_windows([window(0, frames=1)])
    truth, _ = generator._latents(*generator._targets(batch))
    shows = torch.nn.functional.max_pool2d((batch["parts"][0, 0, :1] > 0).float(), config.cell)[0]  # (h, w)

    def error_at(cell: torch.Tensor) -> float:
        wrong = truth.clone()
        wrong[0, 0, generator.streams.index(RGB), 0, :, cell[0], cell[1]] += 1.0
        return latent_loss(generator, batch, wrong)

    on, off = error_at(shows.nonzero()[0]), error_at((1 - shows).nonzero()[0])
    assert (on == pytest.approx(off)) == (ablation == "no_gripper_weight")


def test_proprioception_reaches_both_backbones_and_not_rgb_alone() -> None:
    one = first(0)
    moved = dataclasses.replace(one, p_n_ee=one.p_n_ee + 0.1)
    for config in (UNET_DEBUG, DIT_DEBUG):
        for ablation in ("none", "svd_mv"):
            generator = build(config.with_ablation(ablation)).eval()
            with torch.no_grad():
                for p in generator.network.parameters():
                    p.add_(0.05 * torch.randn(p.shape, generator=noise(2)))
            a, b = generator.generate([one, moved], [3, 3])
            assert np.array_equal(a.rgb, b.rgb) == (ablation == "svd_mv")
