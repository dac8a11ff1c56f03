"""What each ablation leaves out, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_windows import window

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.model.batch import T_n_cam, apply_ablation, batch_from_windows, frames_of_window
from geo4d_bench.model.config import ABLATIONS
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.model.layered.condition import condition_of
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator
from geo4d_bench.model.layered.losses import true_hands
from geo4d_bench.model.types import FirstFrames

DEBUG = presets().get("layered_debug")


def config(ablation: str, calibrated: bool = False) -> LayeredConfig:
    return dataclasses.replace(DEBUG, calibrated=calibrated).with_ablation(ablation)


def trained(ablation: str, calibrated: bool = False, steps: int = 40) -> tuple[LayeredGenerator, list[float]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = LayeredGenerator(config(ablation, calibrated))
    batch = batch_from_windows([window(i) for i in range(8)])
    optimizer, rng, losses = torch.optim.Adam(generator.parameters(), 3e-3), torch.Generator().manual_seed(0), []
    for _ in range(steps):
        loss = generator.loss(batch, rng).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return generator.eval(), losses


def with_other_n(one: FirstFrames, other: FirstFrames) -> FirstFrames:
    return dataclasses.replace(
        one, rgb=np.stack([other.rgb[0], one.rgb[1]]), points=np.stack([other.points[0], one.points[1]]),
        hand_mask=other.hand_mask, p_n_ee=other.p_n_ee,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ablation", "calibrated"),
    [
        pytest.param(ablation, calibrated, marks=[] if calibrated == number % 2 else [pytest.mark.exhaustive])
        for number, ablation in enumerate(sorted(set(ABLATIONS) - {"none", "native_frame"}))
        for calibrated in (False, True)
    ],
)
def test_every_ablation_learns_and_comes_back_from_its_folder(ablation: str, calibrated: bool, tmp_path: Path) -> None:
    generator, losses = trained(ablation, calibrated)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    generator.save_pretrained(tmp_path)
    again = load_generator(tmp_path)
    assert again.config.ablation == ablation
    first = frames_of_window(window(1))
    if generator.config.generates_video:
        (a,), (b,) = (g.generate([first], [0]) for g in (generator, again))
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.points, b.points)
    else:
        np.testing.assert_array_equal(
            generator.predict_trajectory([first])[0].T_n_ee, again.predict_trajectory([first])[0].T_n_ee
        )


def test_shared_decoders_stay_one() -> None:
    generator, _ = trained("shared_decoders", steps=3)
    network = generator.network
    assert network is not None
    n, m = dict(network.decoder_n.named_parameters()), dict(network.decoder_m.named_parameters())
    assert all(m[name] is n[name] for name in n)
    assert {name.split(".")[2] for name in m.keys() - n.keys()} == {"norm_cross", "cross"}
    separate, _ = trained("none", steps=1)
    count = sum(p.numel() for p in generator.parameters())
    assert sum(p.numel() for p in separate.parameters()) == count + sum(p.numel() for p in n.values())


def test_without_masks_invalid_pixels_are_their_cameras_centre() -> None:
    w = next(w for w in map(window, range(20)) if np.isnan(w.points[:, 1:]).any(axis=(1, 2, 3, 4)).all())
    batch = batch_from_windows([w])
    told = apply_ablation(config("no_mask"), batch)
    invalid = ~batch["valid"][0].numpy()
    assert told["valid"].all()
    assert told["first_valid"].all()
    points = told["points"][0].numpy()
    np.testing.assert_allclose(points[0][invalid[0]], 0, atol=1e-9)
    np.testing.assert_allclose(
        points[1][invalid[1]], np.broadcast_to(w.T_n_m[:3, 3], (int(invalid[1].sum()), 3)), atol=1e-6
    )
    np.testing.assert_array_equal(points[~invalid], batch["points"][0].numpy()[~invalid])
    assert apply_ablation(config("none"), batch) is batch


def test_without_gripper_weight_a_hands_pixel_counts_as_any_other() -> None:
    batch = batch_from_windows([window(i) for i in range(4)])

    def parts(ablation: str, **weights: float) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            generator = LayeredGenerator(dataclasses.replace(config(ablation), **weights))
        return {k: float(v) for k, v in generator.loss(batch, torch.Generator().manual_seed(0)).parts.items()}

    assert DEBUG.loss_frames == DEBUG.frames  # the loss looks at all that is counted below
    usual, without = parts("none"), parts("no_gripper_weight")
    for name, weights in (("rgb", {"hand_weight": 40.0}), ("background", {"hand_weight": 40.0}),
                          ("parts", {"part_weight": 2.0})):  # fmt: skip
        assert parts("none", **weights)[name] != usual[name]
        assert parts("no_gripper_weight", **weights)[name] == without[name]
    on_hand = int(((batch["parts"] > 0) & batch["valid"]).sum())
    assert without["hand"] * int(batch["valid"].sum()) == pytest.approx(usual["hand"] * on_hand, rel=1e-4)


def test_the_native_frame_keeps_view_m_to_itself() -> None:
    w = window(2)
    told = apply_ablation(config("native_frame"), batch_from_windows([w]))
    visible = np.isfinite(w.points[1, 1:]).all(-1)
    np.testing.assert_allclose(told["points"][0, 1].numpy()[visible], w.points[1, 1:][visible], atol=1e-5)
    generator, losses = trained("native_frame")
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    batch = batch_from_windows([w])
    anchor = condition_of(generator.config, batch).anchor
    hands = true_hands(generator.config, batch, anchor)
    p_m = transform(inverse(w.T_n_m), w.T_n_ee[0, 1:, :3, 3])
    normalised = (p_m - np.array(DEBUG.point_mean_m)) / DEBUG.point_scale_m
    np.testing.assert_allclose(hands.position[0, 1, 0].numpy(), normalised, atol=1e-5)
    np.testing.assert_array_equal(hands.start[0, 0], anchor[0, 0])
    np.testing.assert_allclose(hands.start[0, 1, 0], normalised[0], atol=1e-5)  # nobody tells view m where it started
    (video,) = generator.generate([frames_of_window(w)], [0])
    assert np.isfinite(video.points[0]).any()
    assert np.isnan(video.points[1]).all()  # nobody knows how to move them to camera n's frame
    with pytest.raises(ConfigError, match="native_frame is for unknown poses"):
        config("native_frame", calibrated=True)


@pytest.mark.parametrize("ablation", ["svd", "svd_mv"])
def test_rgb_alone_sees_and_makes_no_points(ablation: str) -> None:
    generator, _ = trained(ablation, steps=10)
    one, other = frames_of_window(window(0)), frames_of_window(window(1))
    moved = dataclasses.replace(one, points=one.points + np.float32(0.1), p_n_ee=one.p_n_ee + 0.1)
    a, b, c = generator.generate([one, moved, with_other_n(one, other)], [3, 3, 3])
    assert np.isnan(a.points).all()
    np.testing.assert_array_equal(a.rgb, b.rgb)
    assert np.array_equal(a.rgb[1], c.rgb[1]) == (ablation == "svd")
    with pytest.raises(ConfigError, match="predicts no trajectory"):
        generator.predict_trajectory([one])


def test_trajectory_regression_predicts_poses_and_makes_no_video() -> None:
    generator, _ = trained("trajectory_regression", steps=150)
    windows = [window(i) for i in range(8)]
    hands = generator.predict_trajectory([frames_of_window(w) for w in windows])
    error = np.mean([
        np.linalg.norm((h.T_n_ee - w.T_n_ee[:, 1:])[..., :3, 3], axis=-1) for h, w in zip(hands, windows, strict=True)
    ])  # fmt: skip
    still = np.mean([np.linalg.norm((w.T_n_ee[:, :1] - w.T_n_ee[:, 1:])[..., :3, 3], axis=-1) for w in windows])
    assert error < 0.5 * still
    R = hands[0].T_n_ee[..., :3, :3]
    np.testing.assert_allclose(R @ R.swapaxes(-1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-5)
    assert hands[0].opening_m.shape == (1, 3)
    with pytest.raises(ConfigError, match="makes no video"):
        generator.generate([frames_of_window(windows[0])], [0])


def test_an_unknown_ablation_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of none, no_mv_attention"):
        config("no_attention")


def test_geometry_is_not_rounded_where_networks_compute_in_bfloat16() -> None:
    w = window(2)
    batch = batch_from_windows([w])
    exact = apply_ablation(config("native_frame"), batch)["points"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply_ablation(config("native_frame"), batch)["points"], exact)
        torch.testing.assert_close(T_n_cam(batch)[0, 1].double().numpy(), w.T_n_m, atol=1e-6, rtol=0)
        generator = LayeredGenerator(config("native_frame"))
        hands = true_hands(generator.config, batch, condition_of(generator.config, batch).anchor)
    p_m = transform(inverse(w.T_n_m), w.T_n_ee[0, 1:, :3, 3])
    normalised = (p_m - np.array(DEBUG.point_mean_m)) / DEBUG.point_scale_m
    np.testing.assert_allclose(hands.position[0, 1, 0].numpy(), normalised, atol=1e-5)
