"""A 4D video as point clouds, a PLY file a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from geo4d_bench.io import atomic
from geo4d_bench.model.types import Video4D


def cloud(video: Video4D, frame: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """(N, 3) metres in camera n's frame and (N, 3) uint8 RGB: a frame's valid points, view n's first, then view m's."""
    points = video.points[:, frame]
    valid = np.isfinite(points).all(-1)
    return points[valid], video.rgb[:, frame][valid]


def write_clouds(folder: Path, name: str, video: Video4D) -> None:
    """Write ``<name>_00.ply`` and so on, binary, one of each frame, each whole or not at all."""
    from trimesh import PointCloud

    for frame in range(video.rgb.shape[1]):
        points, rgb = cloud(video, frame)
        with atomic(folder / f"{name}_{frame:02d}.ply") as part:
            PointCloud(points, rgb).export(part)
