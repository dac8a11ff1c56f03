"""SE(3), pinhole cameras, rigs and pointmaps. Depends on numpy and scipy only, and on seeding."""

from geo4d_bench.geometry.camera import Camera, depth_to_points, intrinsics, look_at, project
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Rig, Shell
from geo4d_bench.geometry.se3 import (
    interpolate_poses,
    inverse,
    pose,
    pose_error,
    rotation_angle,
    transform,
)

__all__ = [
    "AnyRig",
    "Camera",
    "DrawnRig",
    "Rig",
    "Shell",
    "depth_to_points",
    "interpolate_poses",
    "intrinsics",
    "inverse",
    "look_at",
    "pose",
    "pose_error",
    "project",
    "rotation_angle",
    "transform",
]
