"""Sensors against their formulas, on planes and steps whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from geo4d_bench.dataset.sensors import SENSORS, Depth, Estimated, Sensor, SensorName, Stereo, start_video
from geo4d_bench.geometry.camera import intrinsics

H, W = 64, 80
K = intrinsics(np.deg2rad(60.0), H, W)
QUIET = Stereo(noise_px=0.0)


def flat(z: float, frames: int = 1) -> Depth:
    return np.full((frames, H, W), z, dtype=np.float32)


def tilted(angle_deg: float, across: str) -> Depth:
    """A plane through (0, 0, 1) m turned about the camera's y axis (``across`` x) or x axis (y), seen by each ray."""
    slope = np.tan(np.deg2rad(angle_deg))
    x, y = (np.arange(W) - K[0, 2]) / K[0, 0], ((np.arange(H) - K[1, 2]) / K[1, 1])[:, None]
    along = np.broadcast_to(x if across == "x" else y, (H, W))
    with np.errstate(divide="ignore"):
        depth = 1.0 / (1.0 - slope * along)  # z = 1 + slope * along * z
    return np.where((depth > 0) & (depth < 3), depth, np.nan).astype(np.float32)[None]


def seen(sensor: Sensor, depth: Depth, seed: int = 0) -> Depth:
    return start_video(sensor, K, H, W, np.random.default_rng(seed))(depth)


@pytest.mark.parametrize("name", list(SENSORS))
def test_a_sensor_is_a_function_of_its_generator_and_leaves_the_truth_alone(name: SensorName) -> None:
    depth = tilted(30.0, "x")
    before = depth.copy()
    sensor = SENSORS.get(name)
    a, b, other = seen(sensor, depth), seen(sensor, depth), seen(sensor, depth, seed=1)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(depth, before)
    assert (a.shape, a.dtype) == (depth.shape, np.float32)
    assert np.isnan(a[np.isnan(depth)]).all()
    assert np.array_equal(a, other, equal_nan=True) == (name == "perfect")


@pytest.mark.parametrize(("name", "share"), [("missing10", 0.1), ("missing25", 0.25), ("missing50", 0.5)])
def test_missing_depth_is_missing_in_patches_throughout_a_video(name: SensorName, share: float) -> None:
    videos = [np.isnan(seen(SENSORS.get(name), flat(1.0, frames=2), seed)) for seed in range(200)]
    assert np.mean(videos) == pytest.approx(share, abs=0.02)
    for first, second in videos[:20]:
        np.testing.assert_array_equal(first, second)
    # A pixel beside a missing one is missing much more often than any other.
    holes = np.array(videos)[:, 0]
    assert holes[:, :, 1:][holes[:, :, :-1]].mean() > 0.8
    there = seen(SENSORS.get(name), flat(1.5))
    assert set(np.unique(there[np.isfinite(there)])) == {np.float32(1.5)}


@pytest.mark.parametrize("times", [2, 4, 8])
def test_noisier_stereo_differs_in_its_noise_alone(times: int) -> None:
    noisy = SENSORS.get(f"stereo{times}")
    assert dataclasses.replace(noisy, noise_px=0.08) == Stereo()
    ratio = (seen(noisy, flat(1.0, 4)) - 1.0).std() / (seen(Stereo(), flat(1.0, 4)) - 1.0).std()
    assert ratio == pytest.approx(times, rel=0.06)


def test_perfect_is_the_identity() -> None:
    depth = tilted(50.0, "y")
    np.testing.assert_array_equal(seen(SENSORS.get("perfect"), depth), depth)


@pytest.mark.parametrize("z", [0.5, 1.0, 2.0])
def test_stereo_noise_grows_with_the_square_of_distance(z: float) -> None:
    sensor = Stereo()
    error = seen(sensor, flat(z, frames=4)) - z
    # Noise and rounding are independent; dz = z^2 / (f b) dd. 20,480 samples: a standard error of 0.5 % (less at 2 m,
    # where z^2 is no longer straight: another 0.5 %).
    expected = z**2 / (sensor.focal_px * sensor.baseline_m) * np.hypot(sensor.noise_px, sensor.step_px / np.sqrt(12))
    assert np.isfinite(error).all()
    assert error.std() == pytest.approx(expected, rel=0.02)
    assert abs(error.mean()) < 5 * expected / np.sqrt(error.size) + sensor.step_px / 2 * z**2 / 55


def test_stereo_depth_comes_in_steps() -> None:
    ramp = np.linspace(0.9, 1.1, H * W, dtype=np.float32).reshape(1, H, W)
    disparity = QUIET.focal_px * QUIET.baseline_m / seen(QUIET, ramp).astype(np.float64)
    steps = disparity[np.isfinite(disparity)] / QUIET.step_px
    # float32 depth has 24 bits; there are about 1,800 steps.
    np.testing.assert_allclose(steps, np.round(steps), atol=1800 * 2.0**-22)
    found = np.unique(np.round(1.0 / (steps * QUIET.step_px / QUIET.focal_px / QUIET.baseline_m), 9))
    step_at_1_m = QUIET.step_px / (QUIET.focal_px * QUIET.baseline_m)  # 0.57 mm
    assert np.diff(found).min() == pytest.approx(0.9**2 * step_at_1_m, rel=0.02)


def test_what_is_nearer_than_the_search_range_is_not_measured() -> None:
    nearest = QUIET.focal_px * QUIET.baseline_m / QUIET.search_px
    assert nearest == pytest.approx(0.44, abs=0.005)
    assert np.isnan(seen(QUIET, flat(nearest * 0.99))).all()
    assert np.isfinite(seen(QUIET, flat(nearest * 1.01))).all()


def test_the_shadow_of_an_edge_lies_on_its_left_as_wide_as_the_disparities_differ() -> None:
    near, far, left, right = 0.6, 1.5, 30, 50
    depth = flat(far)
    depth[:, :, left:right] = near
    holes = np.isnan(seen(QUIET, depth))[0]
    width = K[0, 0] * QUIET.baseline_m * (1 / near - 1 / far)  # in the image's pixels
    expected = np.zeros(W, dtype=bool)
    expected[left - int(width) : left] = True
    assert int(width) >= 2
    np.testing.assert_array_equal(holes, np.broadcast_to(expected, (H, W)))


@pytest.mark.parametrize("across", ["x", "y"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_grazing_planes_vanish(across: str, sign: int) -> None:
    sensor = dataclasses.replace(QUIET, baseline_m=1e-3, noise_px=0.0, step_px=1e-4)  # no shadow: the angle alone
    for angle in (30.0, 60.0, 70.0):
        depth = tilted(sign * angle, across)
        x, y = (np.arange(W) - K[0, 2]) / K[0, 0], ((np.arange(H) - K[1, 2]) / K[1, 1])[:, None]
        normal = np.array([-np.sin(np.deg2rad(sign * angle)), np.cos(np.deg2rad(angle))])
        along = np.broadcast_to(x if across == "x" else y, (H, W))
        incidence = np.rad2deg(np.arccos(np.abs(normal[0] * along + normal[1]) / np.sqrt(x**2 + y**2 + 1)))
        valid = np.isfinite(depth[0])
        holes = np.isnan(seen(sensor, depth)[0])
        sure = valid & (np.abs(incidence - sensor.grazing_deg) > 0.5)  # float32 slopes of a plane are good to that
        assert (incidence[sure] > sensor.grazing_deg).any() == (angle > 50)
        np.testing.assert_array_equal(holes[sure], incidence[sure] > sensor.grazing_deg)


def test_something_a_pixel_wide_is_not_a_steep_surface() -> None:
    depth = flat(1.0)
    depth[:, :, 40] = 0.9
    holes = np.isnan(seen(dataclasses.replace(QUIET, baseline_m=1e-3, step_px=1e-4), depth))
    assert not holes.any()


def test_estimated_depth_is_off_by_what_was_asked() -> None:
    sensor, z = Estimated(drift=0.0), 1.0
    errors = np.stack([np.log(seen(sensor, flat(z), seed)[0, ::21, ::26]) for seed in range(1500)])
    # log(e^a z + b) has the variance of a + b / z up to terms of a relative size of its square, 0.5 %.
    expected = np.sqrt(sensor.scale**2 + sensor.field**2 + (sensor.shift_m / z) ** 2)
    spread = errors.reshape(len(errors), -1).std(0)
    np.testing.assert_allclose(spread, expected, rtol=4 / np.sqrt(2 * len(errors)) + 0.005)
    # The field varies over the image: what neighbours share is scale and shift; distant pixels share nothing else.
    far_apart = np.cov(errors[:, 0, 0], errors[:, -1, -1])[0, 1]
    assert far_apart == pytest.approx(sensor.scale**2 + sensor.shift_m**2, rel=0.15)


def test_an_estimate_keeps_its_errors_through_a_video_and_differs_between_cameras() -> None:
    sensor = Estimated()
    log = np.log(seen(sensor, flat(1.0, frames=400)).astype(np.float64))
    steps = np.diff(log, axis=0)
    # The scale walks; the shift (about 2 cm of 1 m) makes the step of what is measured up to 10 % another.
    assert steps.std() == pytest.approx(sensor.drift, rel=0.2)
    assert np.ptp(steps, axis=(1, 2)).max() < 0.5 * sensor.drift  # nothing else changes
    video = start_video(sensor, K, H, W, np.random.default_rng(0))
    parts = np.concatenate([video(flat(1.0, frames=1)) for _ in range(3)])
    assert np.abs(np.diff(np.log(parts), axis=0)).max() < 6 * sensor.drift  # frame by frame it is one video, too
    rng = np.random.default_rng(0)
    n, m = (start_video(sensor, K, H, W, rng)(flat(1.0)) for _ in range(2))
    assert np.abs(np.log(n / m)).mean() > sensor.drift


def test_an_estimate_bleeds_over_edges_and_has_no_holes() -> None:
    sensor = Estimated(scale=0.0, shift_m=0.0, field=0.0, drift=0.0)
    depth = flat(1.0)
    depth[:, :, 40:] = 2.0
    measured = seen(sensor, depth)[0, H // 2]
    assert np.isfinite(measured).all()
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / (sensor.blur * W)) ** 2)  # cut off at 3 sigma: 2 pixels
    expected = np.convolve(np.pad(depth[0, 0], 2, mode="edge"), kernel / kernel.sum(), mode="valid")
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    assert 1.1 < measured[39] < 1.5 < measured[40] < 1.9
    depth[:, :, 40:] = np.nan
    np.testing.assert_allclose(seen(sensor, depth)[0, :, :40], 1.0, rtol=1e-5)  # nothing bleeds out of what is invalid
