"""Assets of packed scenes: meshes simplified within a stated error, textures no larger than they are seen."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import fast_simplification
import mujoco
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial import cKDTree

from geo4d_bench.errors import SceneError

_FloatArray = npt.NDArray[np.float64]
_IntArray = npt.NDArray[np.int32]
_TEXTURE_PIXELS = 512
SHARE_WITHIN_ERROR = 0.99
"""This share of a mesh's surface stays within the error; the rest is mostly inner walls and screw holes, which
decimation closes."""


def mesh_asset(model: Any, name: str, error_m: float) -> tuple[str, bytes]:
    """File name and content of a compiled model's mesh: OBJ where a material gives it a texture, else binary STL."""
    index = model.mesh(name).id
    vertices, faces = mesh_geometry(model, index)
    materials = model.geom_matid[model.geom_dataid == index]
    if model.mesh_texcoordnum[index] > 0 and (model.mat_texid[materials[materials >= 0]] >= 0).any():
        first, first_face = model.mesh_texcoordadr[index], model.mesh_faceadr[index]
        coordinates = model.mesh_texcoord[first : first + model.mesh_texcoordnum[index]]
        face_coordinates = model.mesh_facetexcoord[first_face : first_face + model.mesh_facenum[index]]
        suffix, content = "obj", _obj(vertices, faces, coordinates.astype(np.float64), face_coordinates)
    else:
        suffix, content = "stl", _stl(*simplify(vertices, faces, error_m))
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return _asset_name(stem, suffix, content), content


def mesh_geometry(model: Any, index: int, *, compiled_frame: bool = False) -> tuple[_FloatArray, _IntArray]:
    """Vertices (N, 3) in the frame of the mesh's file (scale applied) and faces (F, 3) of a compiled model's mesh.

    MuJoCo moves meshes to their centre of mass and principal axes when it compiles; this is undone, unless
    ``compiled_frame`` asks for the frame in which geoms place them.
    """
    first, first_face = model.mesh_vertadr[index], model.mesh_faceadr[index]
    vertices = model.mesh_vert[first : first + model.mesh_vertnum[index]].astype(np.float64)
    if not compiled_frame:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.mesh_quat[index])
        vertices = vertices @ rotation.reshape(3, 3).T + model.mesh_pos[index]
    return vertices, np.array(model.mesh_face[first_face : first_face + model.mesh_facenum[index]], dtype=np.int32)


def simplify(vertices: _FloatArray, faces: _IntArray, error_m: float) -> tuple[_FloatArray, _IntArray]:
    """The mesh with about as few triangles as an error in metres allows; itself where that is 0."""
    return _simplify_cached(vertices.tobytes(), faces.tobytes(), error_m) if error_m > 0 else (vertices, faces)


@lru_cache(maxsize=256)
def _simplify_cached(vertex_bytes: bytes, face_bytes: bytes, error_m: float) -> tuple[_FloatArray, _IntArray]:
    """By content, so that scenes packed one after another simplify a robot's meshes once."""
    vertices = np.frombuffer(vertex_bytes).reshape(-1, 3)
    faces = np.frombuffer(face_bytes, dtype=np.int32).reshape(-1, 3)
    # MuJoCo keeps a vertex for every normal; seams would be torn open, so equal positions are joined first.
    _, first, inverse = np.unique(vertices.round(6), axis=0, return_index=True, return_inverse=True)
    joined, joined_faces = vertices[first], inverse.reshape(-1)[faces].astype(np.int32)
    points, _ = surface_grid(vertices[faces], count=2048)
    best, few, many = (joined, joined_faces), 4, len(joined_faces)
    while many > 1.2 * few + 4:
        target = round((few * many) ** 0.5)
        v, f = fast_simplification.simplify(joined.astype(np.float32), joined_faces, target_count=target, agg=3)
        v, f = np.asarray(v, dtype=np.float64), np.asarray(f, dtype=np.int32)
        if len(f) >= 4 and np.quantile(surface_error(points, v, f, error_m), SHARE_WITHIN_ERROR) <= error_m:
            best, many = (v, f), min(target, len(f))
        else:
            few = target
    return best


def surface_error(points: _FloatArray, vertices: _FloatArray, faces: _IntArray, enough: float = 0.0) -> _FloatArray:
    """Upper bounds (N,) of the distances (metres) from points (N, 3) to a triangle mesh.

    Each point is measured exactly against the triangles of the 12 surface samples nearest to it (with 3, a thin wall's
    far side often hides the near one), but only until it is within ``enough`` of one of them.
    """
    import trimesh  # takes a second

    triangles = vertices[faces]
    samples, owner = surface_grid(triangles, count=4096)
    tree = cKDTree(samples)
    best = np.full(len(points), np.inf)
    for ranks in ([1], range(2, 13)):
        left = np.flatnonzero(best > enough)
        candidates = np.asarray(tree.query(points[left], k=list(ranks))[1])
        for column in candidates.T:
            closest = trimesh.triangles.closest_point(triangles[owner[column]], points[left])
            best[left] = np.minimum(best[left], np.linalg.norm(closest - points[left], axis=1))
    return best


def surface_grid(triangles: _FloatArray, count: int, each: int = 1) -> tuple[_FloatArray, npt.NDArray[np.intp]]:
    """About ``count`` points spread evenly over triangles (F, 3, 3), and the index of each one's triangle.

    A triangle gets at least ``each`` points; with 0, small ones share theirs in turn, so that density is even.
    """
    ab, ac = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = 0.5 * np.linalg.norm(np.cross(ab, ac), axis=1)
    due = np.cumsum(area) * count / max(area.sum(), 1e-18)
    number = np.maximum(each, np.diff(np.floor(due + 0.5), prepend=0.0)).astype(np.intp)
    owner = np.repeat(np.arange(len(triangles)), number)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    # The R2 sequence, folded into the triangle, covers it evenly for any number of points.
    u, v = (0.5 + 0.7548776662466927 * within) % 1.0, (0.5 + 0.5698402909980532 * within) % 1.0
    fold = u + v > 1.0
    u, v = np.where(fold, 1.0 - u, u), np.where(fold, 1.0 - v, v)
    return triangles[owner, 0] + u[:, None] * ab[owner] + v[:, None] * ac[owner], owner


@lru_cache(maxsize=64)
def texture_asset(path: Path) -> tuple[str, bytes]:
    """File name and PNG bytes of a texture, reduced to 512 pixels on its longer side."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    except OSError as error:
        raise SceneError(f"the scene's texture {path} cannot be read: {error}") from error
    if max(image.size) > _TEXTURE_PIXELS:
        factor = _TEXTURE_PIXELS / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return _asset_name(path.stem, "png", buffer.getvalue()), buffer.getvalue()


def _asset_name(stem: str, suffix: str, content: bytes) -> str:
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.{suffix}"


def _stl(vertices: _FloatArray, faces: _IntArray) -> bytes:
    record = np.dtype([("normal", "<f4", 3), ("triangle", "<f4", (3, 3)), ("attribute", "<u2")])
    rows = np.zeros(len(faces), dtype=record)
    rows["triangle"] = vertices[faces]
    return b"\0" * 80 + len(faces).to_bytes(4, "little") + rows.tobytes()


def _obj(vertices: _FloatArray, faces: _IntArray, coordinates: _FloatArray, face_coordinates: _IntArray) -> bytes:
    lines = [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in vertices]
    # MuJoCo flips v when it reads an OBJ file; the compiled coordinates are flipped already.
    lines += [f"vt {u:.7g} {1.0 - v:.7g}" for u, v in coordinates]
    corners = np.stack([faces, face_coordinates], axis=-1) + 1
    lines += ["f " + " ".join(f"{v}/{t}" for v, t in face) for face in corners]
    return ("\n".join(lines) + "\n").encode()
