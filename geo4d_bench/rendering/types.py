"""Frames: what the renderer returns for one moment or for a trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.se3 import Array


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
