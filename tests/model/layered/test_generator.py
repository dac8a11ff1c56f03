"""The generator through its public door, on windows of a made-up scene with exact geometry."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from synthetic_windows import window

from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.model.batch import batch_from_windows, fake_batch, frames_of_window
from geo4d_bench.model.generators import presets
from geo4d_bench.model.layered.condition import condition_of
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator
from geo4d_bench.model.layered.localise import SceneMap
from geo4d_bench.model.layered.patches import from_patches, to_patches
from geo4d_bench.model.layered.poses import camera_poses
from geo4d_bench.model.layered.tokens import ViewDecoder
from geo4d_bench.model.types import FirstFrames

DEBUG = presets().get("layered_debug")


def build(config: LayeredConfig = DEBUG, seed: int = 0) -> LayeredGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LayeredGenerator(config)


def train(generator: LayeredGenerator, batch: dict[str, torch.Tensor], steps: int) -> list[float]:
    optimizer = torch.optim.Adam(generator.parameters(), 3e-3)
    rng = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        loss = generator.loss(batch, rng).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def decoders(generator: LayeredGenerator) -> tuple[ViewDecoder, ViewDecoder]:
    assert generator.network is not None
    return generator.network.decoder_n, generator.network.decoder_m


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first(seed: int) -> FirstFrames:
    return frames_of_window(window(seed))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    return batch_from_windows([window(i) for i in range(8)])


@pytest.fixture(scope="module")
def trained(batch: dict[str, torch.Tensor]) -> LayeredGenerator:
    generator = build()
    train(generator, batch, 60)
    return generator.eval()


def test_a_generator_that_has_found_cameras_can_be_copied(batch: dict[str, torch.Tensor]) -> None:
    generator = build().eval()
    windows = [window(i) for i in range(4)]
    generator.set_priors(windows)
    (video,) = generator.generate([first(0)], [0])
    (again,) = copy.deepcopy(generator).generate([first(0)], [0])
    np.testing.assert_array_equal(video.points, again.points)
    with pytest.raises(ConfigError, match="steps is 0, expected at least 1"):
        generator.generate([first(0)], [0], 0)


def test_loss_falls(batch: dict[str, torch.Tensor]) -> None:
    losses = train(build(), batch, 40)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_view_m_targets_lie_in_frame_n() -> None:
    for seed in range(6):
        w = window(seed)
        batch = batch_from_windows([w])
        for view in range(2):
            for t in range(3):
                on_hand = (batch["parts"][0, view, t] > 0) & batch["valid"][0, view, t]
                offset = batch["points"][0, view, t][on_hand].numpy() - w.T_n_ee[0, t + 1, :3, 3]
                # The synthetic hand is a square of half width 0.12 m about T_n_ee: in frame n nothing of it is
                # farther than half a diagonal, whichever view saw it.
                assert len(offset)
                assert np.linalg.norm(offset, axis=-1).max() < 0.12 * np.sqrt(2) + 1e-4
        # The same bound is broken by points left in frame m, and by points moved the wrong way.
        hand_m = w.points[1, 1:][w.parts[1, 1:] > 0]
        for wrong in (hand_m, transform(inverse(w.T_n_m), hand_m)):
            assert np.linalg.norm(wrong - w.T_n_ee[0, 1, :3, 3], axis=-1).max() > 0.12 * np.sqrt(2) + 0.01


def test_condition_of_view_m_stays_in_its_own_frame() -> None:
    w = window(0)
    points = batch_from_windows([w])["first_points"][0, 1].numpy()
    np.testing.assert_array_equal(points, np.nan_to_num(w.points[1, 0]))


def test_invalid_pixels_change_nothing(batch: dict[str, torch.Tensor], trained: LayeredGenerator) -> None:
    invalid, first_invalid = ~batch["valid"], ~batch["first_valid"]
    assert invalid.any()
    assert first_invalid.any()
    garbage = {k: v.clone() for k, v in batch.items()}
    garbage["points"][invalid] = 100.0
    garbage["first_points"][first_invalid] = -70.0
    assert torch.equal(trained.loss(batch, noise()).total, trained.loss(garbage, noise()).total)
    changed = {k: v.clone() for k, v in batch.items()}
    changed["points"][batch["valid"]] += 0.05
    assert not torch.equal(trained.loss(batch, noise()).total, trained.loss(changed, noise()).total)


def test_decoders_are_separate(batch: dict[str, torch.Tensor]) -> None:
    generator = build()
    n, m = decoders(generator)
    m.load_state_dict(n.state_dict(), strict=False)
    shared = [k for k, v in n.state_dict().items() if torch.equal(v, m.state_dict()[k])]
    assert set(shared) == set(n.state_dict())
    assert not {p.data_ptr() for p in n.parameters()} & {p.data_ptr() for p in m.parameters()}
    train(generator, batch, 1)
    for name in ("to_pixels.weight", "blocks.0.mlp.0.weight"):
        assert not torch.equal(n.state_dict()[name], m.state_dict()[name])


@pytest.mark.parametrize("cross", [True, False])
def test_view_m_sees_view_n_only_through_cross_view_attention(batch: dict[str, torch.Tensor], cross: bool) -> None:
    generator = build(DEBUG.with_ablation("none" if cross else "no_mv_attention"))
    train(generator, batch, 10)
    one, other = first(0), first(1)
    swapped = dataclasses.replace(
        one, rgb=np.stack([other.rgb[0], one.rgb[1]]), points=np.stack([other.points[0], one.points[1]]),
        hand_mask=other.hand_mask, p_n_ee=other.p_n_ee,
    )  # fmt: skip
    a, b = generator.generate([one, swapped], [3, 3])
    assert not np.array_equal(a.rgb[0], b.rgb[0])
    same = np.array_equal(a.rgb[1], b.rgb[1]) and np.array_equal(a.points[1], b.points[1], equal_nan=True)
    assert same == (not cross)


def test_poses_reach_the_calibrated_setting_alone(batch: dict[str, torch.Tensor], trained: LayeredGenerator) -> None:
    calibrated = build(dataclasses.replace(DEBUG, calibrated=True))
    losses = train(calibrated, batch, 30)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    known = first(0)
    assert known.T_world_cam is not None
    turned = dataclasses.replace(known, T_world_cam=known.T_world_cam[::-1].copy())
    unknown = dataclasses.replace(known, T_world_cam=None)
    plain = [v.points for v in trained.generate([known, turned, unknown], [1, 1, 1])]
    np.testing.assert_array_equal(plain[0], plain[1])
    np.testing.assert_array_equal(plain[0], plain[2])
    a, b = (v.points for v in calibrated.generate([known, turned], [1, 1]))
    assert not np.array_equal(a, b, equal_nan=True)
    with pytest.raises(ConfigError, match="a calibrated generator needs the poses of both cameras"):
        calibrated.generate([unknown], [1])


def test_given_cameras_take_the_place_of_found_ones(trained: LayeredGenerator) -> None:
    given = copy.deepcopy(trained)
    given.cameras_given = True
    assert (given.finds_cameras, build(dataclasses.replace(DEBUG, calibrated=True)).finds_cameras) == (True, False)
    known = first(0)
    turned = dataclasses.replace(known, T_world_cam=known.T_world_cam[::-1].copy())
    T = torch.from_numpy(np.stack([known.T_world_cam, turned.T_world_cam]).astype(np.float32))
    expected = camera_poses(given.config, T, given.config.work_centre_m)
    torch.testing.assert_close(given._prepare([known, turned])[1], expected)
    a, b = (v.points for v in given.generate([known, turned], [1, 1]))
    assert not np.array_equal(a, b, equal_nan=True)


def test_the_calibrated_setting_knows_where_camera_m_is() -> None:
    """Untrained, it copies the first frame: view m's points then lie exactly where camera m's pose puts them."""
    w = window(3)
    generator = build(dataclasses.replace(DEBUG, calibrated=True, work_centre_m=(0.3, -0.1, 0.2)))
    (video,) = generator.generate([frames_of_window(w)], [0])
    copied = transform(w.T_n_m, w.points[1, 0])
    seen = np.isfinite(copied).all(-1) & (video.parts[1] == 0) & np.isfinite(video.points[1]).all(-1)
    assert seen.mean() > 0.5
    # "As in the first frame" starts at a logit of 2, what is new at 0, at the mean depth: 12 % of the way to it. What
    # hands take along starts at -1.
    nearer = 1 / (1 + np.exp(2)) * (DEBUG.point_mean_m[2] - w.points[1, 0, ..., 2:]) / w.points[1, 0, ..., 2:]
    blended = transform(w.T_n_m, (1 + nearer) * w.points[1, 0])
    off = np.linalg.norm(video.points[1] - blended, axis=-1)[seen]
    assert np.median(off) < 0.03


@torch.no_grad()
def test_cameras_are_found_by_the_map_from_the_networks_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    w = window(3)
    generator = build(dataclasses.replace(DEBUG, work_centre_m=(0.3, -0.1, 0.2)))
    batch = batch_from_windows([w])
    predictor = generator.predictor
    assert predictor is not None
    inputs = condition_of(generator.config, batch).inputs
    points, valid = batch["first_points"], batch["first_valid"]
    guessed = predictor.find_cameras(inputs)
    torch.testing.assert_close(predictor.locate(inputs, points, valid), guessed)  # no map yet
    generator.set_priors([w])
    poses = iter([w.T_world_n, w.T_world_n @ w.T_n_m])
    guesses, counts = [], []

    def find(self: SceneMap, points: np.ndarray, guess: np.ndarray) -> np.ndarray:
        guesses.append(guess)
        counts.append(len(points))
        return next(poses)

    monkeypatch.setattr(SceneMap, "find", find)
    found = predictor.locate(inputs, points, valid)
    torch.testing.assert_close(
        found, camera_poses(generator.config, batch["T_world_cam"], generator.config.work_centre_m)
    )
    assert counts == valid[0].sum((1, 2)).tolist()
    T = torch.from_numpy(np.stack(guesses).astype(np.float32))[None]
    again = camera_poses(generator.config, T, generator.config.work_centre_m)
    torch.testing.assert_close(again, guessed, atol=1e-5, rtol=0)


def test_generated_video_has_shapes_units_and_nan(trained: LayeredGenerator) -> None:
    w = window(20)
    (video,) = trained.generate([first(20)], [0])
    assert video.rgb.shape == (2, 3, 16, 24, 3)
    assert video.rgb.dtype == np.uint8
    assert video.points.shape == (2, 3, 16, 24, 3)
    assert video.points.dtype == np.float32
    assert video.parts.shape == (2, 3, 16, 24)
    assert video.parts.max() <= 3
    assert video.dt_s == DEBUG.dt_s
    np.testing.assert_array_equal(video.K, w.K)
    known = np.isfinite(video.points).all(-1)
    assert (np.isnan(video.points).any(-1) == ~known).all()  # a point is whole or absent
    assert known[video.parts > 0].all()  # wherever a hand is shown it has a place
    error = np.linalg.norm(video.points[0] - w.points[0, 1:], axis=-1)
    assert np.nanmedian(error) < 0.05  # the wall hardly needs training: it stays where it was


def test_seeds_reproduce_and_a_batch_equals_single_calls(trained: LayeredGenerator) -> None:
    conditions = [first(30), first(31)]
    together = trained.generate(conditions, [5, 6])
    for condition, seed, video in zip(conditions, [5, 6], together, strict=True):
        (alone,) = trained.generate([condition], [seed])
        for name in ("rgb", "points", "parts"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(video, name))
    for video, joint in zip(together, trained.generate(conditions, [5, 6], batch=2), strict=True):
        np.testing.assert_allclose(joint.points, video.points, rtol=0, atol=1e-4)  # how sums are split
    (other,) = trained.generate(conditions[:1], [7])
    assert not np.array_equal(other.points, together[0].points)


@pytest.mark.parametrize("steps", [1, 4])
def test_more_steps_are_allowed(trained: LayeredGenerator, steps: int) -> None:
    (video,) = trained.generate([first(0)], [0], steps=steps)
    assert np.isfinite(video.points).any()


def test_hand_mask_may_be_unknown(trained: LayeredGenerator) -> None:
    (video,) = trained.generate([dataclasses.replace(first(0), hand_mask=None)], [0])
    assert np.isfinite(video.points).any()


def test_two_arms(batch: dict[str, torch.Tensor]) -> None:
    two = {k: v.clone() for k, v in batch.items()}
    for name in ("hand", "hand_rotation", "hand_opening", "first_hand", "opening"):
        two[name] = two[name].repeat_interleave(2, dim=1)
    two["parts"][:4][two["parts"][:4] > 0] += 3
    generator = build(dataclasses.replace(DEBUG, arms=2))
    losses = train(generator, two, 30)
    assert losses[-1] < 0.8 * losses[0]
    one = first(0)
    both = dataclasses.replace(one, p_n_ee=np.tile(one.p_n_ee, (2, 1)), opening_m=np.tile(one.opening_m, 2))
    assert generator.generate([both], [0])[0].parts.max() <= 6
    with pytest.raises(ConfigError, match=r"made for 2 arm\(s\), got 1"):
        generator.generate([one], [0])


def test_wrong_inputs_get_one_sentence(trained: LayeredGenerator) -> None:
    with pytest.raises(ConfigError, match="16 x 24, got 32 x 24"):
        trained.loss(batch_from_windows([window(0, height=32)]), noise())
    with pytest.raises(ConfigError, match="3 frames, got windows of 4"):
        trained.loss(batch_from_windows([window(0, frames=4)]), noise())
    with pytest.raises(ConfigError, match="2 first frames but 1 seeds"):
        trained.generate([first(0), first(1)], [0])
    with pytest.raises(DatasetError, match="different shapes"):
        batch_from_windows([window(0), window(1, height=32)])
    with pytest.raises(DatasetError, match="at least one"):
        batch_from_windows([])


def test_patches_come_back() -> None:
    images = torch.arange(2 * 2 * 3 * 16 * 24 * 5).view(2, 2, 3, 16, 24, 5)
    patches = to_patches(images, 8)
    assert patches.shape == (2, 2, 6, 5, 3, 64)
    assert torch.equal(from_patches(patches, 8, 16, 24), images)
    assert torch.equal(patches[0, 0, 4, 2, 0, :8], images[0, 0, 0, 8, 8:16, 2])  # second row, second column of patches


def test_further_views_join_in_one_pass(batch: dict[str, torch.Tensor]) -> None:
    calibrated = build(dataclasses.replace(DEBUG, calibrated=True))
    train(calibrated, batch, 30)
    eyes = [w for w in (window(i) for i in range(40)) if w.cameras[0] == "cam00"]
    pairs = {w.cameras[1]: dataclasses.replace(w) for w in eyes}
    assert len(pairs) == 3
    one, *others = (frames_of_window(w) for w in pairs.values())
    four = one
    for other in others:
        four = four.with_view_m_of(other)
    two_views, four_views = calibrated.generate([one, four], [4, 4])
    assert four_views.rgb.shape == (4, 3, 16, 24, 3)
    for view, (name, w) in enumerate(pairs.items(), 1):
        # Whichever view saw it, in camera n's frame a wall's point lies on the plane of view n's wall.
        pair = four_views.pair(view)
        wall = transform(w.T_world_n, pair.points[1, 0][pair.parts[1, 0] == 0])[:, 0]
        assert abs(np.nanmedian(wall)) < 0.1, name
    assert np.array_equal(four_views.pair(1).K, two_views.K)
    assert not np.array_equal(four_views.rgb[1], two_views.rgb[1])  # all views attend to one another


@pytest.mark.parametrize("preset", ["layered_debug", "layered_nano", "layered_small"])
def test_every_preset_learns_from_its_own_fake_batch(preset: str) -> None:
    generator = build(presets().get(preset))
    fake = fake_batch(generator.config, 1)
    loss = generator.loss(fake, noise())
    loss.total.backward()
    without = [k for k, p in generator.named_parameters() if p.grad is None]
    assert not without
    assert np.isfinite(np.array(list(loss.parts.values()))).all()
