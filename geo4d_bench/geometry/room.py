"""Rooms: what stands and hangs about the work, drawn for every episode from one of three named sets. docs/rooms.md.

The work (tables, robots, cameras) keeps its place in the world, and the room is moved about it, so that physics knows
nothing of rooms. The room's frame has its origin on the floor and z up; x leads from the rear wall to the front wall.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.registry import unknown_name
from geo4d_bench.seeding import generator

RoomsName = Literal["fixed", "varied", "held_out"]
Three = tuple[float, float, float]
Range = tuple[float, float]
Piece = tuple[Literal["box", "cylinder", "ellipsoid"], Three, Three, float]
"""A part of a thing: shape, half its extent along x, y and z, its centre in the thing's frame (metres), and what the
thing's colour is multiplied by."""

WALLS: dict[str, tuple[Three, float, float]] = {
    "front": ((3.0, 0.0, 0.0), np.pi, 3.0), "left": ((1.25, 3.0, 0.0), -np.pi / 2, 1.75),
    "right": ((1.25, -3.0, 0.0), np.pi / 2, 1.75), "rear": ((-2.0, 0.0, 0.0), 0.0, 1.5),
    "left corner": ((-1.25, 2.25, 0.0), -np.pi / 4, 1.06), "right corner": ((-1.25, -2.25, 0.0), np.pi / 4, 1.06),
}  # fmt: skip
"""Foot of the middle of each wall, the direction in which it faces (radians about z) and half its length: the walls of
robosuite's empty arena."""
WALL_HALF_HEIGHT_M, WALL_HALF_M = 1.5, 0.01
KEEP_OUT_M: tuple[Range, Range] = (-1.25, 0.65), (-0.75, 0.75)
"""x and y, in the world, of where tables, shelves and robots stand."""
LOW_M = 0.8
"""What stands on the floor within reach of a camera ends below this: below any line from a camera to the work."""


def _legs(x: float, y: float, height: float) -> tuple[Piece, ...]:
    half = height / 2
    return tuple(("box", (0.02, 0.02, half), (i * x, j * y, half), 0.7) for i in (-1, 1) for j in (-1, 1))


THINGS: dict[str, tuple[float, tuple[Piece, ...]]] = {
    # On the floor, anywhere; the number is the radius that it takes. Standing things face along x.
    "cartons": (0.3, (
        ("box", (0.24, 0.17, 0.16), (0, 0, 0.16), 1.0), ("box", (0.14, 0.12, 0.1), (0.05, 0.02, 0.42), 0.8),
    )),
    "bin": (0.17, (
        ("cylinder", (0.15, 0.15, 0.26), (0, 0, 0.26), 1.0), ("cylinder", (0.16, 0.16, 0.02), (0, 0, 0.54), 0.5),
    )),
    "stool": (0.22, (("cylinder", (0.19, 0.19, 0.025), (0, 0, 0.48), 1.0), *_legs(0.11, 0.11, 0.46))),
    "side table": (0.38, (
        ("box", (0.3, 0.22, 0.015), (0, 0, 0.46), 1.0), *_legs(0.26, 0.18, 0.45),
        ("box", (0.1, 0.07, 0.06), (0.08, 0, 0.53), 0.5), ("cylinder", (0.04, 0.04, 0.07), (-0.15, 0.05, 0.54), 0.3),
    )),
    "ball": (0.2, (("ellipsoid", (0.19, 0.19, 0.19), (0, 0, 0.19), 1.0),)),
    "plant": (0.26, (
        ("cylinder", (0.12, 0.12, 0.13), (0, 0, 0.13), 0.6), ("ellipsoid", (0.24, 0.2, 0.16), (0, 0, 0.42), 1.0),
        ("ellipsoid", (0.12, 0.16, 0.11), (0.03, -0.04, 0.53), 0.85),
    )),
    "chair": (0.34, (
        ("box", (0.21, 0.21, 0.02), (0, 0, 0.4), 1.0), *_legs(0.18, 0.18, 0.39),
        ("box", (0.02, 0.2, 0.1), (-0.19, 0, 0.54), 1.0),
    )),
    "barrel": (0.24, (
        ("ellipsoid", (0.23, 0.23, 0.36), (0, 0, 0.29), 1.0), ("cylinder", (0.19, 0.19, 0.26), (0, 0, 0.27), 0.75),
    )),
    # Before a wall that no camera comes near.
    "cabinet": (0.5, (
        ("box", (0.2, 0.45, 0.85), (0, 0, 0.85), 1.0), ("box", (0.005, 0.21, 0.8), (0.2, -0.22, 0.86), 0.8),
        ("box", (0.005, 0.21, 0.8), (0.2, 0.22, 0.86), 0.8),
    )),
    "bookshelf": (0.5, (
        ("box", (0.02, 0.45, 0.95), (-0.14, 0, 0.95), 0.5),
        *(("box", (0.15, 0.45, 0.015), (0, 0, z), 1.0) for z in (0.1, 0.5, 0.9, 1.3, 1.88)),
        ("box", (0.1, 0.16, 0.12), (0, -0.2, 0.23), 0.3), ("box", (0.1, 0.16, 0.12), (0, 0.15, 0.63), 0.7),
        ("box", (0.1, 0.16, 0.12), (0, -0.1, 1.03), 0.4),
    )),
    "rack": (0.5, (
        *(("cylinder", (0.02, 0.02, 0.9), (x, y, 0.9), 0.5) for x in (-0.16, 0.16) for y in (-0.42, 0.42)),
        *(("box", (0.18, 0.44, 0.01), (0, 0, z), 1.0) for z in (0.3, 1.0, 1.75)),
        ("ellipsoid", (0.14, 0.2, 0.16), (0, 0.1, 0.46), 0.8), ("cylinder", (0.12, 0.12, 0.18), (0, -0.15, 1.19), 0.6),
    )),
    "lamp": (0.3, (
        ("cylinder", (0.14, 0.14, 0.02), (0, 0, 0.02), 0.4), ("cylinder", (0.015, 0.015, 0.75), (0, 0, 0.77), 0.4),
        ("ellipsoid", (0.18, 0.18, 0.15), (0, 0, 1.6), 1.0),
    )),
    # On a wall, 1.5 m above the floor.
    "poster": (0.4, (
        ("box", (0.01, 0.32, 0.42), (0.01, 0, 0), 1.0), ("box", (0.01, 0.2, 0.16), (0.015, 0, 0.12), 0.4),
    )),
    "board": (0.7, (
        ("box", (0.015, 0.62, 0.42), (0.01, 0, 0), 0.5), ("box", (0.015, 0.58, 0.38), (0.015, 0, 0), 1.0),
    )),
    "clock": (0.25, (
        ("ellipsoid", (0.03, 0.22, 0.22), (0.01, 0, 0), 0.4), ("ellipsoid", (0.035, 0.18, 0.18), (0.015, 0, 0), 1.0),
    )),
    "window": (0.6, (
        ("box", (0.02, 0.5, 0.6), (0.01, 0, 0), 0.35),
        *(("box", (0.02, 0.22, 0.26), (0.02, y, z), 1.0) for y in (-0.24, 0.24) for z in (-0.29, 0.29)),
    )),
}  # fmt: skip
"""Everything that may stand or hang in a room, by name."""


@dataclass(frozen=True)
class RoomSet:
    """What rooms are drawn from.

    Attributes:
        patterns: textures of floor and walls (``rendering.rooms.PATTERNS``).
        low, tall, hung: names of :data:`THINGS` on the floor, before walls, on walls.
        mounts: what robots stand on (``rendering.rooms``).
        offset_m, turn_deg, height_m: how far, and how much about the vertical, the work stands from where it stands in
            the fixed room: absolute values, in any direction.
    """

    patterns: tuple[str, ...]
    low: tuple[str, ...]
    tall: tuple[str, ...]
    hung: tuple[str, ...]
    mounts: tuple[str, ...]
    offset_m: Range
    turn_deg: Range
    height_m: Range


ROOM_SETS: dict[RoomsName, RoomSet] = {
    "varied": RoomSet(
        patterns=("plain", "planks", "checker", "tiles", "stripes", "speckle"),
        low=("cartons", "bin", "stool", "side table"), tall=("cabinet", "bookshelf"), hung=("poster", "board"),
        mounts=("pedestal", "cabinet"), offset_m=(0.0, 0.14), turn_deg=(0.0, 21.0), height_m=(0.0, 0.035),
    ),
    "held_out": RoomSet(
        patterns=("bricks", "hexagons", "parquet", "dots", "waves", "plaid"),
        low=("ball", "plant", "chair", "barrel"), tall=("rack", "lamp"), hung=("clock", "window"),
        mounts=("column", "frame"), offset_m=(0.15, 0.2), turn_deg=(23.0, 30.0), height_m=(0.04, 0.05),
    ),
}  # fmt: skip
"""``varied`` is for training; nothing of ``held_out`` is in it, placements included."""


@dataclass(frozen=True)
class Surface:
    """A pattern in a colour (rgb, 0 to 1), repeated so many times a metre."""

    pattern: str
    rgb: Three
    repeat: float


@dataclass(frozen=True)
class Light:
    """A light from far away: the direction in which it shines, in the room's frame, and its diffuse rgb."""

    direction: Three
    rgb: Three


@dataclass(frozen=True)
class Thing:
    """One of :data:`THINGS` in a room: its origin (metres) and turn about z, its size against the usual one, its
    colour."""

    name: str
    at_m: Three
    yaw_rad: float
    scale: float
    rgb: Three


@dataclass(frozen=True)
class Room:
    """The room of an episode.

    Attributes:
        at_m, yaw_rad: where the world's origin is in the room's frame, and the turn of its x axis about the vertical.
        mount: what robots stand on, and its colour.
    """

    at_m: Three
    yaw_rad: float
    floor: Surface
    walls: Surface
    lights: tuple[Light, ...]
    mount: tuple[str, Three]
    things: tuple[Thing, ...]

    @property
    def T_world_room(self) -> Array:
        """(4, 4)"""
        return inverse(pose(_turn(self.yaw_rad), self.at_m))


def draw_room(rooms: RoomsName, task_key: str, split: str, seed: int) -> Room | None:
    """The room of an episode of the task with version (``store_cereal-v1``), a pure function of the arguments; None for
    ``fixed``, the one that a task's scene has itself. UnknownNameError where there is no such set."""
    if rooms == "fixed":
        return None
    if rooms not in ROOM_SETS:
        raise unknown_name("set of rooms", rooms, get_args(RoomsName))
    among, rng = ROOM_SETS[rooms], generator(task_key, split, seed, f"rooms/{rooms}")
    radius, angle = rng.uniform(*among.offset_m), rng.uniform(-np.pi, np.pi)
    height, yaw = (rng.choice([-1.0, 1.0]) * rng.uniform(*r) for r in (among.height_m, np.radians(among.turn_deg)))
    at = (float(radius * np.cos(angle)), float(radius * np.sin(angle)), float(height))
    floor, walls = (
        Surface(str(rng.choice(among.patterns)), _colour(rng, 0.6), float(rng.choice([0.7, 1.5]))) for _ in range(2)
    )
    mount = (str(rng.choice(among.mounts)), _colour(rng, 0.2))
    lights = _lights(rng)
    return Room(at, float(yaw), floor, walls, lights, mount, _things(rng, among, pose(_turn(float(yaw)), at)))


def _lights(rng: np.random.Generator) -> tuple[Light, ...]:
    """1 to 4 lights that are together about as bright as the fixed room's, of one colour, white to warm or cold."""
    number = int(rng.integers(1, 5))
    share = rng.dirichlet(np.full(number, 3.0)) * rng.uniform(1.0, 1.7)
    warmth = rng.uniform(-0.15, 0.15)
    lights = []
    for part in share:
        azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(25.0, 70.0))
        down = -np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        lights.append(Light(_three(down), _three(part * np.array([1.0 + warmth, 1.0, 1.0 - warmth]))))
    return tuple(lights)


def _things(rng: np.random.Generator, among: RoomSet, T_room_world: Array) -> tuple[Thing, ...]:
    found: list[Thing] = []
    taken: list[tuple[Array, float]] = []
    T_world_room = inverse(T_room_world)

    def fits(at: Array, radius: float) -> bool:
        x, y = transform(T_world_room, at)[:2]
        (x0, x1), (y0, y1) = KEEP_OUT_M
        clear = not (x0 - radius < x < x1 + radius and y0 - radius < y < y1 + radius)
        return clear and all(np.linalg.norm(at - other) > radius + more for other, more in taken)

    def put(name: str, at: Array, yaw: float) -> None:
        scale = rng.uniform(0.85, 1.15)
        if fits(at, radius := THINGS[name][0] * scale):
            taken.append((at, radius))
            found.append(Thing(name, _three(at), float(yaw), float(scale), _colour(rng, 0.25)))

    for _ in range(rng.integers(1, 4)):
        (x, y, _), facing, half = WALLS[str(rng.choice(["front", "left", "right"]))]
        put(str(rng.choice(among.tall)), _before(x, y, facing, 0.25, rng.uniform(-1, 1) * (half - 0.6)), facing)
    for _ in range(rng.integers(2, 6)):
        (x, y, _), facing, half = WALLS[str(rng.choice([*WALLS]))]
        put(str(rng.choice(among.hung)), _before(x, y, facing, 0.01, rng.uniform(-1, 1) * (half - 0.7), 1.5), facing)
    for _ in range(rng.integers(6, 13)):
        at = np.array([rng.uniform(-1.5, 2.4), rng.uniform(-2.4, 2.4), 0.0])
        if at[0] > -0.5 or abs(at[1]) < 1.4:  # not in a cut corner
            put(str(rng.choice(among.low)), at, rng.uniform(-np.pi, np.pi))
    return tuple(found)


def _before(x: float, y: float, facing: float, off: float, along: float, z: float = 0.0) -> Array:
    """A place so far before a wall's middle, and so far along the wall."""
    c, s = np.cos(facing), np.sin(facing)
    return np.array([x + off * c - along * s, y + off * s + along * c, z])


def _colour(rng: np.random.Generator, darkest: float) -> Three:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.55), rng.uniform(darkest, 1.0))


def _turn(yaw_rad: float) -> Array:
    return Rotation.from_euler("z", yaw_rad).as_matrix()


def _three(values: Array) -> Three:
    x, y, z = (float(value) for value in values)
    return x, y, z
