"""Real scenes against MuJoCo's own renderer, and what is drawn once a camera against drawing it every time."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from geo4d_bench.geometry.camera import Camera, look_at
from geo4d_bench.geometry.room import draw_room
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.rooms import load_scene_for
from geo4d_bench.rendering.scene import Scene, load_scene, pack_scene

HEIGHT, WIDTH = 128, 160


class DrawsAll(Renderer):
    """Draws everything at every moment."""

    def _composable(self) -> bool:
        return False


@pytest.fixture(
    scope="module", params=[("store_cereal", "fixed"), ("apple_to_bin", "fixed"), ("store_cereal", "held_out")]
)
def staged(request: Any) -> tuple[Scene, list[np.ndarray], list[Camera]]:
    """A task's scene with every triangle, states half a second apart while the expert acts, and its cameras; as it
    is, or in another room."""
    from geo4d_bench import tasks
    from geo4d_bench.tasks.rigs import make_rig

    name, rooms = request.param
    task = tasks.make(name)
    task.reset(0, "train")
    expert, states = task.expert(), []
    for step in range(31):
        if step % 10 == 0:
            states.append(task.physics_state())
        task.step(expert.command())
    assert any(np.abs(states[0] - state).max() > 0.05 for state in states[1:])
    scene = load_scene_for(pack_scene(task.scene_xml(), arms=task.spec.arms, mesh_error_m=0.0), rooms)
    if room := draw_room(rooms, task.spec.key, "train", 0):
        scene.enter(room)
    return scene, states, list(make_rig("hemisphere16", task.spec.workspace).cameras[::3])


def test_images_are_those_of_mujocos_renderer(staged: tuple[Scene, list[np.ndarray], list[Camera]]) -> None:
    scene, states, cameras = staged
    with Renderer(scene, HEIGHT, WIDTH) as renderer:
        frames = [renderer.render(state, cameras) for state in states]
    model = scene.model
    saved = model.vis.quality.offsamples, model.vis.map.znear, model.vis.map.zfar
    model.vis.quality.offsamples = 0
    # In units of the model's extent; MuJoCo's own values lose 0.1 mm at the far end.
    model.vis.map.znear, model.vis.map.zfar = 0.02 / model.stat.extent, 20.0 / model.stat.extent
    try:
        with mujoco.Renderer(model, HEIGHT, WIDTH) as reference:
            for state, frame in zip(states, frames, strict=True):
                scene.set_state(state)
                for index, camera in enumerate(cameras):
                    rgb, depth, seg = _reference(reference, scene, camera)
                    assert np.abs(frame.rgb[index].astype(int) - rgb).mean() <= 1.0
                    assert (frame.seg[index] != seg).mean() <= 0.005
                    surface = (frame.seg[index] == seg) & (depth < 1.999)
                    off = np.abs(frame.depth[index] - depth)[surface]
                    assert len(off) > 1000
                    assert np.mean(off > 1e-4) <= 0.005  # edges within one label
                    assert np.quantile(off, 0.99) <= 1e-4
    finally:
        model.vis.quality.offsamples, model.vis.map.znear, model.vis.map.zfar = saved


def _reference(renderer: mujoco.Renderer, scene: Scene, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour, depth and labels by MuJoCo's renderer, a pass each, from a free camera at the same place."""
    model, data = scene.model, scene.data
    model.vis.global_.fovy = np.degrees(camera.fovy_rad)
    free, T = mujoco.MjvCamera(), camera.T_world_cam
    forward = T[:3, 2]
    free.distance = 1.0
    free.lookat = T[:3, 3] + forward
    free.azimuth = np.degrees(np.arctan2(forward[1], forward[0]))
    free.elevation = np.degrees(np.arcsin(forward[2]))

    def show() -> Any:
        renderer.update_scene(data, camera=free, scene_option=_options())
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
            renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        return renderer.render()

    rgb = show().astype(int)
    renderer.enable_depth_rendering()
    depth = np.array(show())
    renderer.disable_depth_rendering()
    renderer.enable_segmentation_rendering()
    found = show()
    renderer.disable_segmentation_rendering()
    is_geom = found[..., 1] == mujoco.mjtObj.mjOBJ_GEOM
    return rgb, depth, np.where(is_geom, scene.geom_label[np.where(is_geom, found[..., 0], 0)], 0)


def _options() -> mujoco.MjvOption:
    option = mujoco.MjvOption()
    option.geomgroup[:] = 1
    option.sitegroup[:] = 0
    return option


def test_what_is_drawn_once_gives_the_same_images(staged: tuple[Scene, list[np.ndarray], list[Camera]]) -> None:
    scene, states, cameras = staged
    with Renderer(scene, HEIGHT, WIDTH) as renderer, DrawsAll(scene, HEIGHT, WIDTH) as every_time:
        assert renderer._composable()
        for state in [*states, states[0]]:
            frame, expected = renderer.render(state, cameras), every_time.render(state, cameras)
            assert np.array_equal(frame.rgb, expected.rgb)
            assert np.array_equal(frame.depth, expected.depth, equal_nan=True)
            assert np.array_equal(frame.seg, expected.seg)
        alone = renderer.render(states[1], cameras[2:3], seg=False)
        assert np.array_equal(alone.rgb[0], every_time.render(states[1], cameras[2:3]).rgb[0])
        assert not alone.seg.any()


ROOM = """
<mujoco>
  <visual><headlight ambient=".3 .3 .3" diffuse=".4 .4 .4"/></visual>
  <worldbody>
    {light}
    <geom name="floor" type="plane" size="2 2 .1" rgba=".5 .6 .7 1"/>
    <geom name="post" type="box" size=".05 .05 .2" pos="-.2 0 .2" rgba="{post}"/>
    <body name="ball" pos="0 0 .2"><freejoint/>{lamp}<geom type="sphere" size=".08" rgba="{ball}"/></body>
  </worldbody>
</mujoco>"""
EYE = Camera("eye", look_at((-0.9, 0.2, 0.6), (0.0, 0.0, 0.2)), 0.9)


def _room(light: str = "", lamp: str = "", post: str = "1 0 0 1", ball: str = "0 1 0 1") -> Scene:
    return load_scene(pack_scene(ROOM.format(light=light, lamp=lamp, post=post, ball=ball)))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"ball": "0 1 0 .5"},  # shows what stands behind it
        {"post": "1 0 0 .5"},  # lets the ball behind it through
        {"lamp": '<light pos="0 0 .3" dir="0 0 -1" diffuse=".9 .9 .9"/>'},  # what stands still is lit by what moves
    ],
)
def test_scenes_that_cannot_be_composed_are_drawn_whole(kwargs: dict[str, str]) -> None:
    scene = _room(**kwargs)
    with Renderer(scene, HEIGHT, WIDTH) as renderer, DrawsAll(scene, HEIGHT, WIDTH) as every_time:
        images = []
        for height in (0.2, 0.5, 0.3):
            state = np.zeros(scene.state_size)
            state[1:8] = [0.1, 0.0, height, 1, 0, 0, 0]
            images.append(renderer.render(state, [EYE]).rgb)
            assert np.array_equal(images[-1], every_time.render(state, [EYE]).rgb)
        assert not np.array_equal(images[0], images[1])


def test_a_change_of_what_stands_still_is_seen() -> None:
    scene = _room(light='<light pos="0 0 2" dir="0 0 -1"/>')
    with Renderer(scene, HEIGHT, WIDTH) as renderer, DrawsAll(scene, HEIGHT, WIDTH) as every_time:
        before = renderer.render(None, [EYE]).rgb
        for change in (
            lambda m: m.geom("post").rgba.__setitem__(slice(0, 3), [0, 0, 1]),
            lambda m: m.geom("post").pos.__setitem__(1, 0.15),
            lambda m: m.light_diffuse.__setitem__(slice(None), 0.1),
        ):
            change(scene.model)
            scene.set_state(_state(scene))
            after = renderer.render(None, [EYE]).rgb
            assert not np.array_equal(before, after)
            assert np.array_equal(after, every_time.render(None, [EYE]).rgb)
            before = after


def _state(scene: Scene) -> np.ndarray:
    state = np.zeros(scene.state_size)
    mujoco.mj_getState(scene.model, scene.data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    return state
