"""What stands in the room of spatula_on_table: a table with a mat, a utensil crock and a spatula, in MJCF."""

from __future__ import annotations

import numpy as np

from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.mjcf import FIRM, SEEN, grid_mesh, legs

# The table with its mat, metres.
TABLE_TOP_M = 0.95
MAT_CENTRE = np.array([-0.10, 0.16])
MAT_HALF = np.array([0.20, 0.12])
MAT_TOP_M = TABLE_TOP_M + 0.002

# The crock: its origin is the middle of its underside.
CROCK_HEIGHT_M, CROCK_INNER_M, CROCK_OUTER_M, CROCK_FLOOR_M = 0.14, 0.048, 0.055, 0.012
CROCK_SIDES = 16

# The spatula: its z axis goes from the foot of the handle to the tip of the blade, x is the blade's normal.
# The origin is where the handle crosses the crock's axis when it leans from wall to wall.
ORIGIN_M = 0.07  # from the foot to the origin
HANDLE_M, HANDLE_RADIUS_M = 0.235, 0.008
BLADE_M, BLADE_HALF_WIDTH_M, BLADE_HALF_THICKNESS_M = 0.085, 0.031, 0.0025
LENGTH_M = HANDLE_M + BLADE_M
OUTLINE = np.array(
    [(0.0, 0.0, 0.0), *((0.0, y * BLADE_HALF_WIDTH_M, s) for y in (-1, 1) for s in (HANDLE_M, LENGTH_M))]
) - (0.0, 0.0, ORIGIN_M)
"""Foot and corners of the blade, in the spatula's frame."""

UNSEEN = f'group="0" {FIRM}'
_RED = "0.93 0.36 0.16 1"
_CROCK_PROFILE = (
    (0.0, 0.0), (0.052, 0.0), (0.055, 0.004), (0.055, 0.130), (0.0565, 0.134), (0.0565, 0.139), (0.055, 0.1405),
    (0.0485, 0.1405), (0.0475, 0.138), (0.0475, CROCK_FLOOR_M), (0.0, CROCK_FLOOR_M),
)  # fmt: skip
_BAND_PROFILE = ((0.0545, 0.085), (0.0555, 0.085), (0.0555, 0.115), (0.0545, 0.115))


def scene_mjcf() -> str:
    """The table with its mat, the crock and the spatula, see ``RobosuiteTask.world``."""
    from geo4d_bench.tasks.simulation import texture_file

    stand = legs((-0.33, 0.37), (-0.42, 0.42), (TABLE_TOP_M - 0.04) / 2, 'material="tabletop"')
    x, y = MAT_CENTRE
    hx, hy = MAT_HALF
    # The mat reaches far down into the table: what presses 1 mm into a thin one is pushed out through its underside.
    deep = 0.02
    return f"""
    <mujoco>
      <asset>
        <texture type="2d" name="tex-table" file="{texture_file("light-wood.png")}"/>
        <material name="tabletop" texture="tex-table" texrepeat="2 2" texuniform="true" specular="0.1" shininess="0.1"/>
        <material name="handle" rgba="0.62 0.40 0.25 1" specular="0.2" shininess="0.2"/>
        <material name="glaze" rgba="0.93 0.91 0.85 1" specular="0.5" shininess="0.6"/>
        <material name="band" rgba="0.22 0.38 0.55 1" specular="0.5" shininess="0.6"/>
        {_lathe("crock_glaze", _CROCK_PROFILE)}
        {_lathe("crock_band", _BAND_PROFILE)}
      </asset>
      <worldbody>
        <body name="table">
          <geom type="box" size="0.38 0.46 0.02" pos="0.02 0 {TABLE_TOP_M - 0.02}" material="tabletop" group="1"
                friction="0.6 0.005 0.0001"/>
          {stand}
          <geom name="mat" type="box" size="{hx} {hy} {deep}" pos="{x} {y} {MAT_TOP_M - deep}" group="1"
                rgba="0.30 0.50 0.72 1" friction="0.8 0.005 0.0001"/>
          <geom type="box" size="{hx - 0.012} {hy - 0.012} 0.0002" pos="{x} {y} {MAT_TOP_M}" {SEEN}
                rgba="0.86 0.88 0.90 1"/>
          <geom type="box" size="{hx - 0.018} {hy - 0.018} 0.0004" pos="{x} {y} {MAT_TOP_M}" {SEEN}
                rgba="0.30 0.50 0.72 1"/>
        </body>
        {_crock()}
        {_spatula()}
      </worldbody>
    </mujoco>"""


def _crock() -> str:
    middle, half = (CROCK_OUTER_M + CROCK_INNER_M) / 2, (CROCK_OUTER_M - CROCK_INNER_M) / 2
    side = CROCK_OUTER_M * np.tan(np.pi / CROCK_SIDES)
    walls = "".join(
        f'<geom type="box" size="{half} {side} {CROCK_HEIGHT_M / 2}" density="1500" friction="0.4 0.005 0.0001" '
        f'pos="{middle * np.cos(a)} {middle * np.sin(a)} {CROCK_HEIGHT_M / 2}" euler="0 0 {a}" {UNSEEN}/>'
        for a in 2 * np.pi * np.arange(CROCK_SIDES) / CROCK_SIDES
    )
    return f"""
    <body name="crock"><freejoint/>
      <geom type="cylinder" size="{CROCK_INNER_M} {CROCK_FLOOR_M / 2}" pos="0 0 {CROCK_FLOOR_M / 2}" density="1500"
            friction="0.4 0.005 0.0001" {UNSEEN}/>
      {walls}
      <geom type="mesh" mesh="crock_glaze" material="glaze" {SEEN}/>
      <geom type="mesh" mesh="crock_band" material="band" {SEEN}/>
    </body>"""


def _spatula() -> str:
    z, w, t, r = -ORIGIN_M, BLADE_HALF_WIDTH_M, BLADE_HALF_THICKNESS_M, HANDLE_RADIUS_M
    blade = HANDLE_M + BLADE_M / 2 + z
    bars = "".join(
        f'<geom type="box" size="{t} {w / 9} {0.3 * BLADE_M}" pos="0 {k * w * 4 / 9} {blade}" {SEEN} rgba="{_RED}"/>'
        for k in (-2, -1, 0, 1, 2)
    )
    return f"""
    <body name="spatula"><freejoint/>
      <geom type="capsule" size="{r}" fromto="0 0 {z + r} 0 0 {z + HANDLE_M - r}" density="600" {UNSEEN}
            friction="0.5 0.005 0.0001"/>
      <geom type="box" size="{t} {w} {BLADE_M / 2}" pos="0 0 {blade}" density="1300" {UNSEEN}
            friction="0.5 0.005 0.0001"/>
      <geom type="capsule" size="{r}" fromto="0 0 {z + r} 0 0 {z + HANDLE_M - r}" material="handle" {SEEN}/>
      <geom type="box" size="{t} {w} {0.1 * BLADE_M}" pos="0 0 {blade - 0.4 * BLADE_M}" {SEEN} rgba="{_RED}"/>
      <geom type="box" size="{t} {w} {0.1 * BLADE_M}" pos="0 0 {blade + 0.4 * BLADE_M}" {SEEN} rgba="{_RED}"/>
      {bars}
    </body>"""


def _lathe(name: str, profile: tuple[tuple[float, float], ...], around: int = 32) -> str:
    """A ``<mesh>`` that turns the profile (radius, height) about z."""
    (r, z), a = np.array(profile).T, 2 * np.pi * np.arange(around)[:, None] / around
    points: Array = np.stack([r * np.cos(a), r * np.sin(a), np.broadcast_to(z, (around, len(z)))], axis=-1)
    return grid_mesh(name, points.round(5), closed=(True, False))
