"""Depth, colours and labels against closed forms: planes, boxes and spheres at known places."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import Camera, Lens, depth_to_points, look_at, project
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.scene import Scene, load_scene, pack_scene

BOX_CENTRE, BOX_HALF = np.array([0.25, -0.1, 0.1]), np.array([0.08, 0.05, 0.1])
SPHERES = {  # name: (centre, radius, colour)
    "red": (np.array([0.0, 0.0, 0.25]), 0.03, (1, 0, 0)),
    "green": (np.array([-0.2, 0.15, 0.12]), 0.02, (0, 1, 0)),
    "blue": (np.array([0.05, 0.28, 0.4]), 0.025, (0, 0, 1)),
}
XML = f"""
<mujoco>
  <visual><quality offsamples="0" numslices="128" numstacks="64"/>
    <headlight ambient=".9 .9 .9" diffuse="0 0 0"/></visual>
  <worldbody>
    <geom type="plane" size="5 5 .1" rgba=".5 .5 .5 1"/>
    <camera name="fixed" pos="0.9 -0.5 0.8" xyaxes="0.5 0.9 0 -0.46 0.26 0.85" fovy="50"/>
    <body name="box" pos="{" ".join(map(str, BOX_CENTRE))}">
      <freejoint/><geom type="box" size="{" ".join(map(str, BOX_HALF))}" rgba="1 1 0 1"/>
    </body>
    {
    "".join(
        f'<body name="{name}" pos="{" ".join(map(str, c))}"><geom type="sphere" size="{r}" '
        f'rgba="{" ".join(map(str, colour))} 1"/></body>'
        for name, (c, r, colour) in SPHERES.items()
    )
}
  </worldbody>
</mujoco>"""
TARGET = (0.05, 0.05, 0.15)


def ring(count: int, fovy_deg: float = 50.0) -> list[Camera]:
    """Cameras about the scene at different heights and distances."""
    cameras = []
    for i in range(count):
        angle = 2 * np.pi * (i + 0.3) / count
        eye = np.array([np.cos(angle) * (0.8 + 0.1 * (i % 3)), np.sin(angle) * 0.9, 0.4 + 0.2 * (i % 2)])
        cameras.append(Camera(f"cam{i:02d}", look_at(eye, TARGET), float(np.deg2rad(fovy_deg))))
    return cameras


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene(pack_scene(XML))


@pytest.fixture(scope="module")
def renderer(scene: Scene) -> Iterator[Renderer]:
    with Renderer(scene, 96, 128) as made:
        yield made


def analytic_depth(camera: Camera, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) and index of the surface hit (0 plane, 1 box, 2.. spheres), by intersecting every pixel's ray."""
    K, T = camera.K(height, width), camera.T_world_cam
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1) @ T[:3, :3].T
    eye = T[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
        a = (BOX_CENTRE - BOX_HALF - eye) / rays
        b = (BOX_CENTRE + BOX_HALF - eye) / rays
        near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
        depths = [plane, np.where((near < far) & (near > 0), near, np.inf)]
        for centre, radius, _ in SPHERES.values():
            to = eye - centre
            qa, qb, qc = (rays**2).sum(-1), 2 * rays @ to, to @ to - radius**2
            root = np.sqrt(qb**2 - 4 * qa * qc)
            depths.append(np.where(np.isfinite(root), (-qb - root) / (2 * qa), np.inf))
    stack = np.stack(depths)
    return stack.min(0), stack.argmin(0)


def inside(hit: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours show the same surface: edges may fall to either side."""
    same = np.zeros(hit.shape, dtype=bool)
    same[1:-1, 1:-1] = True
    for dv in (-1, 0, 1):
        for du in (-1, 0, 1):
            same &= np.roll(hit, (dv, du), (0, 1)) == hit
    return same


def test_depth_is_right_to_the_millimetre(renderer: Renderer) -> None:
    cameras = ring(5)
    frame = renderer.render(None, cameras)
    for i, camera in enumerate(cameras):
        depth, hit = analytic_depth(camera, 96, 128)
        checked = inside(hit) & (depth < 1.99)
        assert checked.mean() > 0.3
        for surface in range(2 + len(SPHERES)):
            error = np.abs(frame.depth[i] - depth)[checked & (hit == surface)]
            assert np.nanmax(error, initial=0.0) < 1e-3
            assert not np.isnan(error).any()


def test_nothing_is_hit_beyond_the_depth_range(renderer: Renderer) -> None:
    camera = ring(5)[0]
    frame = renderer.render(None, [camera])
    depth, _ = analytic_depth(camera, 96, 128)
    assert np.isnan(frame.depth[0][depth > 2.01]).all()
    assert (depth > 2.01).any()
    assert frame.depth.dtype == np.float32


def test_every_camera_finds_the_known_spheres(renderer: Renderer, scene: Scene) -> None:
    """Lifted pixels of a sphere lie on the sphere, in every view: K, pose, depth and labels agree with one another."""
    cameras = ring(6)
    frame = renderer.render(None, cameras)
    for name, (centre, radius, _) in SPHERES.items():
        views = 0
        for i, camera in enumerate(cameras):
            mask = frame.seg[i] == scene.seg_names.index(name)
            if mask.sum() < 12:
                continue
            views += 1
            points = transform(frame.T_world_cam[i], depth_to_points(frame.depth[i], frame.K[i])[mask])
            off_surface = np.abs(np.linalg.norm(points - centre, axis=1) - radius)
            assert off_surface.max() < 1e-3
            pixel = project(transform(inverse(camera.T_world_cam), centre), camera.K(96, 128))
            v, u = np.nonzero(mask)
            assert np.hypot(u.mean() - pixel[0], v.mean() - pixel[1]) < 0.5
        assert views >= 4


LENS = Lens(fx=150.0, fy=130.0, x0=17.3, y0=-9.4, width=160.0, height=96.0)


def test_an_off_centre_lens_shows_known_points_where_its_intrinsics_say(renderer: Renderer, scene: Scene) -> None:
    """Focal lengths that differ, the principal point beside the middle, and an image of another aspect ratio."""
    cameras = [Camera(c.name, c.T_world_cam, None, lens=LENS) for c in ring(6)]
    frame = renderer.render(None, cameras, check=True)
    found = 0
    for i, camera in enumerate(cameras):
        depth, hit = analytic_depth(camera, 96, 128)
        checked = inside(hit) & (depth < 1.99)
        assert np.abs(frame.depth[i] - depth)[checked].max() < 1e-3
        for name, (centre, *_) in SPHERES.items():
            v, u = np.nonzero(frame.seg[i] == scene.seg_names.index(name))
            pixel = project(transform(inverse(camera.T_world_cam), centre), frame.K[i])
            if len(u) >= 12 and 6 < u.min() <= u.max() < 121 and 6 < v.min() <= v.max() < 89:
                assert np.hypot(u.mean() - pixel[0], v.mean() - pixel[1]) < 0.5
                found += 1
    assert found >= 6


def test_images_of_another_aspect_ratio_are_the_middle_of_the_calibrated_image(scene: Scene) -> None:
    camera = Camera("wide", look_at((0.9, 0.3, 0.5), TARGET), None, lens=LENS)
    pictures = {}
    for size in ((96, 160), (96, 128), (80, 160), (48, 80)):
        with Renderer(scene, *size) as made:
            pictures[size] = made.render(None, [camera]).depth[0]
    whole = pictures[96, 160]
    np.testing.assert_allclose(pictures[96, 128], whole[:, 16:-16], atol=1e-3, equal_nan=True)
    np.testing.assert_allclose(pictures[80, 160], whole[8:-8], atol=1e-3, equal_nan=True)
    half, full = LENS.K(48, 80), LENS.K(96, 160)
    np.testing.assert_allclose(half[:2], (full[:2] + [[0, 0, 0.5]] * 2) / 2 - [[0, 0, 0.5]] * 2)


@pytest.mark.parametrize(
    ("eye", "target", "fault"),
    [
        ((0.9, 0.3, 0.5), TARGET, None),
        ((0.9, 0.3, 0.5), (1.8, 0.6, 0.5), "sees nothing: no pixel shows the robot or a thing of the scene within 2 m"),
        ((0.0, 0.0, 2.9), (0.0, 0.01, 0.0), "sees nothing: .* 2 m"),
        (tuple(BOX_CENTRE), TARGET, "stands inside something"),
        (tuple(SPHERES["red"][0]), TARGET, "stands inside something"),
    ],
)
def test_a_camera_that_sees_nothing_or_stands_inside_something_is_named(
    renderer: Renderer, eye: tuple[float, ...], target: tuple[float, ...], fault: str | None
) -> None:
    cameras = [ring(1)[0], Camera("mine", look_at(eye, target), 0.9)]
    before = renderer.render(None, cameras)
    if fault is None:
        renderer.require_sight(None, cameras)
    else:
        with pytest.raises(SceneError, match=rf"camera 'mine' at \(.*\) {fault}; move or turn it"):
            renderer.require_sight(None, cameras)
    assert np.array_equal(renderer.render(None, cameras).rgb, before.rgb)


def test_labels_match_the_surface_that_is_hit(renderer: Renderer, scene: Scene) -> None:
    names = ["background", "box", *SPHERES]
    cameras = ring(4)
    frame = renderer.render(None, cameras)
    for i, camera in enumerate(cameras):
        _, hit = analytic_depth(camera, 96, 128)
        expected = np.array([scene.seg_names.index(n) for n in names])[hit]
        checked = inside(hit)
        assert np.array_equal(frame.seg[i][checked], expected[checked])


def test_images_are_upright_and_not_mirrored(scene: Scene) -> None:
    """Seen from +x towards -x with z up, +y is on the right; red shows where its sphere projects."""
    camera = Camera("front", look_at((1.2, 0.1, 0.25), (0.0, 0.1, 0.25)), float(np.deg2rad(50)))
    with Renderer(scene, 96, 128) as renderer:
        frame = renderer.render(None, [camera])
    place = {}
    for name, (_, _, colour) in SPHERES.items():
        channel = int(np.argmax(colour))
        others = np.delete(frame.rgb[0].astype(int), channel, axis=-1).max(-1)
        v, u = np.nonzero(frame.rgb[0][..., channel].astype(int) > 2 * others + 40)
        place[name] = u.mean(), v.mean()
    assert place["blue"][1] < place["red"][1] < place["green"][1]  # higher in the world is higher in the image
    assert place["red"][0] < place["green"][0] < place["blue"][0]


def test_equals_mujocos_own_renderer_with_equal_settings(scene: Scene) -> None:
    model = mujoco.MjModel.from_xml_string(XML)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    index = model.camera("fixed").id
    T = np.eye(4)
    T[:3, :3] = data.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])  # OpenGL's axes to OpenCV's
    T[:3, 3] = data.cam_xpos[index]
    with mujoco.Renderer(model, 96, 128) as reference:
        reference.update_scene(data, camera="fixed")
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
            reference.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        rgb = reference.render().astype(int)
        reference.enable_depth_rendering()
        depth = reference.render()
    with Renderer(scene, 96, 128) as renderer:
        frame = renderer.render(None, [Camera("fixed", T, float(np.deg2rad(50)))])
    difference = np.abs(frame.rgb[0].astype(int) - rgb).max(-1)
    assert (difference > 2).mean() < 0.005  # an edge's pixel may fall to either side
    both = (depth < 1.99) & (difference <= 2)
    assert both.mean() > 0.3
    assert np.nanmax(np.abs(frame.depth[0] - depth)[both]) < 1e-3


def test_renderers_of_several_sizes_live_side_by_side(scene: Scene, renderer: Renderer) -> None:
    cameras = ring(2)
    alone = renderer.render(None, cameras)
    with Renderer(scene, 32, 40) as small, Renderer(scene, 96, 128, quality=True) as pretty:
        assert small.render(None, cameras).rgb.shape == (2, 32, 40, 3)
        pretty.render(None, cameras)
        between = renderer.render(None, cameras)
    after = renderer.render(None, cameras)
    for frame in (between, after):
        assert np.array_equal(frame.rgb, alone.rgb)
        assert np.array_equal(frame.depth, alone.depth, equal_nan=True)
        assert np.array_equal(frame.seg, alone.seg)


def test_states_move_what_is_drawn(scene: Scene, renderer: Renderer) -> None:
    camera = Camera("top", look_at((0.25, -0.1, 1.2), (0.25, -0.1, 0.0), up=(1.0, 0.0, 0.0)), float(np.deg2rad(40)))
    state = np.zeros(scene.state_size)
    state[1:8] = [0.25, -0.1, 0.3, 1, 0, 0, 0]
    high = renderer.render(state, [camera])
    state[3] = 0.1
    low = renderer.render(state, [camera])
    assert high.depth[0, 48, 64] == pytest.approx(0.8, abs=1e-3)
    assert low.depth[0, 48, 64] == pytest.approx(1.0, abs=1e-3)


def test_wrong_uses_are_refused(scene: Scene) -> None:
    renderer = Renderer(scene, 16, 16)
    with pytest.raises(SceneError, match="shape"):
        renderer.render(np.zeros(3), ring(1))
    renderer.close()
    renderer.close()
    with pytest.raises(SceneError, match="closed"):
        renderer.render(None, ring(1))
