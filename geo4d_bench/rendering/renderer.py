"""RGB, depth and labels of one moment from any number of cameras, with one update of the scene.

MuJoCo's own renderer builds the whole scene anew for every image and draws it again for depth and for labels. Here
each camera costs one draw for RGB and depth together and one for labels. What cannot move is drawn once a camera:
later draws have moving bodies alone, and each pixel shows what is nearer.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.room import Room
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.rendering.opengl import no_context
from geo4d_bench.rendering.readback import check_camera, require_drawable
from geo4d_bench.rendering.scene import Scene

MAX_DEPTH_M = 2.0
"""Depth is valid in (0, 2] m, as in the paper; cameras stand 0.7 to 1.2 m from the workspace."""
NEAR_M, FAR_M = 0.02, 20.0
BACKS = 0.25
"""A camera is inside something where surfaces seen from their back cover more of its image: 0.003 at most for the
registered rigs, 0.27 to 1 inside the robot or a table's top."""
STILLS = 64
"""Cameras whose images of what cannot move are kept: 1 MiB each at 256 x 320."""

_STATIC, _DYNAMIC = mujoco.mjtCatBit.mjCAT_STATIC.value, mujoco.mjtCatBit.mjCAT_DYNAMIC.value
_LOOKS = (
    "body_pos", "body_quat", "geom_type", "geom_pos", "geom_quat", "geom_size", "geom_rgba", "geom_matid", "geom_group",
    "mat_rgba", "mat_texid", "mat_emission", "mat_specular", "mat_shininess", "light_active", "light_pos", "light_dir",
    "light_ambient", "light_diffuse", "light_specular",
)  # fmt: skip
"""What of a model decides how its still geometry looks, should anyone change it between two moments."""


@dataclass(frozen=True)
class Frame:
    """All cameras' images of one moment (V cameras in the order asked for).

    Attributes:
        rgb: (V, H, W, 3) uint8, upright.
        depth: (V, H, W) float32 metres along the optical axis, NaN where nothing was hit before the far plane.
        seg: (V, H, W) uint8 labels, indices into the scene's ``seg_names``.
        K: (V, 3, 3).  T_world_cam: (V, 4, 4).
    """

    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    seg: npt.NDArray[np.uint8]
    K: Array
    T_world_cam: Array


@dataclass(frozen=True)
class _Still:
    """One camera's image of what cannot move: (H, W, 3), and (H, W) nearness (the buffer's), metres, labels."""

    rgb: npt.NDArray[np.uint8]
    nearness: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]
    seg: npt.NDArray[np.uint8]


class Renderer(AbstractContextManager["Renderer"]):
    """Renders a scene at one resolution; owns an OpenGL context, so close it (or use it in a ``with``).

    Several may live in one process. Each works in the thread that made it; after a fork, make a new one in the child.

    Args:
        scene: a loaded scene; its ``data`` is overwritten by every state rendered.
        height, width: pixels.
        quality: shadows and four-fold antialiasing, for pictures that people look at: about five times slower, and
            depth at edges belongs to a point up to half a pixel away. Leave it off for data.
        max_depth_m: depth beyond this is NaN.

    Raises:
        SceneError: no OpenGL context can be made on this machine, or it draws no images that large.
    """

    def __init__(
        self, scene: Scene, height: int, width: int, *, quality: bool = False, max_depth_m: float = MAX_DEPTH_M
    ) -> None:
        self.scene, self.height, self.width = scene, int(height), int(width)
        self.quality, self.max_depth_m = quality, max_depth_m
        owned = ExitStack()
        self._finalizer = weakref.finalize(self, owned.close)
        model = scene.model
        visual = model.vis.global_
        saved = int(visual.offheight), int(visual.offwidth), int(model.vis.quality.offsamples)
        try:
            self._gl = mujoco.GLContext(self.width, self.height)
            owned.callback(self._gl.free)
            # Exit handlers run last in, first out: this one before MuJoCo's, which is registered by now and ends EGL.
            atexit.register(self._finalizer)
            self._gl.make_current()
            require_drawable(self.height, self.width)
            # The context copies these from the model; another renderer may share the model.
            visual.offheight, visual.offwidth = self.height, self.width
            model.vis.quality.offsamples = 4 if quality else 0
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
            owned.callback(self._context.free)
            owned.callback(self._gl.make_current)  # in which the context is freed
        except SceneError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise no_context(error) from error
        finally:
            visual.offheight, visual.offwidth, model.vis.quality.offsamples = saved
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # Near is 1 and far is 0 in the buffer: floats are dense where distances are large.
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._viewport = mujoco.MjrRect(0, 0, self.width, self.height)
        self._mjv = mujoco.MjvScene(model, maxgeom=model.ngeom + 64)
        self._camera = mujoco.MjvCamera()
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 1
        self._option.sitegroup[:] = 0
        self._rgb = np.empty((self.height, self.width, 3), dtype=np.uint8)
        self._depth = np.empty((self.height, self.width), dtype=np.float32)
        self._known: dict[tuple[int, bytes, bytes], _Still] = {}

    def render(
        self,
        state: npt.ArrayLike | None,
        cameras: Sequence[Camera],
        *,
        seg: bool = True,
        check: bool = False,
        room: Room | None = None,
    ) -> Frame:
        """All cameras' images of one moment.

        Args:
            state: (nstate,) float64 mjSTATE_FULLPHYSICS; None renders where the scene's ``data`` stands now.
            cameras: in the order of the returned arrays.
            seg: False leaves labels out (all 0) and saves one draw per camera.
            check: read every camera back from OpenGL after its draws and compare; for the first frame of an episode.
            room: what stands about the work; None leaves it as it is.

        Raises:
            SceneError: the state has another length, the renderer is closed, ``check`` found a camera that OpenGL
                did not draw from, or the scene cannot have another room.
        """
        if not self._finalizer.alive:
            raise SceneError("this renderer is closed; make a new one")
        if room is not None:
            self.scene.enter(room)
        if state is not None:
            self.scene.set_state(state)
        self._gl.make_current()
        if not self._composable():
            rgb, nearness, labels = self._draw(_STATIC | _DYNAMIC, cameras, seg=seg, check=check)
            depth = self._metres(nearness)
        else:
            stills = self._stills(cameras, check=check)
            rgb, nearness, labels = self._draw(_DYNAMIC, cameras, seg=seg, check=check)
            depth = np.empty_like(nearness)
            for index, still in enumerate(stills):
                at = np.flatnonzero(nearness[index] > still.nearness)  # OpenGL's own test: what is drawn later wins
                moving = self._metres(nearness[index].reshape(-1)[at])
                _paint(depth[index].reshape(-1), still.depth.reshape(-1), at, moving)
                _paint(rgb[index].reshape(-1, 3), still.rgb.reshape(-1, 3), at, rgb[index].reshape(-1, 3)[at])
                if seg:
                    _paint(labels[index].reshape(-1), still.seg.reshape(-1), at, labels[index].reshape(-1)[at])
        K = np.array([c.K(self.height, self.width) for c in cameras]).reshape(-1, 3, 3)
        T_world_cam = np.array([c.T_world_cam for c in cameras], dtype=np.float64).reshape(-1, 4, 4)
        return Frame(rgb, depth, labels, K, T_world_cam)

    def require_sight(self, state: npt.ArrayLike | None, cameras: Sequence[Camera], room: Room | None = None) -> None:
        """SceneError, which names the camera, where at that moment one shows nothing but the room, or stands inside
        something: images look through the backs of surfaces, and there most of what lies before it is such."""
        frame = self.render(state, cameras, room=room)
        cull = mujoco.mjtRndFlag.mjRND_CULL_FACE
        self._mjv.flags[cull] = False
        _, nearness, _ = self._draw(_STATIC | _DYNAMIC, cameras, seg=False, check=False)
        self._mjv.flags[cull] = True
        solid = self._metres(nearness)
        backs = (solid < frame.depth - 1e-3) | (np.isfinite(solid) & np.isnan(frame.depth))
        things = (frame.seg > 0) & np.isfinite(frame.depth)
        for camera, back, thing in zip(cameras, backs, things, strict=True):
            inside = back.mean() > BACKS
            if inside or not thing.any():
                fault = (
                    "stands inside something"
                    if inside
                    else f"sees nothing: no pixel shows the robot or a thing of the scene within {self.max_depth_m:g} m"
                )
                place = ", ".join(f"{x:.3g}" for x in camera.T_world_cam[:3, 3])
                raise SceneError(f"camera '{camera.name}' at ({place}) {fault}; move or turn it")

    def close(self) -> None:
        """Free the context; may be called twice."""
        self._finalizer()
        atexit.unregister(self._finalizer)

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _composable(self) -> bool:
        """Whether pictures of what moves and of what does not make the same picture by depth as drawn together:
        no shadows, no smoothed edges, nothing transparent, no light that moves."""
        model = self.scene.model
        alpha = np.where(model.geom_matid >= 0, model.mat_rgba[model.geom_matid, 3], 1.0) if model.nmat else 1.0
        return not (
            self.quality
            or np.any(alpha * model.geom_rgba[:, 3] < 1.0)
            or np.any(model.body_weldid[model.light_bodyid])
            or np.any(model.body_mocapid[model.body_rootid[model.geom_bodyid]] >= 0)
            or model.nflex
            or model.nskin
        )

    def _stills(self, cameras: Sequence[Camera], *, check: bool) -> list[_Still]:
        """Images of what cannot move, drawn where they are not known yet."""
        looks = hash(b"".join(np.asarray(getattr(self.scene.model, name)).tobytes() for name in _LOOKS))
        keys = [(looks, c.K(self.height, self.width).tobytes(), np.asarray(c.T_world_cam).tobytes()) for c in cameras]
        new = {key: camera for key, camera in zip(keys, cameras, strict=True) if key not in self._known}
        if new:
            rgb, nearness, seg = self._draw(_STATIC, list(new.values()), seg=True, check=check)
            depth = self._metres(nearness)
            for index, key in enumerate(new):
                self._known[key] = _Still(rgb[index], nearness[index], depth[index], seg[index])
        stills = [self._known[key] for key in keys]
        for oldest in list(self._known)[: -max(len(keys), STILLS)]:
            del self._known[oldest]
        return stills

    def _draw(
        self, category: int, cameras: Sequence[Camera], *, seg: bool, check: bool
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """RGB (V, H, W, 3), depth as it is in the buffer (V, H, W) and labels (V, H, W), all upright."""
        model, data, flag, flags = self.scene.model, self.scene.data, mujoco.mjtRndFlag, self._mjv.flags
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, category, self._mjv)
        flags[flag.mjRND_SHADOW] = flags[flag.mjRND_SKYBOX] = self.quality
        flags[flag.mjRND_REFLECTION] = flags[flag.mjRND_HAZE] = False
        flags[flag.mjRND_SEGMENT] = flags[flag.mjRND_IDCOLOR] = False
        shape = len(cameras), self.height, self.width
        rgb, nearness = np.empty((*shape, 3), dtype=np.uint8), np.empty(shape, dtype=np.float32)
        labels = np.zeros(shape, dtype=np.uint8)
        for index, camera in enumerate(cameras):
            self._shoot(camera, check)
            mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)
            rgb[index], nearness[index] = self._rgb[::-1], self._depth[::-1]  # OpenGL's rows run upwards
        if seg:
            self._label_geoms()
            for index, camera in enumerate(cameras):
                self._shoot(camera, check)
                mujoco.mjr_readPixels(self._rgb, None, self._viewport, self._context)
                red = self._rgb[::-1, :, 0]
                labels[index] = np.where(red > 0, red - 1, 0)
        return rgb, nearness, labels

    def _shoot(self, camera: Camera, check: bool) -> None:
        self._aim(camera.K(self.height, self.width), np.asarray(camera.T_world_cam, dtype=np.float64))
        mujoco.mjr_render(self._viewport, self._mjv, self._context)
        if check:
            check_camera(camera, self.height, self.width)

    def _aim(self, K: Array, T_world_cam: Array) -> None:
        """Put both eyes of MuJoCo's stereo camera (it draws their average) where the pinhole camera is."""
        # Pixel (u, v) has its centre at (u, v): the image spans -0.5 to W - 0.5 and -0.5 to H - 0.5.
        left, right = (-0.5 - K[0, 2]) / K[0, 0], (self.width - 0.5 - K[0, 2]) / K[0, 0]
        top, bottom = (K[1, 2] + 0.5) / K[1, 1], (K[1, 2] - self.height + 0.5) / K[1, 1]
        for eye in (self._mjv.camera[0], self._mjv.camera[1]):
            eye.pos = T_world_cam[:3, 3]
            eye.forward = T_world_cam[:3, 2]
            eye.up = -T_world_cam[:3, 1]
            eye.orthographic = 0
            eye.frustum_near, eye.frustum_far = NEAR_M, FAR_M
            eye.frustum_center = NEAR_M * 0.5 * (left + right)
            eye.frustum_width = NEAR_M * 0.5 * (right - left)
            eye.frustum_top, eye.frustum_bottom = NEAR_M * top, NEAR_M * bottom
        for light in self._mjv.lights[: self._mjv.nlight]:
            if light.headlight:  # MuJoCo puts it where its own camera is
                light.pos, light.dir = T_world_cam[:3, 3], T_world_cam[:3, 2]

    def _metres(self, nearness: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Depth along the optical axis, NaN where nothing was hit or it is too far."""
        metres = NEAR_M * FAR_M / (NEAR_M + nearness.astype(np.float64) * (FAR_M - NEAR_M))
        metres[(nearness <= 0.0) | (metres > self.max_depth_m)] = np.nan
        return metres.astype(np.float32)

    def _label_geoms(self) -> None:
        """Make the next draws paint labels: segment ids become colours, red = id + 1."""
        flag, flags = mujoco.mjtRndFlag, self._mjv.flags
        flags[flag.mjRND_SEGMENT] = flags[flag.mjRND_IDCOLOR] = True
        flags[flag.mjRND_SHADOW] = flags[flag.mjRND_SKYBOX] = False
        labels, kind = self.scene.geom_label, int(mujoco.mjtObj.mjOBJ_GEOM)
        for index in range(self._mjv.ngeom):
            geom = self._mjv.geoms[index]
            geom.segid = int(labels[geom.objid]) if geom.objtype == kind and geom.objid >= 0 else -1


def _paint(image: npt.NDArray[Any], below: npt.NDArray[Any], at: npt.NDArray[np.intp], above: npt.NDArray[Any]) -> None:
    """``below`` everywhere, ``above`` at those pixels, written into ``image``."""
    np.copyto(image, below)
    image[at] = above
