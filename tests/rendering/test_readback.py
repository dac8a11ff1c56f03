"""A camera is read back from OpenGL as it was asked for; one that did not move, or moved by half, is an error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import Camera, Lens, look_at
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.rendering.readback import ROUNDING, check_camera, read_camera
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.scene import Scene, load_scene, pack_scene

HEIGHT, WIDTH = 63, 80
BALL = np.array([0.1, -0.2, 0.3])
XML = f"""
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0"/></visual>
  <worldbody>
    <geom type="plane" size="5 5 .1" rgba="0 0 1 1"/>
    <body pos="{BALL[0]} {BALL[1]} {BALL[2]}"><freejoint/><geom type="sphere" size="0.05" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>"""
HERE = Camera("cam07", look_at((0.9, 0.4, 0.8), (0.0, 0.0, 0.2)), 0.8)
THERE = Camera("cam08", look_at((-0.5, 0.9, 0.6), (0.1, -0.1, 0.3)), 0.8)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene(pack_scene(XML))


@pytest.fixture(scope="module")
def renderer(scene: Scene) -> Iterator[Renderer]:
    with Renderer(scene, HEIGHT, WIDTH) as made:
        yield made


def test_what_is_read_back_is_what_was_asked_for(renderer: Renderer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        eye = rng.normal(size=3) * rng.choice([0.5, 2.0, 10.0])
        camera = Camera("any", look_at(eye, rng.normal(size=3)), float(rng.uniform(0.1, 2.4)))
        renderer.render(None, [camera], seg=False, check=True)
        T_world_cam, K = read_camera()
        np.testing.assert_allclose(T_world_cam[:3, :3], camera.T_world_cam[:3, :3], atol=ROUNDING)
        np.testing.assert_allclose(T_world_cam[:3, 3], eye, atol=ROUNDING * (1 + np.linalg.norm(eye)))
        np.testing.assert_allclose(K, camera.K(HEIGHT, WIDTH), rtol=ROUNDING, atol=ROUNDING * WIDTH)
    off = Camera("off", HERE.T_world_cam, None, lens=Lens(600.0, 450.0, -60.0, 35.0, 640.0, 480.0))
    renderer.render(None, [off], seg=False, check=True)
    np.testing.assert_allclose(read_camera()[1], off.K(HEIGHT, WIDTH), rtol=ROUNDING, atol=ROUNDING * WIDTH)
    with pytest.raises(SceneError, match=r"'cam07' as asked: .*field of view.*; its image centre differs"):
        check_camera(HERE, HEIGHT, WIDTH)


def test_a_ball_is_drawn_where_the_camera_read_back_says(renderer: Renderer) -> None:
    for camera in (HERE, THERE):
        rgb = renderer.render(None, [camera], seg=False).rgb[0]
        T_world_cam, K = read_camera()
        x, y, z = np.linalg.inv(T_world_cam) @ [*BALL, 1.0] @ np.eye(4)[:, :3]
        expected = [K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]]
        v, u = np.nonzero(rgb[..., 0] > 128)
        # The middle of a disc of n pixels is known to a fraction of one; a ball's image is off centre by less.
        assert len(u) > 20
        np.testing.assert_allclose([u.mean(), v.mean()], expected, atol=0.5)


class StuckRenderer(Renderer):
    """Its camera stays where it was first put."""

    first: tuple[Array, Array] | None = None

    def _aim(self, K: Array, T_world_cam: Array) -> None:
        self.first = self.first or (K, T_world_cam)
        super()._aim(*self.first)


class HalfStuckRenderer(StuckRenderer):
    """One of MuJoCo's two eyes stays where it was first put."""

    def _aim(self, K: Array, T_world_cam: Array) -> None:
        super()._aim(K, T_world_cam)
        held = [np.array(getattr(self._mjv.camera[1], name)) for name in ("pos", "forward", "up")]
        Renderer._aim(self, K, T_world_cam)
        for name, value in zip(("pos", "forward", "up"), held, strict=True):
            setattr(self._mjv.camera[1], name, value)


@pytest.mark.parametrize("kind", [StuckRenderer, HalfStuckRenderer])
def test_a_camera_that_did_not_move_is_an_error(scene: Scene, kind: type[Renderer]) -> None:
    with kind(scene, HEIGHT, WIDTH) as stuck:
        stuck.render(None, [HERE], check=True)
        stuck.render(None, [HERE, THERE])  # nobody looks
        with pytest.raises(SceneError, match=r"camera 'cam08' as asked: its rotation .* degrees; its position .* m;"):
            stuck.render(None, [HERE, THERE], check=True)


@pytest.mark.parametrize(
    ("change", "said", "not_said"),
    [
        (lambda T, f: (T @ _turn(1e-4), f), "rotation differs by 0.00573 degrees", ("position", "field", "centre")),
        (lambda T, f: (T + _shift(1e-4), f), "position differs by 0.0001 m", ("rotation", "field", "centre")),
        (
            lambda T, f: (T, f + 0.01),
            r"field of view is 46\.410 degrees high, expected 45\.837",
            ("rotation", "centre"),
        ),
    ],
)
def test_the_difference_is_named_and_measured(renderer: Renderer, change, said, not_said) -> None:  # type: ignore[no-untyped-def]
    T, fovy_rad = change(HERE.T_world_cam, HERE.fovy_rad)
    renderer.render(None, [Camera("other", T, fovy_rad)], seg=False)
    with pytest.raises(SceneError, match=said) as caught:
        check_camera(HERE, HEIGHT, WIDTH)
    assert "'cam07'" in str(caught.value)
    for word in not_said:
        assert f"its {word}" not in str(caught.value)


def test_labels_are_checked_too(scene: Scene) -> None:
    class LabelsElsewhere(Renderer):
        def _label_geoms(self) -> None:
            super()._label_geoms()
            self._aim = lambda K, T_world_cam: Renderer._aim(self, K, THERE.T_world_cam)  # type: ignore[method-assign]

    with LabelsElsewhere(scene, HEIGHT, WIDTH) as renderer, pytest.raises(SceneError, match="'cam07'"):
        renderer.render(None, [HERE], check=True)


def _turn(angle_rad: float) -> Array:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0.0, angle_rad, 0.0]).as_matrix()
    return T


def _shift(metres: float) -> Array:
    T = np.zeros((4, 4))
    T[0, 3] = metres
    return T
