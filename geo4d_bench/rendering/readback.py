"""Whether a camera really stood where it was asked to: its matrices are read back from OpenGL after the draw.

Pictures from a camera that did not move, or moved by half, look plausible; what is trained on them or judged by them
is wrong without a sign of it. So the matrices that OpenGL drew with are compared with the camera that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.se3 import Array, inverse, rotation_angle

ROUNDING = 32 * float(np.finfo(np.float32).eps)
"""Relative: MuJoCo keeps the camera in float32, normalises it and multiplies a handful of such numbers."""
_GL_CAM = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera has y up and looks along -z


@dataclass(frozen=True)
class DrawnCamera:
    """The camera of the last draw, as OpenGL has it.

    Attributes:
        T_world_cam: (4, 4), OpenCV axes.
        K: (3, 3) intrinsics; pixel (u, v) has its centre at (u, v).
        height: of the image, pixels.
    """

    T_world_cam: Array
    K: Array
    height: int

    @property
    def fovy_rad(self) -> float:
        """Vertical field of view."""
        return 2.0 * float(np.arctan2(0.5 * self.height, self.K[1, 1]))


def read_camera() -> DrawnCamera:
    """The camera of the last draw in the current OpenGL context (14 microseconds on Mesa)."""
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
    return DrawnCamera(inverse(_GL_CAM @ T_gl_world), K, height)


def check_camera(asked: Camera, drawn: DrawnCamera, height: int, width: int) -> None:
    """Compare the camera of the last draw with the one that was asked for, at ``height`` x ``width`` pixels.

    Raises:
        SceneError: rotation, position, field of view or image centre differ by more than float32's rounding.
    """
    position = asked.T_world_cam[:3, 3]
    reach_m = 1.0 + float(np.linalg.norm(position))
    turned_rad = float(rotation_angle(asked.T_world_cam[:3, :3], drawn.T_world_cam[:3, :3]))
    moved_m = float(np.linalg.norm(drawn.T_world_cam[:3, 3] - position))
    K = asked.K(height, width)
    widened = np.abs(np.diag(drawn.K)[:2] / np.diag(K)[:2] - 1.0)  # relative, of both focal lengths
    shifted_px = np.abs(drawn.K[:2, 2] - K[:2, 2])
    faults = []
    if not turned_rad <= ROUNDING:
        faults.append(f"its rotation differs by {np.degrees(turned_rad):.3g} degrees")
    if not moved_m <= ROUNDING * reach_m:
        faults.append(f"its position differs by {moved_m:.3g} m")
    if not widened.max() <= ROUNDING:
        fovy = f"{np.degrees(drawn.fovy_rad):.3f} degrees high, expected {np.degrees(asked.fovy_rad):.3f}"
        faults.append(f"its field of view is {fovy} (focal lengths differ by {widened.max():.2%})")
    if not shifted_px.max() <= ROUNDING * max(height, width):
        faults.append(f"its image centre differs by {shifted_px.max():.3g} pixels")
    if faults:
        raise SceneError(
            f"the renderer did not draw from camera '{asked.name}' as asked: {'; '.join(faults)}; "
            "pictures would be from the wrong place: run 'geo4d-bench doctor', and report this with its output"
        )
