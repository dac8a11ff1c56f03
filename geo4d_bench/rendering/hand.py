"""The hand's surface as a point cloud, measured on a packed scene, and part images from segmentation labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, PART_NAMES, RIGHT_FINGER, HandModel, part_image
from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.rendering.meshes import mesh_geometry, surface_grid
from geo4d_bench.rendering.scene import Scene, gripper_prefix

__all__ = ["hand_model", "part_image"]

_SHARE = {HAND: 0.5, LEFT_FINGER: 0.25, RIGHT_FINGER: 0.25}
"""Of the samples: fingers are small, but the opening is read from them."""


def hand_model(scene: Scene, arm: str, samples: int = 3000) -> HandModel:
    """Sample the drawn surfaces of one arm's hand and fingers, in the frame of its grip site.

    The left finger is robosuite's ``leftfinger`` body. Points lie where the meshes are drawn, 4 mm apart on the hand
    and 2 mm on the fingers; those enclosed by the casing, which nothing can see, are left out. The direction in which
    the left finger opens, and how far, are measured by moving the model's finger joints over their ranges.
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
    surfaces = {
        part: np.concatenate([transform(T_ee_world, _geom_triangles(model, data, g)) for g in indices])
        for part, indices in geoms.items()
    }
    surface = np.concatenate(list(surfaces.values()))
    surface_part = np.repeat(np.array(list(surfaces), dtype=np.uint8), [len(t) for t in surfaces.values()])
    edges = surface[:, 1:] - surface[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    points, owner = _sample(surfaces, samples)
    closed = HandModel(
        points=points,
        normals=normals[owner],
        part=surface_part[owner],
        finger_axis=axis / max_opening,
        max_opening_m=max_opening,
    )
    open_surface = surface + _finger_shift(surface_part, closed)[:, None, :]
    front, back = _exposure(open_surface, closed.at_opening(max_opening), closed.normals)
    seen = (front > 0) | (back > 0)
    outward = np.where((back > front)[:, None], -closed.normals, closed.normals)  # not every mesh is wound alike
    return HandModel(points[seen], outward[seen], closed.part[seen], closed.finger_axis, max_opening)


def _sample(surfaces: dict[int, Array], samples: int) -> tuple[Array, npt.NDArray[np.intp]]:
    """Points spread evenly over each part, and the triangle of each, counted over all parts."""
    points, owners, first = [], [], 0
    for part, triangles in surfaces.items():
        found, owner = surface_grid(triangles, count=round(_SHARE[part] * samples), each=0)
        points.append(found)
        owners.append(owner + first)
        first += len(triangles)
    return np.concatenate(points), np.concatenate(owners)


def _finger_shift(part: npt.NDArray[np.uint8], hand: HandModel) -> Array:
    """(N, 3) how far each part has moved when the hand is open."""
    sign = np.where(part == LEFT_FINGER, 1.0, np.where(part == RIGHT_FINGER, -1.0, 0.0))
    return 0.5 * hand.max_opening_m * sign[:, None] * hand.finger_axis


def _exposure(triangles: Array, points: Array, normals: Array) -> tuple[Array, Array]:
    """Of 24 rays into the half space before, and behind, each point (P, 3): how many leave the surface (P,), (P,).

    A point inside the casing has none on either side; so nothing outside can ever see it.
    """
    spec = mujoco.MjSpec()
    mesh = spec.add_mesh(name="surface", uservert=triangles.ravel(), userface=np.arange(3 * len(triangles)))
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="surface")
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    index = np.arange(24) + 0.5
    height, angle = 1.0 - 2.0 * index / 24, np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1.0 - height**2)
    sphere = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    free = []
    for side in (1.0, -1.0):
        count = np.zeros(len(points))
        for row, (point, normal) in enumerate(zip(points, side * normals, strict=True)):
            flip = np.where(sphere @ normal < 0, -1.0, 1.0)[:, None]
            directions = np.ascontiguousarray(0.98 * flip * sphere + 0.02 * normal)
            hit, distance = np.full(24, -1, dtype=np.int32), np.zeros(24)
            mujoco.mj_multiRay(
                model, data, point + 2e-4 * normal, directions.ravel(), None, 1, -1, hit, distance, None, 24, 10.0
            )
            count[row] = (hit < 0).sum()
        free.append(count)
    return free[0], free[1]


def _part_geoms(scene: Scene, arm: str, part: int) -> list[int]:
    name = f"{PART_NAMES[part]}/{arm}"
    if name not in scene.seg_names:
        raise SceneError(f"the scene has no label '{name}'; pack it with arms=({arm!r},)")
    return [int(g) for g in np.flatnonzero(scene.geom_label == scene.seg_names.index(name))]


def _grip_site(scene: Scene, arm: str) -> int:
    name = f"{gripper_prefix(scene.arms.index(arm))}grip_site"
    index = mujoco.mj_name2id(scene.model, mujoco.mjtObj.mjOBJ_SITE, name)
    if index < 0:
        raise SceneError(f"the scene has no grip site of arm '{arm}' (a site named {name})")
    return int(index)


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
