"""Draws a packed scene in other rooms: the model that a renderer draws is refurnished, the simulation knows of none."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.room import (
    ROOM_SETS,
    THINGS,
    WALL_HALF_HEIGHT_M,
    WALL_HALF_M,
    WALLS,
    Piece,
    Room,
    RoomsName,
    Surface,
    Three,
)
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.io import read_zip
from geo4d_bench.rendering.meshes import mesh_geometry
from geo4d_bench.rendering.scene import Scene, load_scene
from geo4d_bench.seeding import generator

PIXELS = 256
"""Along a pattern's side."""
_REPEATS = (0.7, 1.5)
_SLOTS, _MOUNT_SLOTS, _LIGHTS = 131, 8, 4
"""The most that a room has: parts of the room, of each mount, lights."""
_ROOMS_KEPT = 64
"""Of which what they decide is remembered: several episodes may take turns in one process."""
_AWAY_M = -100.0
"""Height of what is not in the room: beyond every camera's far plane."""
_STANDS_M = 0.02
"""What ends so near the floor stands on it."""
_SHAPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}  # fmt: skip


_PLACED = (
    "geom_type", "geom_size", "geom_pos", "geom_quat", "geom_rgba", "geom_matid", "light_active", "light_dir",
    "light_diffuse",
)  # fmt: skip
"""What of a model a room decides."""


@dataclass(frozen=True)
class _Mount:
    """A robot's mount: its geoms, their footprint (2, 2: low, high) and the robot's place on it (3,) in the world, and
    the geoms that may stand instead."""

    geoms: npt.NDArray[np.intp]
    footprint: Array
    top: Array
    slots: npt.NDArray[np.intp]


@dataclass(frozen=True)
class RoomScene(Scene):
    """A scene whose room can be changed by :meth:`enter`. Labels and states are those of the scene it was made from.

    Attributes:
        empty: what ``_PLACED`` names, without anything in the room.
        slots: geoms that become parts of the room.  mounts: of the robots.  legs: geoms that stand on the floor, boxes
            and cylinders.
    """

    empty: dict[str, npt.NDArray[Any]]
    slots: npt.NDArray[np.intp]
    mounts: tuple[_Mount, ...]
    legs: npt.NDArray[np.intp]
    _known: dict[Room, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)

    def enter(self, room: Room) -> None:
        """Make this the room that is drawn, until the next one is entered."""
        if room not in self._known:
            for oldest in list(self._known)[: -_ROOMS_KEPT + 1]:
                del self._known[oldest]
            self._known[room] = self._placed(room)
        for name, values in self._known[room].items():
            getattr(self.model, name)[:] = values
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _placed(self, room: Room) -> dict[str, npt.NDArray[Any]]:
        """The values of ``_PLACED`` for a room."""
        placed, T_world_room = {name: values.copy() for name, values in self.empty.items()}, room.T_world_room
        for slot, (piece, T_room_thing, rgb, surface) in zip(self.slots, _parts(room), strict=False):
            self._put(placed, slot, piece, T_world_room @ T_room_thing, rgb, surface)
        floor_m = float(T_world_room[2, 3])
        for geom in self.legs:  # they end on the floor, wherever it is
            axis = 2 if placed["geom_type"][geom] == mujoco.mjtGeom.mjGEOM_BOX else 1
            placed["geom_size"][geom, axis] -= floor_m / 2
            placed["geom_pos"][geom, 2] += floor_m / 2
        for mount in self.mounts:
            self._stand(placed, mount, *room.mount, floor_m)
        for index, light in enumerate(room.lights):
            placed["light_active"][index] = True
            placed["light_dir"][index] = T_world_room[:3, :3] @ light.direction
            placed["light_diffuse"][index] = light.rgb
        return placed

    def _stand(self, placed: dict[str, npt.NDArray[Any]], mount: _Mount, kind: str, rgb: Three, floor_m: float) -> None:
        """Put the robot on another mount, or its own on a plate where the floor is lower."""
        x, y, z = mount.top
        if kind == "pedestal":
            placed["geom_rgba"][mount.geoms, :3] = rgb
            (x, y), (dx, dy) = mount.footprint.mean(axis=0), np.diff(mount.footprint, axis=0)[0] / 2
            pieces: tuple[Piece, ...] = (("box", (dx, dy, -floor_m / 2), (0, 0, -floor_m / 2), 0.6),)
            pieces = pieces if floor_m < 0 else ()
        else:
            placed["geom_pos"][mount.geoms, 2] += _AWAY_M
            pieces = MOUNTS[kind](z - floor_m)
        for slot, piece in zip(mount.slots, pieces, strict=False):
            self._put(placed, slot, piece, pose(np.eye(3), (x, y, floor_m)), rgb)

    def _put(
        self, placed: dict[str, npt.NDArray[Any]], geom: int, piece: Piece, T_world_thing: Array, rgb: Three,
        surface: Surface | None = None,
    ) -> None:  # fmt: skip
        """Make a geom a piece of a thing."""
        shape, (a, b, c), centre, shade = piece
        body = self.model.geom_bodyid[geom]
        T_world_body = pose(self.data.xmat[body].reshape(3, 3), self.data.xpos[body])
        T = inverse(T_world_body) @ T_world_thing @ pose(np.eye(3), centre)
        placed["geom_type"][geom] = _SHAPES[shape]
        placed["geom_size"][geom] = (a, c, 0.0) if shape == "cylinder" else (a, b, c)
        placed["geom_pos"][geom] = T[:3, 3]
        placed["geom_quat"][geom] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
        placed["geom_rgba"][geom, :3] = shade * np.array(rgb)
        if surface:
            placed["geom_matid"][geom] = self.model.material(_material(surface.pattern, surface.repeat)).id


def load_scene_for(source: Path | bytes, rooms: RoomsName) -> Scene:
    """A packed scene as it is (``fixed``), or a :class:`RoomScene` for rooms of that set; SceneError as
    :func:`load_scene`."""
    scene = load_scene(source)
    if rooms == "fixed":
        return scene
    model, files = scene.model, read_zip(source)
    files.pop("scene.json")
    xml = files.pop("scene.xml").decode()
    files |= {f"room-{name}.png": _png(name) for name in ROOM_SETS[rooms].patterns}
    spec = mujoco.MjSpec.from_string(xml, assets=files)
    spec.assets = files
    for geom in list(spec.worldbody.geoms):
        if geom.name == "floor" or geom.name.startswith("wall_"):
            spec.delete(geom)
    for light in list(spec.lights):
        spec.delete(light)
    for name in ROOM_SETS[rooms].patterns:
        spec.add_texture(name=f"room-{name}", type=mujoco.mjtTexture.mjTEXTURE_2D, file=f"room-{name}.png")
        for repeat in _REPEATS:
            material = spec.add_material(
                name=_material(name, repeat), texrepeat=[repeat, repeat], texuniform=True, specular=0.1, shininess=0.1
            )
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f"room-{name}"
    mounts = _mount_geoms(model)
    for body, number in [(0, _SLOTS), *((model.geom_bodyid[geoms[0]], _MOUNT_SLOTS) for geoms in mounts)]:
        for index in range(number):
            owner = spec.worldbody if body == 0 else spec.body(model.body(body).name)
            owner.add_geom(
                name=f"room{body}-{index}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1] * 3, pos=[0, 0, _AWAY_M],
                contype=0, conaffinity=0, group=1, mass=0,
            )  # fmt: skip
    for _ in range(_LIGHTS):
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=False, active=False, pos=[0, 0, 3],
            ambient=[0] * 3, specular=[0.1] * 3,
        )  # fmt: skip
    return _room_scene(scene, spec.compile(), mounts)


def _room_scene(scene: Scene, model: Any, mounts: list[npt.NDArray[np.intp]]) -> RoomScene:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    label = {int(body): int(scene.geom_label[geom]) for geom, body in enumerate(scene.model.geom_bodyid)} | {0: 0}
    model.geom_sameframe[:] = 0  # so that places count, whatever they were when it was compiled
    names = [model.geom(geom).name for geom in range(model.ngeom)]

    def slots(body: int) -> npt.NDArray[np.intp]:
        return np.array([g for g, name in enumerate(names) if name.startswith(f"room{body}-")])

    made = []
    for old in mounts:
        body = int(scene.model.geom_bodyid[old[0]])
        geoms = np.array([names.index(scene.model.geom(geom).name) for geom in old])
        points = np.concatenate([corners(model, data, geom) for geom in geoms])
        low, high = points.min(axis=0), points.max(axis=0)
        top = np.append(data.xpos[body][:2], high[2] - 0.01)  # a little below the arm's underside
        made.append(_Mount(geoms, np.stack([low[:2], high[:2]]), top, slots(body)))
    kinds, stand = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER), []
    for geom in np.flatnonzero((model.body_weldid[model.geom_bodyid] == 0) & (model.geom_bodyid > 0)):
        bottom = data.geom_xpos[geom][2] - model.geom_size[geom, 2 if model.geom_type[geom] == kinds[0] else 1]
        if model.geom_type[geom] in kinds and abs(bottom) < _STANDS_M:
            stand.append(geom)
    return RoomScene(
        model, data, scene.seg_names, np.array([label[int(b)] for b in model.geom_bodyid], dtype=np.uint8), scene.arms,
        {name: getattr(model, name).copy() for name in _PLACED}, slots(0), tuple(made), np.array(stand, dtype=np.intp),
    )  # fmt: skip


def _mount_geoms(model: Any) -> list[npt.NDArray[np.intp]]:
    """The geoms of each robot's mount, by robosuite's names of bodies."""
    of_robot: dict[int, list[int]] = {}
    for geom, body in enumerate(model.geom_bodyid):
        if "mount" in model.body(body).name:
            of_robot.setdefault(int(model.body_rootid[body]), []).append(geom)
    return [np.array(geoms) for geoms in of_robot.values()]


def corners(model: Any, data: Any, geom: int) -> Array:
    """(N, 3) points of the world that a geom lies between: a mesh's vertices, the corners of a box about others."""
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
        points = mesh_geometry(model, int(model.geom_dataid[geom]), compiled_frame=True)[0]
    else:
        size = model.geom_size[geom]
        half = size[[0, 0, 1]] if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CYLINDER else size
        points = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3) * half
    return transform(pose(data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]), points)


def _parts(room: Room) -> Iterator[tuple[Piece, Array, Three, Surface | None]]:
    """Every piece that a room consists of, the pose T_room_thing of what it belongs to, its colour and its surface."""
    yield ("box", (3.0, 3.0, WALL_HALF_M), (0, 0, -WALL_HALF_M), 1.0), np.eye(4), room.floor.rgb, room.floor
    for (x, y, _), facing, half in WALLS.values():
        # A texture lies along x and y, so that a wall is lying down, then raised: its x axis runs along it.
        raised = Rotation.from_euler("z", facing) * Rotation.from_euler("YZ", [90, 90], degrees=True)
        piece: Piece = ("box", (half, WALL_HALF_HEIGHT_M, WALL_HALF_M), (0, 0, 0), 1.0)
        yield piece, pose(raised.as_matrix(), (x, y, WALL_HALF_HEIGHT_M)), room.walls.rgb, room.walls
    for thing in room.things:
        T = pose(Rotation.from_euler("z", thing.yaw_rad).as_matrix(), thing.at_m)
        for shape, (a, b, c), (x, y, z), shade in THINGS[thing.name][1]:
            s = thing.scale
            yield (shape, (s * a, s * b, s * c), (s * x, s * y, s * z), shade), T, thing.rgb, None


MOUNTS: dict[str, Callable[[float], tuple[Piece, ...]]] = {
    "cabinet": lambda h: (
        ("box", (0.24, 0.24, h / 2), (0, 0, h / 2), 1.0), ("box", (0.26, 0.26, 0.04), (0, 0, 0.04), 0.5),
    ),
    "column": lambda h: (
        ("cylinder", (0.11, 0.11, h / 2), (0, 0, h / 2), 1.0), ("cylinder", (0.3, 0.3, 0.015), (0, 0, 0.015), 0.6),
        ("cylinder", (0.17, 0.17, 0.015), (0, 0, h - 0.015), 0.6),
    ),
    "frame": lambda h: (
        *(("box", (0.025, 0.025, h / 2), (x, y, h / 2), 1.0) for x in (-0.2, 0.2) for y in (-0.2, 0.2)),
        ("box", (0.25, 0.25, 0.015), (0, 0, h - 0.015), 0.7), ("box", (0.22, 0.22, 0.01), (0, 0, 0.3), 0.7),
    ),
}  # fmt: skip
"""What a robot may stand on instead of robosuite's pedestal, for its height in metres: pieces about its foot."""


def _material(pattern: str, repeat: float) -> str:
    return f"room-{pattern}-{repeat}"


def _png(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * pattern(name)).astype(np.uint8)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def pattern(name: str) -> Array:
    """(256, 256) brightness, 0 to 1, of a pattern that repeats; whoever draws it gives it a colour."""
    rng = generator("rooms", "patterns", 0, name)
    v, u = np.mgrid[:PIXELS, :PIXELS] / PIXELS
    return np.clip(PATTERNS[name](u, v, rng), 0.0, 1.0)


def _cells(u: Array, v: Array, rng: np.random.Generator, rows: int, columns: int, shift: float, gap: float) -> Array:
    """Rows of plates, every other one shifted, each of its own brightness, with dark joints."""
    row = np.floor(v * rows).astype(int)
    x = (u * columns + shift * (row % 2)) % columns
    shade = 0.7 + 0.3 * rng.random((rows, columns))[row, np.floor(x).astype(int)]
    joint = (np.minimum(x % 1.0, 1.0 - x % 1.0) / columns < gap) | (np.abs((v * rows) % 1.0 - 0.5) > 0.5 - gap * rows)
    return np.where(joint, 0.35, shade)


def _waves(periods: Array, depth: float) -> Array:
    return np.asarray(1.0 - depth + depth * np.sin(2 * np.pi * periods))


def _hexagons(u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Distance to the nearest and second nearest of the centres of a honeycomb tell where its joints are."""
    offsets = [(i / 4 + (j % 2) / 8, j / 4) for i in range(4) for j in range(4)]
    distances = np.stack([np.hypot((u - a + 0.5) % 1 - 0.5, (v - b + 0.5) % 1 - 0.5) for a, b in offsets])
    order = np.sort(distances, axis=0)
    return np.where(order[1] - order[0] < 0.02, 0.35, (0.65 + 0.35 * rng.random(16))[distances.argmin(axis=0)])


def _parquet(u: Array, v: Array, rng: np.random.Generator) -> Array:
    """Squares of four strips, in turn along and across."""
    across = (np.floor(4 * u) + np.floor(4 * v)) % 2 == 0
    strip = np.floor(16 * np.where(across, u, v)).astype(int)
    field = np.floor(4 * np.where(across, v, u)).astype(int)
    return np.asarray((0.6 + 0.4 * rng.random((2, 16, 4)))[across.astype(int), strip, field])


PATTERNS: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "plain": lambda u, v, rng: 0.95 - 0.1 * rng.random(u.shape) ** 2,
    "planks": lambda u, v, rng: _cells(u, v, rng, 8, 1, 0.5, 0.004) * _waves(24 * v + np.sin(2 * np.pi * u), 0.08),
    "checker": lambda u, v, rng: np.where((np.floor(4 * u) + np.floor(4 * v)) % 2 == 0, 0.95, 0.45),
    "tiles": lambda u, v, rng: _cells(u, v, rng, 4, 4, 0.0, 0.008),
    "stripes": lambda u, v, rng: np.where((6 * u) % 1.0 < 0.4, 0.6, 0.95),
    "speckle": lambda u, v, rng: 0.55 + 0.45 * rng.random((64, 64)).repeat(4, axis=0).repeat(4, axis=1),
    "bricks": lambda u, v, rng: _cells(u, v, rng, 10, 4, 0.5, 0.006),
    "hexagons": _hexagons,
    "parquet": _parquet,
    "dots": lambda u, v, rng: np.where(np.hypot((6 * u) % 1.0 - 0.5, (6 * v) % 1.0 - 0.5) < 0.28, 0.5, 0.95),
    "waves": lambda u, v, rng: _waves(5 * v + 0.3 * np.sin(4 * np.pi * u), 0.2),
    "plaid": lambda u, v, rng: 0.95 - 0.25 * ((3 * u) % 1.0 < 0.35) - 0.25 * ((3 * v) % 1.0 < 0.35),
}  # fmt: skip
"""Brightness of each pattern at (u, v), 0 to 1 along its sides."""
