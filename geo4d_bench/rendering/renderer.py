"""RGB, depth and labels of one moment from any number of cameras, with one update of the scene.

MuJoCo's own renderer builds the whole scene anew for every image and draws it again for depth and for labels. Here
the scene is built once a moment; then each camera costs one draw for RGB and depth together and one for labels.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.rendering.readback import check_camera, read_camera
from geo4d_bench.rendering.scene import Scene
from geo4d_bench.rendering.types import Frame

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco

MAX_DEPTH_M = 2.0
"""Depth is valid in (0, 2] m, as in the paper; cameras stand 0.7 to 1.2 m from the workspace."""
NEAR_M, FAR_M = 0.02, 20.0


class Renderer:
    """Renders a scene at one resolution; owns an OpenGL context, so close it (or use it in a ``with``).

    Several may live in one process and each works in the process (and thread) that made it. After a fork, make a new
    one in the child.

    Args:
        scene: a loaded scene; its ``data`` is overwritten by every state rendered.
        height, width: pixels.
        quality: shadows and four-fold antialiasing, for pictures that people look at: about five times slower, and
            depth at edges belongs to a point up to half a pixel away. Leave it off for data.
        max_depth_m: depth beyond this is NaN.

    Raises:
        SceneError: no OpenGL context can be made on this machine.
    """

    def __init__(
        self, scene: Scene, height: int, width: int, *, quality: bool = False, max_depth_m: float = MAX_DEPTH_M
    ) -> None:
        self.scene, self.height, self.width = scene, int(height), int(width)
        self.quality, self.max_depth_m = quality, max_depth_m
        self._context: Any = None
        owned: list[Any] = []
        self._finalizer = weakref.finalize(self, _free, owned)
        model = scene.model
        visual = model.vis.global_
        saved = int(visual.offheight), int(visual.offwidth), int(model.vis.quality.offsamples)
        try:
            self._gl = mujoco.GLContext(self.width, self.height)
            owned.append(self._gl)
            _close_at_exit(self)
            self._gl.make_current()
            # The context copies these from the model; another renderer may share the model.
            visual.offheight, visual.offwidth = self.height, self.width
            model.vis.quality.offsamples = 4 if quality else 0
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
            owned.append(self._context)
        except Exception as error:
            self.close()
            raise SceneError(
                f"no OpenGL context for {self.height} x {self.width} pixels ({error}); "
                "on Debian: apt install libegl1 libgl1-mesa-dri, and set MUJOCO_GL=egl"
            ) from error
        finally:
            visual.offheight, visual.offwidth, model.vis.quality.offsamples = saved
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # Near is 1 and far is 0 in the buffer: floats are dense where distances are large.
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._viewport = mujoco.MjrRect(0, 0, self.width, self.height)
        self._mjv = mujoco.MjvScene(model, maxgeom=model.ngeom + 64)
        self._camera = mujoco.MjvCamera()
        self._option = mujoco.MjvOption()
        mujoco.mjv_defaultOption(self._option)
        self._option.geomgroup[:] = 1
        self._option.sitegroup[:] = 0
        self._option.flags[mujoco.mjtVisFlag.mjVIS_TEXTURE] = 1
        self._rgb = np.empty((self.height, self.width, 3), dtype=np.uint8)
        self._depth = np.empty((self.height, self.width), dtype=np.float32)

    def render(
        self, state: npt.ArrayLike | None, cameras: Sequence[Camera], *, seg: bool = True, check: bool = False
    ) -> Frame:
        """All cameras' images of one moment.

        Args:
            state: (nstate,) float64 mjSTATE_FULLPHYSICS; None renders where the scene's ``data`` stands now.
            cameras: in the order of the returned arrays.
            seg: False leaves labels out (all 0) and saves a draw a camera.
            check: read every camera back from OpenGL after its draws and compare; for the first frame of an episode.

        Raises:
            SceneError: the state has another length, the renderer is closed, or ``check`` found a camera that OpenGL
                did not draw from.
        """
        if self._context is None:
            raise SceneError("this renderer is closed; make a new one")
        if state is not None:
            self.scene.set_state(state)
        self._gl.make_current()
        self._update_scene()
        count, height, width = len(cameras), self.height, self.width
        rgb = np.empty((count, height, width, 3), dtype=np.uint8)
        depth = np.empty((count, height, width), dtype=np.float32)
        labels = np.zeros((count, height, width), dtype=np.uint8)
        K = np.stack([c.K(height, width) for c in cameras]) if count else np.zeros((0, 3, 3))
        T = np.stack([np.asarray(c.T_world_cam, dtype=np.float64) for c in cameras]) if count else np.zeros((0, 4, 4))
        for index in range(count):
            self._aim(K[index], T[index])
            rgb[index], depth[index] = self._draw_rgbd()
            if check:
                check_camera(cameras[index], read_camera(), height, width)
        if seg:
            self._label_geoms()
            for index in range(count):
                self._aim(K[index], T[index])
                labels[index] = self._draw_labels()
                if check:
                    check_camera(cameras[index], read_camera(), height, width)
        return Frame(rgb=rgb, depth=depth, seg=labels, K=K, T_world_cam=T)

    def close(self) -> None:
        """Free the context; may be called twice."""
        self._context = None
        self._finalizer()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _update_scene(self) -> None:
        mujoco.mjv_updateScene(
            self.scene.model,
            self.scene.data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_STATIC.value | mujoco.mjtCatBit.mjCAT_DYNAMIC.value,
            self._mjv,
        )
        flags = self._mjv.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self.quality
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = self.quality
        flags[mujoco.mjtRndFlag.mjRND_HAZE] = False
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = False
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = False

    def _aim(self, K: Array, T_world_cam: Array) -> None:
        """Put both eyes of MuJoCo's stereo camera (it draws their average) where the pinhole camera is."""
        near = NEAR_M
        # Pixel (u, v) has its centre at (u, v): the image spans -0.5 to W - 0.5 and -0.5 to H - 0.5.
        left, right = (-0.5 - K[0, 2]) / K[0, 0], (self.width - 0.5 - K[0, 2]) / K[0, 0]
        top, bottom = (K[1, 2] + 0.5) / K[1, 1], (K[1, 2] - self.height + 0.5) / K[1, 1]
        for eye in (self._mjv.camera[0], self._mjv.camera[1]):
            eye.pos = T_world_cam[:3, 3]
            eye.forward = T_world_cam[:3, 2]
            eye.up = -T_world_cam[:3, 1]
            eye.orthographic = 0
            eye.frustum_near, eye.frustum_far = near, FAR_M
            eye.frustum_center = near * 0.5 * (left + right)
            eye.frustum_width = near * 0.5 * (right - left)
            eye.frustum_top, eye.frustum_bottom = near * top, near * bottom

    def _draw_rgbd(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        mujoco.mjr_render(self._viewport, self._mjv, self._context)
        mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)
        z = self._depth[::-1]  # OpenGL's rows run upwards
        with np.errstate(divide="ignore"):
            metres = NEAR_M * FAR_M / (NEAR_M + z.astype(np.float64) * (FAR_M - NEAR_M))
        metres[(z <= 0.0) | (metres > self.max_depth_m)] = np.nan
        return self._rgb[::-1], metres.astype(np.float32)

    def _label_geoms(self) -> None:
        """Make the next draws paint labels: segment ids become colours, red = id + 1."""
        flags = self._mjv.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False
        labels, kind = self.scene.geom_label, int(mujoco.mjtObj.mjOBJ_GEOM)
        for index in range(self._mjv.ngeom):
            geom = self._mjv.geoms[index]
            geom.segid = int(labels[geom.objid]) if geom.objtype == kind and geom.objid >= 0 else -1

    def _draw_labels(self) -> npt.NDArray[np.uint8]:
        mujoco.mjr_render(self._viewport, self._mjv, self._context)
        mujoco.mjr_readPixels(self._rgb, None, self._viewport, self._context)
        red = self._rgb[::-1, :, 0]
        return np.where(red > 0, red - 1, 0).astype(np.uint8)


_open: weakref.WeakSet[Renderer] = weakref.WeakSet()


def _close_at_exit(renderer: Renderer) -> None:
    """Close what is still open when the interpreter ends, before MuJoCo shuts EGL down.

    Exit handlers run last in, first out, and MuJoCo adds its own when it makes its first context: ours must be added
    after that, which is why this is not left to the finalizer.
    """
    if not _open:
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _open.add(renderer)


def _close_all() -> None:
    for renderer in list(_open):
        renderer.close()


def _free(owned: list[Any]) -> None:
    """Free an OpenGL context and, before it, what MuJoCo made in it."""
    if len(owned) == 2:
        owned[0].make_current()
        owned[1].free()
    if owned:
        owned[0].free()
    owned.clear()
