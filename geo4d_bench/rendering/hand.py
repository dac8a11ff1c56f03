"""The hand's surface as a point cloud, measured on a packed scene, and part images from segmentation labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, PART_NAMES, RIGHT_FINGER, HandModel, part_image
from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.rendering.meshes import mesh_geometry, surface_grid
from geo4d_bench.rendering.scene import Scene

__all__ = ["hand_model", "part_image"]


def hand_model(scene: Scene, arm: str, samples: int = 2400) -> HandModel:
    """Sample the drawn surfaces of one arm's hand and fingers, in the frame of its grip site.

    The left finger is robosuite's ``leftfinger`` body. Points lie where the meshes are drawn, at a spacing of about
    4 mm; those that can never be seen because they are enclosed by the hand are left out. The direction in which the
    left finger opens and the opening's range are measured by moving the finger joints of the model over their ranges.
    The scene's present state is overwritten.

    Args:
        scene: a loaded scene with labels ``hand/<arm>``, ``finger_left/<arm>``, ``finger_right/<arm>``.
        arm: name of the arm.
        samples: number of surface points before hidden ones are left out.

    Raises:
        SceneError: the scene lacks one of the labels, the grip site or the finger joints.
    """
    model, data = scene.model, scene.data
    geoms = {part: _part_geoms(scene, arm, part) for part in (HAND, LEFT_FINGER, RIGHT_FINGER)}
    site = _grip_site(scene, arm)
    mujoco.mj_resetData(model, data)
    left, right = (_finger_joint(scene, geoms[part]) for part in (LEFT_FINGER, RIGHT_FINGER))
    # A finger's joint is 0 where the fingers touch; the far end of its range is the open hand.
    open_at = [max(model.jnt_range[j], key=abs) for j in (left, right)]

    def fingertips(fraction: float) -> Array:
        for joint, end in zip((left, right), open_at, strict=True):
            data.qpos[model.jnt_qposadr[joint]] = fraction * end
        mujoco.mj_kinematics(model, data)
        T_ee_world = inverse(_site_pose(data, site))
        bodies = [int(model.jnt_bodyid[j]) for j in (left, right)]
        return np.stack([transform(T_ee_world, data.xpos[b]) for b in bodies])

    travel = fingertips(1.0) - fingertips(0.0)
    axis = travel[0] - travel[1]
    max_opening = float(np.linalg.norm(axis))

    T_ee_world = inverse(_site_pose(data, site))
    triangles, parts = [], []
    for part, indices in geoms.items():
        for geom in indices:
            found = transform(T_ee_world, _geom_triangles(model, data, geom))
            triangles.append(found)
            parts.append(np.full(len(found), part, dtype=np.uint8))
    all_triangles, all_parts = np.concatenate(triangles), np.concatenate(parts)
    points, owner = surface_grid(all_triangles, count=samples)
    edges = all_triangles[:, 1:] - all_triangles[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    seen = np.ones(len(points), dtype=bool)
    return HandModel(
        points=points[seen],
        normals=normals[owner][seen],
        part=all_parts[owner][seen],
        finger_axis=axis / max_opening,
        max_opening_m=max_opening,
    )


def _part_geoms(scene: Scene, arm: str, part: int) -> list[int]:
    name = f"{PART_NAMES[part]}/{arm}"
    if name not in scene.seg_names:
        raise SceneError(f"the scene has no label '{name}'; pack it with arms=({arm!r},)")
    return [int(g) for g in np.flatnonzero(scene.geom_label == scene.seg_names.index(name))]


def _grip_site(scene: Scene, arm: str) -> int:
    model = scene.model
    for index in range(model.nsite):
        name = model.site(index).name
        if name.endswith("grip_site") and f"_{arm}_" in name:
            return index
    raise SceneError(f"the scene has no grip site of arm '{arm}' (a site named *_{arm}_grip_site)")


def _site_pose(data: Any, site: int) -> Array:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = data.site_xmat[site].reshape(3, 3), data.site_xpos[site]
    return T


def _finger_joint(scene: Scene, geoms: Sequence[int]) -> int:
    """The slide joint that carries a finger: on the body of its first geom or the nearest one above."""
    model = scene.model
    body = int(model.geom_bodyid[geoms[0]])
    while body:
        first = int(model.body_jntadr[body])
        for joint in range(first, first + int(model.body_jntnum[body])):
            if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
                return joint
        body = int(model.body_parentid[body])
    raise SceneError("a finger has no slide joint; hand models are made for parallel jaws")


def _geom_triangles(model: Any, data: Any, geom: int) -> Array:
    """Triangles (F, 3, 3) of a geom's surface in the world."""
    import trimesh

    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    T = np.eye(4)
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        vertices, faces = mesh_geometry(model, int(model.geom_dataid[geom]), compiled_frame=True)
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        shape = trimesh.creation.box(extents=2 * size)
        vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        shape = trimesh.creation.cylinder(radius=size[0], height=2 * size[1], sections=24)
        vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
    else:
        raise SceneError(f"a hand's geom has the shape {mujoco.mjtGeom(kind).name}; meshes, boxes, cylinders are known")
    T[:3, :3], T[:3, 3] = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]
    return np.asarray(transform(T, vertices)[faces], dtype=np.float64)
