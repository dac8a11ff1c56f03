"""What stands in the room of apple_to_bin: a table, a stand, a bowl with an apple and a bin, in MJCF."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.tasks.mjcf import FIRM, SEEN, legs, text, textured

# Metres; heights of parts are above the table's top.
TABLE_TOP_M = 0.84
TABLE_HALF_M = (0.26, 0.42, 0.02)
RADIUS_M = 0.025  # the apple's: a sphere to whatever it touches
STAND_RADIUS_M, STAND_HEIGHT_M = 0.068, 0.070  # a drum, so that nothing rolls under it
DISH = ((0.0, 0.0), (0.012, 0.0), (0.060, 0.013))
"""(radius, height) of the hollow in the stand's top, which keeps an apple from rolling off."""
DISH_FLOOR_M = TABLE_TOP_M + STAND_HEIGHT_M - 0.009
BOWL = ((0.0, 0.008), (0.018, 0.008), (0.075, 0.016), (0.105, 0.042))
"""(radius, height) of the bowl's inside: flat in the middle, where the apple lies, then a floor that rises a little."""
BOWL_FLOOR_RADIUS_M = BOWL[2][0]
APPLE_IN_BOWL_M = BOWL[0][1] + RADIUS_M  # height of the apple's centre above the bowl's origin
BIN_HALF_M, BIN_WALL_M, BIN_HEIGHT_M = 0.085, 0.006, 0.080
BIN_INSIDE_M = BIN_HALF_M - BIN_WALL_M
RIM_M = TABLE_TOP_M + BIN_HEIGHT_M


def world_mjcf() -> str:
    """Table, stand, bowl, apple and bin, see ``RobosuiteTask.world``."""
    half = " ".join(map(str, TABLE_HALF_M))
    stand = legs((-0.22, 0.22), (-0.38, 0.38), TABLE_TOP_M / 2 - 0.02, 'rgba="0.55 0.56 0.58 1"')
    return f"""
    <mujoco>
      <asset>
        {textured("table", "white-plaster.png", 2)}
        {textured("stand", "light-wood.png", 6)}
        <texture type="cube" name="tex-apple" builtin="gradient" rgb1="0.80 0.07 0.06" rgb2="0.88 0.45 0.12"
                 width="64" height="64"/>
        <material name="apple" texture="tex-apple" specular="0.4" shininess="0.5" reflectance="0"/>
        <material name="glaze" rgba="0.25 0.47 0.62 1" specular="0.4" shininess="0.5" reflectance="0"/>
        <material name="plastic" rgba="0.30 0.56 0.34 1" specular="0.2" shininess="0.3" reflectance="0"/>
        {_mesh("apple", _apple_outline())}
        {_mesh("bowl", _bowl_outline())}
        {_mesh("stand", _stand_outline())}
      </asset>
      <worldbody>
        <body name="table" pos="0 0 {TABLE_TOP_M - TABLE_HALF_M[2]}">
          <geom type="box" size="{half}" material="table" group="1" {_FIRM}/>
        </body>
        <body name="legs">{stand}</body>
        <body name="shelf" pos="0 0 {TABLE_TOP_M}">
          <geom type="mesh" mesh="stand" material="stand" {SEEN}/>
          <geom name="stand" type="cylinder" size="{STAND_RADIUS_M} {_DISH_Z / 2}" pos="0 0 {_DISH_Z / 2}"
                group="0" {_FIRM}/>
          {_cone("dish", DISH, _DISH_Z, 0.0)}
        </body>
        <body name="bowl">
          <freejoint/>
          <geom type="mesh" mesh="bowl" material="glaze" {SEEN}/>
          <geom name="bowl_foot" type="box" size="0.040 0.040 0.004" pos="0 0 0.004" mass="0.2" group="0" {_FIRM}/>
          {_cone("bowl", BOWL, 0.0, 0.2)}
        </body>
        <body name="apple">
          <freejoint/>
          <geom type="mesh" mesh="apple" material="apple" {SEEN}/>
          <geom type="capsule" fromto="0 0 0.012 0.002 0 0.0245" size="0.0014" rgba="0.36 0.25 0.14 1"
                {SEEN}/>
          <geom name="apple" type="sphere" size="{RADIUS_M}" mass="0.12" group="0" condim="6"
                {_FIRM}/>
        </body>
        <body name="bin"><freejoint/>{_bin()}</body>
      </worldbody>
    </mujoco>"""


def in_dish(apple: Array, up_to_m: float = 0.012) -> bool:
    """Whether the apple (3,) lies in the stand's hollow, or is at most ``up_to_m`` above its lowest place there."""
    return bool(np.hypot(*apple[:2]) < 0.035 and -0.01 < apple[2] - RADIUS_M - DISH_FLOOR_M < up_to_m)


def inside_bin(apple: Array, T_world_bin: Array) -> bool:
    """Whether the apple (3,) is between the bin's walls, or above there."""
    return bool(np.all(np.abs(transform(inverse(T_world_bin), apple)[:2]) < BIN_INSIDE_M))


def in_bin(apple: Array, T_world_bin: Array) -> bool:
    """Whether the apple (3,) is in the bin, below its rim."""
    return inside_bin(apple, T_world_bin) and bool(apple[2] < T_world_bin[2, 3] + BIN_HEIGHT_M)


_FIRM = f'{FIRM} friction="1 0.01 0.001"'
_DISH_Z = DISH_FLOOR_M - TABLE_TOP_M
_SIDES = 12


def _cone(name: str, outline: Sequence[tuple[float, float]], z_m: float, mass: float) -> str:
    """What a hollow of revolution is to an apple: for each part of its outline, a ring of boxes below the surface."""
    geoms, parts = [], list(pairwise(outline[1:]))
    for ring, ((r0, z0), (r1, z1)) in enumerate(parts):
        length, slope, thick = np.hypot(r1 - r0, z1 - z0), np.arctan2(z1 - z0, r1 - r0), 0.003
        middle = np.array([(r0 + r1) / 2, (z0 + z1) / 2]) + thick * np.array([np.sin(slope), -np.cos(slope)])
        for side in range(_SIDES):
            turn = 2 * np.pi * side / _SIDES
            geoms.append(
                f'<geom name="{name}{ring}_{side}" type="box" group="0" {_FIRM} mass="{mass / _SIDES / len(parts)}" '
                f'size="{length / 2} {r1 * np.tan(np.pi / _SIDES)} {thick}" '
                f'xyaxes="{np.cos(turn) * np.cos(slope)} {np.sin(turn) * np.cos(slope)} {np.sin(slope)} '
                f'{-np.sin(turn)} {np.cos(turn)} 0" '
                f'pos="{middle[0] * np.cos(turn)} {middle[0] * np.sin(turn)} {z_m + middle[1]}"/>'
            )
    return "".join(geoms)


def _bin() -> str:
    """Four walls, a floor, and a rim that is only seen."""
    high, wall, half = BIN_HEIGHT_M / 2, BIN_WALL_M / 2, BIN_HALF_M
    boxes = [((half, half, wall), (0.0, 0.0, wall))]
    rims = []
    for sign in (-1, 1):
        at = sign * (half - wall)
        boxes += [((wall, half, high), (at, 0.0, high)), ((half, wall, high), (0.0, at, high))]
        rims += [((0.004, half + 0.003, 0.003), (at, 0.0)), ((half + 0.003, 0.004, 0.003), (0.0, at))]
    geoms = []
    for number, (size, pos) in enumerate(boxes):
        at_size = f'type="box" size="{size[0]} {size[1]} {size[2]}" pos="{pos[0]} {pos[1]} {pos[2]}"'
        geoms.append(f'<geom name="bin{number}" {at_size} mass="0.16" group="0" {_FIRM}/>')
        geoms.append(f'<geom {at_size} material="plastic" {SEEN}/>')
    for size, (x, y) in rims:
        geoms.append(
            f'<geom type="box" size="{size[0]} {size[1]} {size[2]}" pos="{x} {y} {BIN_HEIGHT_M - 0.003}" '
            f'material="plastic" {SEEN}/>'
        )
    return "".join(geoms)


def _apple_outline() -> Array:
    """(N, 2) radius and height from the bottom to the top: a ball with a hollow at each end, fuller above."""
    angle = np.linspace(0.0, np.pi, 25)[:, None]
    size = 1.03 - 0.16 * np.exp(-((angle / 0.45) ** 2)) - 0.36 * np.exp(-(((np.pi - angle) / 0.42) ** 2))
    radius, height = np.sin(angle), -np.cos(angle)
    outline: Array = RADIUS_M * size * np.hstack([radius * (1.0 + 0.04 * height), height])
    return outline


def _bowl_outline() -> Array:
    """(N, 2) once round the bowl's section: out along its underside, back along its inside."""
    outside = [(0.0, 0.0), (0.045, 0.0), (0.045, 0.004), (0.078, 0.010), (0.110, 0.041)]
    return np.array([*outside, (0.108, 0.044), *reversed(BOWL)])


def _stand_outline() -> Array:
    inside = [(r, z + _DISH_Z) for r, z in reversed(DISH)]
    top = inside[0][1]
    return np.array([(0.0, 0.0), (STAND_RADIUS_M, 0.0), (STAND_RADIUS_M, top - 0.002), (0.065, top), *inside])


def _mesh(name: str, outline: Array, around: int = 36) -> str:
    """A ``<mesh>`` of revolution; the outline (N, 2), radius and height, begins and ends on the axis."""
    turn = 2 * np.pi * np.arange(around) / around
    rings = [
        np.column_stack([r * np.cos(turn), r * np.sin(turn), np.full(around, z)]) for r, z in outline[1:-1].tolist()
    ]
    vertices = np.vstack([(0.0, 0.0, outline[0, 1]), *rings, (0.0, 0.0, outline[-1, 1])])
    here, after = np.arange(around), (np.arange(around) + 1) % around
    last = len(vertices) - 1
    faces = [np.column_stack([np.zeros(around, int), 1 + after, 1 + here])]
    for ring in range(len(rings) - 1):
        low, high = 1 + ring * around, 1 + (ring + 1) * around
        faces.append(np.column_stack([low + here, low + after, high + after]))
        faces.append(np.column_stack([low + here, high + after, high + here]))
    faces.append(np.column_stack([last - around + here, last - around + after, np.full(around, last)]))
    return f'<mesh name="{name}" vertex="{text(vertices.round(6).ravel())}" face="{text(np.vstack(faces).ravel())}"/>'
