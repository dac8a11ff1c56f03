"""Assets of packed scenes: meshes simplified within a stated error, textures no larger than they are seen."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import SceneError

_FloatArray = npt.NDArray[np.float64]
_IntArray = npt.NDArray[np.int32]
_TEXTURE_PIXELS = 512


@dataclass(frozen=True)
class MeshBudget:
    """How far meshes may be simplified.

    Attributes:
        error_m: metres; 0 keeps every triangle.
        share: this share of the original's surface lies within ``error_m`` of the simplified surface (what is left
            are mostly inner walls and holes of screws, which decimation closes).
    """

    error_m: float = 0.001
    share: float = 0.99


def mesh_asset(model: Any, name: str, file: str, budget: MeshBudget) -> tuple[str, bytes]:
    """File name and content (binary STL, or OBJ where the mesh has texture coordinates) of a compiled model's mesh."""
    index = model.mesh(name).id
    vertices, faces = mesh_geometry(model, index)
    if model.mesh_texcoordnum[index] > 0 and _is_textured(model, index):
        coordinates, face_coordinates = _texture_coordinates(model, index)
        content = _obj(vertices, faces, coordinates, face_coordinates)
        return f"{_stem(name)}-{hashlib.sha256(content).hexdigest()[:8]}.obj", content
    content = _stl(*simplify(vertices, faces, budget))
    return f"{_stem(name)}-{hashlib.sha256(content).hexdigest()[:8]}.stl", content


def mesh_geometry(model: Any, index: int, *, compiled_frame: bool = False) -> tuple[_FloatArray, _IntArray]:
    """Vertices (N, 3) in the frame of the mesh's file (scale applied) and faces (F, 3) of a compiled model's mesh.

    MuJoCo moves meshes to their centre of mass and principal axes when it compiles; this is undone, unless
    ``compiled_frame`` asks for the frame in which geoms place them.
    """
    import mujoco

    first, count = model.mesh_vertadr[index], model.mesh_vertnum[index]
    vertices = model.mesh_vert[first : first + count].astype(np.float64)
    if not compiled_frame:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.mesh_quat[index])
        vertices = vertices @ rotation.reshape(3, 3).T + model.mesh_pos[index]
    first_face = model.mesh_faceadr[index]
    faces = model.mesh_face[first_face : first_face + model.mesh_facenum[index]]
    return vertices, np.array(faces, dtype=np.int32)


def simplify(vertices: _FloatArray, faces: _IntArray, budget: MeshBudget) -> tuple[_FloatArray, _IntArray]:
    """The mesh with about as few triangles as the budget allows, or itself."""
    if budget.error_m <= 0:
        return vertices, faces
    out_vertices, out_faces = _simplify_cached(
        vertices.tobytes(), np.ascontiguousarray(faces, dtype=np.int32).tobytes(), budget
    )
    return np.frombuffer(out_vertices).reshape(-1, 3), np.frombuffer(out_faces, dtype=np.int32).reshape(-1, 3)


@lru_cache(maxsize=256)
def _simplify_cached(vertex_bytes: bytes, face_bytes: bytes, budget: MeshBudget) -> tuple[bytes, bytes]:
    """Bytes in and out, so that scenes packed one after another simplify a robot's meshes once."""
    import fast_simplification

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
        if len(f) >= 4 and np.quantile(surface_error(points, v, f, budget.error_m), budget.share) <= budget.error_m:
            best, many = (v, f), min(target, len(f))
        else:
            few = target
    return best[0].tobytes(), best[1].tobytes()


def surface_error(points: _FloatArray, vertices: _FloatArray, faces: _IntArray, enough: float = 0.0) -> _FloatArray:
    """Upper bounds (N,) of the distances (metres) from points (N, 3) to a triangle mesh.

    Each point is measured exactly against the triangles of the 12 surface samples nearest to it (with 3, a thin wall's
    far side often hides the near one), but only until it is within ``enough`` of one of them.
    """
    import trimesh
    from scipy.spatial import cKDTree

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
    """About ``count`` points spread evenly over triangles (F, 3, 3), and whose each one is.

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


def texture_asset(path: Path) -> tuple[str, bytes]:
    """File name and PNG bytes of a texture, reduced to 512 pixels on its longer side."""
    return _texture_cached(str(path), path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=64)
def _texture_cached(path: str, modified: int) -> tuple[str, bytes]:
    from PIL import Image

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
    content = buffer.getvalue()
    return f"{Path(path).stem}-{hashlib.sha256(content).hexdigest()[:8]}.png", content


def _stem(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _is_textured(model: Any, mesh: int) -> bool:
    """Whether a geom shows the mesh with a material that has a texture."""
    materials = model.geom_matid[model.geom_dataid == mesh]
    return any(m >= 0 and (model.mat_texid[m] >= 0).any() for m in materials)


def _texture_coordinates(model: Any, index: int) -> tuple[_FloatArray, _IntArray]:
    first, count = model.mesh_texcoordadr[index], model.mesh_texcoordnum[index]
    first_face = model.mesh_faceadr[index]
    faces = model.mesh_facetexcoord[first_face : first_face + model.mesh_facenum[index]]
    return model.mesh_texcoord[first : first + count].astype(np.float64), np.array(faces, dtype=np.int32)


def _stl(vertices: _FloatArray, faces: _IntArray) -> bytes:
    record = np.dtype([("normal", "<f4", 3), ("triangle", "<f4", (3, 3)), ("attribute", "<u2")])
    rows = np.zeros(len(faces), dtype=record)
    rows["triangle"] = vertices[faces]
    return b"\0" * 80 + len(faces).to_bytes(4, "little") + rows.tobytes()


def _obj(vertices: _FloatArray, faces: _IntArray, coordinates: _FloatArray, face_coordinates: _IntArray) -> bytes:
    lines = [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in vertices]
    # MuJoCo flips v when it reads an OBJ file; the compiled coordinates are flipped already.
    lines += [f"vt {u:.7g} {1.0 - v:.7g}" for u, v in coordinates]
    lines += [
        "f " + " ".join(f"{a + 1}/{t + 1}" for a, t in zip(face, texture, strict=True))
        for face, texture in zip(faces, face_coordinates, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()
