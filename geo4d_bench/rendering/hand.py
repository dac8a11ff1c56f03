"""The hand's surface as a point cloud, measured on a packed scene."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, PART_NAMES, RIGHT_FINGER, HandModel
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.rendering.meshes import mesh_geometry, surface_grid
from geo4d_bench.rendering.scene import Scene, gripper_prefix

_SAMPLES = {HAND: 1500, LEFT_FINGER: 750, RIGHT_FINGER: 750}
"""Before hidden ones are left out. Fingers are small, but the opening is read from them."""
_RAYS = 24


def hand_model(scene: Scene, arm: str) -> HandModel:
    """Sample the drawn surfaces of one arm's hand and fingers, in the frame of its grip site.

    The left finger is robosuite's ``leftfinger`` body. Points lie where the meshes are drawn, 4 mm apart on the hand
    and 2 mm on the fingers; those enclosed by the casing, which nothing can see, are left out. The direction in which
    the left finger opens, and how far, are measured by moving the model's finger joints over their ranges.
    The scene's present state is overwritten.

    Raises:
        SceneError: the scene lacks the grip site, the finger joints, or one of the labels ``hand/<arm>``,
            ``finger_left/<arm>``, ``finger_right/<arm>``.
    """
    model, data = scene.model, scene.data
    geoms = {part: _part_geoms(scene, arm, part) for part in (HAND, LEFT_FINGER, RIGHT_FINGER)}
    site = f"{gripper_prefix(scene.arms.index(arm))}grip_site"
    mujoco.mj_resetData(model, data)
    joints = [_finger_joint(scene, geoms[part][0]) for part in (LEFT_FINGER, RIGHT_FINGER)]

    def finger_positions(fraction: float) -> Array:
        for joint in joints:
            # A finger's joint is 0 where the fingers touch; the far end of its range is the open hand.
            data.qpos[model.jnt_qposadr[joint]] = fraction * max(model.jnt_range[joint], key=abs)
        mujoco.mj_kinematics(model, data)
        T_ee_world = inverse(scene.T_world_site(site))
        return np.stack([transform(T_ee_world, data.xpos[model.jnt_bodyid[joint]]) for joint in joints])

    travel = finger_positions(1.0) - finger_positions(0.0)
    axis = travel[0] - travel[1]
    max_opening = float(np.linalg.norm(axis))
    axis /= max_opening

    T_ee_world = inverse(scene.T_world_site(site))
    samples, corners = [], []
    for part, indices in geoms.items():
        triangles = np.concatenate([transform(T_ee_world, _geom_triangles(model, data, g)) for g in indices])
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        points, owner = surface_grid(triangles, count=_SAMPLES[part], each=0)
        samples.append((points, normals[owner], np.full(len(points), part, dtype=np.uint8)))
        corners.append((triangles.reshape(-1, 3), normals.repeat(3, 0), np.full(3 * len(triangles), part, np.uint8)))
    joined = [[np.concatenate(arrays) for arrays in zip(*parts, strict=True)] for parts in (samples, corners)]
    closed, surface = (HandModel(points, normals, part, axis, max_opening) for points, normals, part in joined)
    front, back = _exposure(surface.at_opening(max_opening), closed.at_opening(max_opening), closed.normals)
    seen = (front > 0) | (back > 0)
    outward = np.where((back > front)[:, None], -closed.normals, closed.normals)  # not every mesh is wound alike
    return HandModel(closed.points[seen], outward[seen], closed.part[seen], axis, max_opening)


def _exposure(corners: Array, points: Array, normals: Array) -> tuple[Array, Array]:
    """Of 24 rays into the half space before, and behind, each point (P, 3): how many leave the surface (P,), (P,).

    A point inside the casing has none on either side; so nothing outside can ever see it.

    Args:
        corners: (3F, 3) of the surface's triangles.
    """
    spec = mujoco.MjSpec()
    mesh = spec.add_mesh(name="surface", uservert=corners.ravel(), userface=np.arange(len(corners)))
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="surface")
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    index = np.arange(_RAYS) + 0.5
    height, angle = 1.0 - 2.0 * index / _RAYS, np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1.0 - height**2)
    sphere = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    hit, distance = np.empty(_RAYS, dtype=np.int32), np.empty(_RAYS)
    free = np.zeros((2, len(points)))
    for side, sign in enumerate((1.0, -1.0)):
        for row, (point, normal) in enumerate(zip(points, sign * normals, strict=True)):
            flip = np.where(sphere @ normal < 0, -1.0, 1.0)[:, None]
            directions = (0.98 * flip * sphere + 0.02 * normal).ravel()
            start = point + 2e-4 * normal
            mujoco.mj_multiRay(model, data, start, directions, None, 1, -1, hit, distance, None, _RAYS, 10.0)
            free[side, row] = (hit < 0).sum()
    return free[0], free[1]


def _part_geoms(scene: Scene, arm: str, part: int) -> list[int]:
    name = f"{PART_NAMES[part]}/{arm}"
    if name not in scene.seg_names:
        raise SceneError(f"the scene has no label '{name}'; pack it with arms=({arm!r},)")
    return [int(g) for g in np.flatnonzero(scene.geom_label == scene.seg_names.index(name))]


def _finger_joint(scene: Scene, geom: int) -> int:
    """The slide joint that moves a finger's geom: on its body or the nearest one above."""
    model = scene.model
    body = int(model.geom_bodyid[geom])
    while body:
        slides = np.flatnonzero((model.jnt_bodyid == body) & (model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE))
        if len(slides):
            return int(slides[0])
        body = int(model.body_parentid[body])
    raise SceneError("a finger has no slide joint; hand models are made for parallel jaws")


def _geom_triangles(model: Any, data: Any, geom: int) -> Array:
    """Triangles (F, 3, 3) of a geom's surface in the world."""
    import trimesh  # takes a second

    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        vertices, faces = mesh_geometry(model, int(model.geom_dataid[geom]), compiled_frame=True)
        triangles = vertices[faces]
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        triangles = trimesh.creation.box(extents=2 * size).triangles
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        triangles = trimesh.creation.cylinder(radius=size[0], height=2 * size[1], sections=24).triangles
    else:
        raise SceneError(f"a hand's geom has the shape {mujoco.mjtGeom(kind).name}; meshes, boxes, cylinders are known")
    T_world_geom = pose(data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom])
    return transform(T_world_geom, np.asarray(triangles, dtype=np.float64))
