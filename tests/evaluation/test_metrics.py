"""Metrics against numbers worked out by hand on arrays small enough to check by eye."""

import numpy as np
import pytest

from geo4d_bench.evaluation import metrics
from geo4d_bench.geometry.camera import Camera, depth_to_points, look_at
from geo4d_bench.geometry.se3 import inverse, pose

K = np.array([[20.0, 0.0, 4.0], [0.0, 20.0, 3.0], [0.0, 0.0, 1.0]])
H, W = 7, 9
NAN = np.nan


def points_of_depth(z: list[float]) -> np.ndarray:
    """(1, N, 3) points with those z; a NaN makes the whole point invalid, as a NaN depth does."""
    p = np.zeros((1, len(z), 3), dtype=np.float32)
    p[0, :, 2] = z
    p[np.isnan(p[..., 2])] = NAN
    return p


def plane(z: float, frames: int = 1) -> np.ndarray:
    return np.repeat(depth_to_points(np.full((H, W), z), K)[None], frames, axis=0)


def block(rows: slice, cols: slice) -> np.ndarray:
    mask = np.zeros((1, H, W), dtype=bool)
    mask[0, rows, cols] = True
    return mask


def test_depth_score_by_hand() -> None:
    true = points_of_depth([1.0, 2.0, 4.0, 2.0, NAN])
    predicted = points_of_depth([1.1, NAN, 2.0, 2.4, 3.0])
    score = metrics.depth_score(predicted, true)
    assert score.missing == pytest.approx(1 / 4)
    assert score.abs_rel == pytest.approx((0.1 + 1.0 + 0.5 + 0.2) / 4, rel=1e-6)
    assert score.d1 == pytest.approx(2 / 4)  # 1.1 and 1.2 are within 1.25; the missing one and the halved one aren't


def test_predicting_nothing_is_never_better_than_predicting() -> None:
    true = plane(1.5)
    nothing = metrics.depth_score(np.full_like(true, NAN), true)
    assert (nothing.abs_rel, nothing.d1, nothing.missing) == (1.0, 0.0, 1.0)
    assert metrics.depth_score(true * np.float32(1.9), true).abs_rel < nothing.abs_rel


def test_a_surface_claimed_where_there_is_none_is_told_though_abs_rel_does_not_see_it() -> None:
    true = plane(1.0)
    true[0, :2] = NAN
    everywhere, half = plane(1.0), plane(1.0)
    half[0, 0] = NAN
    for predicted, extra in ((true, 0.0), (half, 0.5), (everywhere, 1.0)):
        score = metrics.depth_score(predicted, true)
        assert (score.abs_rel, score.missing, score.extra) == (0.0, 0.0, extra)
    assert np.isnan(metrics.depth_score(everywhere, everywhere).extra)


def test_d1_boundary_is_symmetric_and_open() -> None:
    true = points_of_depth([1.0, 1.0, 1.0, 1.0])
    score = metrics.depth_score(points_of_depth([1.249, 1.251, 1 / 1.249, 1 / 1.251]), true)
    assert score.d1 == pytest.approx(0.5)


def test_depths_that_are_not_positive() -> None:
    """Truth beside or behind camera n isn't scored; a prediction there keeps its error and is wrong for d1."""
    score = metrics.depth_score(points_of_depth([-1.0, 1.0]), points_of_depth([1.0, -1.0]))
    assert (score.abs_rel, score.d1) == (2.0, 0.0)


def test_depth_score_of_an_all_invalid_truth_is_nan() -> None:
    score = metrics.depth_score(plane(1.0), np.full((1, H, W, 3), NAN, dtype=np.float32))
    assert np.isnan(score.abs_rel)
    assert np.isnan(score.d1)


def test_paper_compat_scores_invalid_pixels_as_the_centre_of_camera_m() -> None:
    T_n_m = pose(translation=(0.0, 0.0, 0.5))
    true_m = points_of_depth([1.0, NAN])  # in frame n: 1.5, and the fake 0.5
    predicted_n = points_of_depth([1.5, 1.0])
    ours = metrics.depth_score(predicted_n, points_of_depth([1.5, NAN]))
    theirs = metrics.depth_score_paper_compat(predicted_n, true_m, T_n_m)
    assert ours.abs_rel == 0.0
    assert theirs.abs_rel == pytest.approx((0.0 + 1.0) / 2)  # |1.0 - 0.5| / 0.5
    assert theirs.d1 == pytest.approx(0.5)
    missing = metrics.depth_score_paper_compat(points_of_depth([NAN, NAN]), true_m, T_n_m)
    assert missing.abs_rel == pytest.approx((1.0 / 1.5 + 0.0) / 2)


def test_psnr_of_a_constant_offset() -> None:
    true = np.full((3, 8, 8, 3), 100, dtype=np.uint8)
    assert metrics.psnr_db(true + np.uint8(5), true) == pytest.approx(20 * np.log10(255 / 5))
    assert metrics.psnr_db(true, true) == np.inf


def test_what_moved_is_scored_by_itself() -> None:
    first = np.dstack([np.zeros((2, 4, 2)), np.ones((2, 4))])  # a wall 1 m away
    true = np.stack([first, first])
    true[1, 0, 0, 2] = 0.5  # something comes before it
    true[1, 0, 1] = np.nan  # a hole opens
    true[1, 0, 2, 0] = 0.01  # within the tolerance
    moved = metrics.moved_pixels(true, first)
    assert np.argwhere(moved).tolist() == [[1, 0, 0], [1, 0, 1]]
    still = metrics.depth_score(np.stack([first, first]), true, moved)
    assert (still.abs_rel, still.d1) == (1.0, 0.0)
    assert metrics.depth_score(np.stack([first, first]), true).abs_rel == pytest.approx(1 / 15)
    black, rgb = np.zeros((2, 2, 4, 3), dtype=np.uint8), np.zeros((2, 2, 4, 3), dtype=np.uint8)
    rgb[1, 0, 0], rgb[1, 1, 3] = 51, 255
    assert metrics.psnr_moved_db(black, rgb, moved) == pytest.approx(20 * np.log10(5 * np.sqrt(2)))
    assert metrics.psnr_moved_db(rgb, rgb, moved) == np.inf
    assert np.isnan(metrics.psnr_moved_db(black, rgb, np.zeros_like(moved)))


def test_ssim_of_constant_frames() -> None:
    a, b = 100.0, 140.0
    c1 = (0.01 * 255) ** 2
    true, predicted = (np.full((2, 8, 8, 3), v, dtype=np.uint8) for v in (a, b))
    assert metrics.ssim(predicted, true) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))
    assert metrics.ssim(true, true) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shift_px", "expected"),
    [(0, 4 / 6), (1, 4 / 6), (2, 2 / 8), (3, 0.0), (20, 0.0)],
)
def test_miou_by_hand(shift_px: int, expected: float) -> None:
    """A 2 x 2 block at z = 2 m, seen from a camera moved sideways so that it lands ``shift_px`` pixels further right,
    against a 2 x 3 block: overlap (4, 4, 2, 0, off the image) over union (6, 6, 8, ...)."""
    z = 2.0
    T_m_n = pose(translation=(shift_px * z / K[0, 0], 0.0, 0.0))
    shown = block(slice(2, 4), slice(2, 5))
    iou = metrics.cross_view_iou(plane(z), block(slice(2, 4), slice(2, 4)), shown, T_m_n, K, np.array([True]))
    assert iou == pytest.approx([expected])


def test_miou_frames_without_a_gripper() -> None:
    """Neither view shows it: left out, or 0 where it is there in truth. One view alone shows it: 0."""
    full, empty = block(slice(2, 4), slice(2, 4)), block(slice(0, 0), slice(0, 0))
    n = np.concatenate([full, empty, full, empty, empty])
    m = np.concatenate([full, empty, empty, full, empty])
    there = np.array([True, False, True, False, True])
    iou = metrics.cross_view_iou(plane(1.0, 5), n, m, np.eye(4), K, there)
    np.testing.assert_array_equal(iou, [1.0, NAN, 0.0, 0.0, 0.0])


def test_miou_ignores_lifted_points_that_are_invalid() -> None:
    points = plane(1.0)
    points[0, 2, 2] = NAN
    mask = block(slice(2, 3), slice(2, 4))
    assert metrics.cross_view_iou(points, mask, mask, np.eye(4), K, np.array([True]))[0] == pytest.approx(1 / 2)


def test_splat_fills_gaps_without_growing_the_outline() -> None:
    rows, cols = np.meshgrid([1, 3, 5], [0, 2, 4, 6, 8], indexing="ij")
    spaced = plane(1.0)[0][rows, cols].reshape(-1, 3)
    expected = np.zeros((H, W), dtype=bool)
    expected[1:6, :] = True
    np.testing.assert_array_equal(metrics.splat(spaced, K, (H, W)), expected)
    behind = spaced * np.float32(-1)
    assert not metrics.splat(behind, K, (H, W)).any()


def two_views_of_a_plane() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True pointmaps (both in frame n) of the floor z = 0 from two cameras, T_m_n and K, at 60 x 80."""
    h, w = 60, 80
    cameras = [
        Camera("n", look_at((0.9, 0.1, 0.8), (0, 0, 0)), 0.6),
        Camera("m", look_at((0.7, -0.5, 0.9), (0, 0, 0)), 0.6),
    ]
    k = cameras[0].K(h, w)
    world = []
    for c in cameras:
        rays = depth_to_points(np.ones((h, w)), k) @ c.T_world_cam[:3, :3].T
        world.append(c.T_world_cam[:3, 3] - rays * (c.T_world_cam[2, 3] / rays[..., 2:]))
    T_n_world = inverse(cameras[0].T_world_cam)
    n, m = ((p @ T_n_world[:3, :3].T + T_n_world[:3, 3])[None] for p in world)
    return n, m, inverse(cameras[1].T_world_cam) @ cameras[0].T_world_cam, k


def test_a_plane_seen_by_two_cameras_is_consistent() -> None:
    """Half a pixel's diagonal on the floor bounds the gap of perfect pointmaps; the same region gives IoU near 1."""
    n, m, T_m_n, k = two_views_of_a_plane()
    both = metrics.seen_by_both(n, m, k)
    assert both.mean() > 0.5
    # A pixel's height on the floor: z / f, stretched by 1 / sin of the angle between ray and floor (> 30 degrees).
    half_diagonal = 0.5 * np.hypot(1, 1 / np.sin(np.radians(30))) * n[..., 2].max() / k[0, 0]
    assert metrics.view_gap_m(n, m, m, both, k) < half_diagonal
    # The disc of radius 15 cm about the middle of the floor, as each view shows it.
    T_n_floor = n[0, 30, 40]  # within a pixel of the middle, where both cameras look
    disc_n, disc_m = (np.linalg.norm(p - T_n_floor, axis=-1) < 0.15 for p in (n, m))
    assert metrics.cross_view_iou(n, disc_n, disc_m, T_m_n, k, np.array([True]))[0] > 0.93


def test_view_gap_measures_a_known_offset_and_counts_missing_points_as_the_limit() -> None:
    n = plane(1.0)
    m = n.copy()
    m[..., 2] += 0.03
    everywhere = np.ones((1, H, W), dtype=bool)
    assert metrics.view_gap_m(n, m, n, everywhere, K) == pytest.approx(0.03, rel=1e-5)
    m[0, 0, :] = NAN
    assert metrics.view_gap_m(n, m, n, everywhere, K) == pytest.approx((0.03 * 6 + 0.1) / 7, rel=1e-5)
    assert metrics.view_gap_m(n, n + np.float32(5.0), n, everywhere, K) == pytest.approx(0.1)
    assert np.isnan(metrics.view_gap_m(n, n, n, ~everywhere, K))


def test_a_view_that_is_one_point_of_the_other_has_a_gap() -> None:
    """Each pixel is asked for the surface that it shows in truth: (u, v) steps of 1 / f m on the plane."""
    n = plane(1.0)
    m = np.broadcast_to(n[:, H // 2, W // 2], n.shape)
    expected = np.minimum(np.linalg.norm(n - m, axis=-1), 0.1).mean()
    assert metrics.view_gap_m(n, m, n, np.ones((1, H, W), dtype=bool), K) == pytest.approx(expected)
    assert expected > 0.05


def test_seen_by_both_excludes_what_an_occluder_hides() -> None:
    n, m = plane(1.0), plane(1.0)
    n[0, :, :4] = plane(0.5)[0, :, :4]
    np.testing.assert_array_equal(metrics.seen_by_both(n, m, K)[0], np.arange(W)[None].repeat(H, 0) >= 4)


def test_points_that_a_pixel_does_not_look_at_are_off_its_ray() -> None:
    points = plane(1.0)
    hand = np.zeros((1, H, W), dtype=bool)
    hand[0, 0, :4] = True
    assert metrics.off_ray_share(2.5 * points, hand, K) == 0.0  # nearer or farther is still where the pixel looks
    moved = points.copy()
    moved[0, 0, 0] = points[0, H // 2, W // 2]  # straight ahead
    moved[0, 0, 1] *= -1.0  # behind the camera
    moved[0, 0, 2] = NAN  # without a point: nowhere else
    slope = np.linalg.norm(points[0, 0, 0, :2])
    assert slope / np.hypot(1, slope) > metrics.OFF_RAY_M
    assert metrics.off_ray_share(moved, hand, K) == pytest.approx(2 / 3)
    assert np.isnan(metrics.off_ray_share(moved, np.zeros_like(hand), K))
