import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.camera import Camera, depth_to_points, intrinsics, look_at, project
from geo4d_bench.geometry.rig import Rig
from geo4d_bench.geometry.se3 import interpolate_poses, inverse, pose, pose_error, rotation_angle, transform


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return pose(Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix(), rng.normal(size=3))


def test_inverse_undoes_a_pose():
    T = np.stack([random_pose(np.random.default_rng(i)) for i in range(5)])
    np.testing.assert_allclose(T @ inverse(T), np.tile(np.eye(4), (5, 1, 1)), atol=1e-12)


def test_transform_composes_and_keeps_nan_and_dtype():
    rng = np.random.default_rng(0)
    T_a_b, T_b_c, p = random_pose(rng), random_pose(rng), rng.normal(size=(4, 5, 3))
    np.testing.assert_allclose(transform(T_a_b, transform(T_b_c, p)), transform(T_a_b @ T_b_c, p), atol=1e-12)
    q = p.astype(np.float32)
    q[1, 2] = np.nan
    out = transform(T_a_b, q)
    assert out.dtype == np.float32
    assert np.isnan(out[1, 2]).all()
    assert np.isfinite(np.delete(out.reshape(-1, 3), 7, axis=0)).all()


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.3, np.pi - 1e-6, np.pi])
def test_rotation_angle_is_exact_near_zero_and_pi(angle):
    R = Rotation.from_rotvec(angle * np.array([0.6, 0.0, 0.8])).as_matrix()
    assert rotation_angle(np.eye(3), R) == pytest.approx(angle, abs=1e-9)


def test_interpolation_is_linear_and_spherical():
    T = np.stack([pose(), pose(Rotation.from_rotvec([0, 0, 1.0]).as_matrix(), (1.0, 0, 0))])
    mid = interpolate_poses([0.0, 2.0], T, [0.5, 5.0])
    distance, angle = pose_error(mid[0], pose(Rotation.from_rotvec([0, 0, 0.25]).as_matrix(), (0.25, 0, 0)))
    assert distance < 1e-12
    assert angle < 1e-9
    np.testing.assert_allclose(mid[1], T[1], atol=1e-12)  # clamped


def test_camera_looks_at_its_target_with_up_upwards():
    T = look_at((1.0, 2.0, 1.5), (0.2, -0.1, 0.3))
    K = intrinsics(np.radians(50), 64, 80)
    target, above = (transform(inverse(T), np.array(p)) for p in ((0.2, -0.1, 0.3), (0.2, -0.1, 0.4)))
    np.testing.assert_allclose(project(target, K), [39.5, 31.5], atol=1e-9)
    assert project(above, K)[1] < 31.5  # v grows downwards
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)


def test_lifting_then_projecting_gives_the_pixel_back():
    K = intrinsics(np.radians(50), 6, 8)
    depth = np.random.default_rng(0).uniform(0.5, 2.0, (6, 8)).astype(np.float32)
    depth[2, 3] = np.nan
    uv = project(depth_to_points(depth, K), K)
    v, u = np.mgrid[:6, :8]
    expected = np.stack([u, v], -1).astype(np.float32)
    expected[2, 3] = np.nan
    np.testing.assert_allclose(uv, expected, atol=1e-5)


def test_points_behind_a_camera_have_no_pixel():
    assert np.isnan(project(np.array([0.0, 0.0, -1.0]), intrinsics(1.0, 4, 4))).all()


def test_vertical_field_of_view_spans_the_image():
    K = intrinsics(np.radians(60), 100, 50)
    edge = project(np.array([0.0, np.tan(np.radians(30)), 1.0]), K)
    assert edge[1] == pytest.approx(99.5)  # the lower border of the last row of pixels


def test_view_angle_is_measured_about_the_target_to_the_nearest_seen_camera():
    def camera(name, degrees, split):
        a = np.radians(degrees)
        return Camera(name, look_at((np.cos(a), np.sin(a), 0.5), (0, 0, 0.5)), 0.9, split)

    rig = Rig("r", (camera("a", 0, "seen"), camera("b", 90, "seen"), camera("c", 70, "novel")), (0, 0, 0.5))
    a, _, c = rig.cameras
    assert rig.angle_to_training_deg(c) == pytest.approx(20.0)
    assert rig.angle_to_training_deg(a) == pytest.approx(0.0, abs=1e-5)
