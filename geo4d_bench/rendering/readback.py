"""Whether a camera really stood where it was asked to: the matrices that OpenGL drew with are read back.

Pictures from a camera that did not move, or moved by half, look plausible, and nothing else shows that they are wrong.
"""

from __future__ import annotations

import numpy as np

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.se3 import Array, inverse, pose_error

ROUNDING = 32 * float(np.finfo(np.float32).eps)
"""Relative: MuJoCo keeps the camera in float32, normalises it and multiplies a handful of such numbers."""
_GL_CAM = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera has y up and looks along -z


def require_drawable(height: int, width: int) -> None:
    """SceneError where the current OpenGL context draws no images that large."""
    from OpenGL import GL  # after mujoco, which chooses the platform

    largest = int(GL.glGetIntegerv(GL.GL_MAX_RENDERBUFFER_SIZE))
    if max(height, width) > largest:
        raise SceneError(
            f"images of {height} x {width} pixels: this machine's OpenGL draws at most {largest} along a side; give "
            "smaller ones"
        )


def read_camera() -> tuple[Array, Array]:
    """T_world_cam (4, 4), OpenCV axes, and K (3, 3) of the last draw in the current OpenGL context (14 us on Mesa)."""
    from OpenGL import GL  # after mujoco, which chooses the platform

    # OpenGL's matrices are stored by columns.
    T_gl_world = np.asarray(GL.glGetFloatv(GL.GL_MODELVIEW_MATRIX), dtype=np.float64).T
    P = np.asarray(GL.glGetFloatv(GL.GL_PROJECTION_MATRIX), dtype=np.float64).T
    _, _, width, height = (int(v) for v in GL.glGetIntegerv(GL.GL_VIEWPORT))
    # Device coordinates -1 to 1 span the image, whose first pixel's centre is half a pixel from its edge.
    K = np.array(
        [
            [0.5 * width * P[0, 0], 0.0, 0.5 * width * (1.0 - P[0, 2]) - 0.5],
            [0.0, 0.5 * height * P[1, 1], 0.5 * height * (1.0 + P[1, 2]) - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    return inverse(_GL_CAM @ T_gl_world), K


def check_camera(asked: Camera, height: int, width: int) -> None:
    """Compare the camera of the last draw with the one that was asked for, at ``height`` x ``width`` pixels.

    Raises:
        SceneError: rotation, position, field of view or image centre differ by more than float32's rounding.
    """
    T_world_cam, K_drawn = read_camera()
    moved_m, turned_rad = pose_error(asked.T_world_cam, T_world_cam)
    K = asked.K(height, width)
    widened = np.abs(np.diag(K_drawn)[:2] / np.diag(K)[:2] - 1.0).max()  # relative, of both focal lengths
    shifted_px = np.abs(K_drawn[:2, 2] - K[:2, 2]).max()
    fovy, expected = np.degrees(2.0 * np.arctan2(0.5 * height, [K_drawn[1, 1], K[1, 1]]))
    field = f"its field of view is {fovy:.3f} degrees high, expected {expected:.3f}"
    reach_m = 1.0 + np.linalg.norm(asked.T_world_cam[:3, 3])
    checks = (
        (turned_rad, 1.0, f"its rotation differs by {np.degrees(turned_rad):.3g} degrees"),
        (moved_m, reach_m, f"its position differs by {moved_m:.3g} m"),
        (widened, 1.0, f"{field} (focal lengths differ by {widened:.2%})"),
        (shifted_px, max(height, width), f"its image centre differs by {shifted_px:.3g} pixels"),
    )
    faults = [message for difference, scale, message in checks if not difference <= ROUNDING * scale]  # NaN is a fault
    if faults:
        raise SceneError(
            f"the renderer did not draw from camera '{asked.name}' as asked: {'; '.join(faults)}; "
            "pictures would be from the wrong place: run 'geo4d-bench doctor', and report this with its output"
        )
