"""What stands on the table of HangMug: a mug with a handle and a rack with one peg; their shapes and their MJCF.

A mug's frame: z along its axis from the bottom, which is the origin, to the rim; the handle points along x. A rack's
frame: z along its post from the table up; the peg points along -y.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from geo4d_bench.geometry.se3 import Array, inverse
from geo4d_bench.tasks.mjcf import FIRM, SEEN, grid_mesh, legs, text, textured

# The table, its top's middle below (TABLE_X, 0). Metres.
TABLE_X, TABLE_TOP_M = 0.05, 0.85
TABLE_HALF_M = (0.36, 0.46, 0.02)

# The rack, which stands free: a post on a heavy foot with one peg that rises a little and ends in a ball.
FOOT_RADIUS_M, POST_RADIUS_M, PEG_RADIUS_M, BALL_RADIUS_M = 0.065, 0.009, 0.005, 0.0065
PEG_M, PEG_HEIGHT_M, PEG_RISE_RAD = 0.10, 0.15, float(np.radians(10.0))
PEG_RACK = np.array([0.0, 0.0, PEG_HEIGHT_M])  # where the peg begins, on the post's axis
AXIS_RACK = np.array([0.0, -np.cos(PEG_RISE_RAD), np.sin(PEG_RISE_RAD)])  # unit vector from there to the peg's tip

# The mug: eight flat walls (drawn round) and a handle whose middle line is a half superellipse in the mug's x-z plane.
WALL_M, THICK_M, HEIGHT_M, BOTTOM_M = 0.024, 0.004, 0.10, 0.012
"""From the axis to the walls' outside, the walls' thickness, the mug's height, and its bottom's thickness."""
HANDLE_OUT_M, HANDLE_HALF_M, HANDLE_Z, HANDLE_RADIUS_M, HANDLE_POWER = 0.042, 0.029, 0.050, 0.0045, 0.6
"""How far the handle's middle line goes out from the wall, its half height, its middle's height, its thickness."""
LOOP_MUG = np.array([WALL_M + (HANDLE_OUT_M - HANDLE_RADIUS_M) / 2, 0.0, HANDLE_Z])
"""The middle of the handle's opening, which is 3.7 cm wide and 4.9 cm high."""


def world_xml() -> str:
    """MJCF of the table, the rack and the mug, in the frame of the world."""
    x, y, z = TABLE_HALF_M
    leg_x, leg_y = x - 0.03, y - 0.03
    stand = legs((-leg_x, leg_x), (-leg_y, leg_y), (TABLE_TOP_M - 2 * z) / 2, 'rgba="0.75 0.75 0.73 1"')
    return f"""
    <mujoco>
      <asset>
        {textured("table", "light-wood.png", 3)}
        <material name="rack" rgba="0.86 0.33 0.22 1" specular="0.3" shininess="0.4" reflectance="0"/>
        <material name="glaze" rgba="0.10 0.47 0.60 1" specular="0.6" shininess="0.7" reflectance="0"/>
        {grid_mesh("mug_cup", _cup_rings(), closed=(True, True))}
        {grid_mesh("mug_handle", _handle_rings(), closed=(False, True))}
      </asset>
      <worldbody>
        <body name="table" pos="{TABLE_X} 0 0">
          <geom type="box" size="{x} {y} {z}" pos="0 0 {TABLE_TOP_M - z}" group="1" material="table"
                friction="0.3 0.005 0.0001"/>{stand}
        </body>
        {_rack()}
        {_mug()}
      </worldbody>
    </mujoco>"""


def peg_in_loop(T_mug: Array, T_rack: Array) -> tuple[bool, float, float]:
    """Whether the peg goes through the handle; how far from the post (m), and how far above the opening's middle.

    Args:
        T_mug, T_rack: (4, 4) poses in one frame.
    """
    base, tip = (inverse(T_mug) @ T_rack @ (*point, 1.0) for point in (PEG_RACK, PEG_RACK + PEG_M * AXIS_RACK))
    if base[1] * tip[1] >= 0.0:
        return False, 0.0, 0.0
    share = float(base[1] / (base[1] - tip[1]))
    x, _, z = (base + share * (tip - base))[:3]
    inside = WALL_M < x < WALL_M + float(_handle_out(np.array(z)))
    return bool(inside), share * PEG_M, float(z - HANDLE_Z)


def axis_gap(p_world: Array, T_mug: Array) -> float:
    """Distance in metres from the mug's axis between its bottom and its rim."""
    p = (p_world - T_mug[:3, 3]) @ T_mug[:3, :3]
    return float(np.linalg.norm(p - (0.0, 0.0, np.clip(p[2], 0.0, HEIGHT_M))))


def _handle_out(z: Array) -> Array:
    """How far the handle's middle line is from the wall at heights z, 0 above and below it."""
    inside = np.clip(1.0 - ((z - HANDLE_Z) / HANDLE_HALF_M) ** 2, 0.0, None)
    return HANDLE_OUT_M * inside ** (HANDLE_POWER / 2)


def _rack() -> str:
    """MJCF of the rack on a ring of rubber feet; 1.3 kg, most of it in the foot."""
    solid, seen = f'group="0" condim="6" {FIRM} friction="0.4 0.02 0.001"', f'{SEEN} material="rack"'
    tip, post = PEG_RACK + PEG_M * AXIS_RACK, (PEG_HEIGHT_M + 0.015 - 0.004) / 2
    parts = (
        (f'type="cylinder" size="{FOOT_RADIUS_M} 0.006" pos="0 0 0.010"', 1.2),
        (f'type="cylinder" size="{POST_RADIUS_M} {post}" pos="0 0 {0.004 + post}"', 0.06),
        (f'type="capsule" size="{PEG_RADIUS_M}" fromto="{text(PEG_RACK)} {text(tip)}"', 0.01),
        (f'type="sphere" size="{BALL_RADIUS_M}" pos="{text(tip)}"', 0.002),
    )
    geoms = "".join(f'<geom {shape} mass="{mass}" {solid}/><geom {shape} {seen}/>' for shape, mass in parts)
    for angle in np.arange(8) * np.pi / 4:
        x, y = (FOOT_RADIUS_M - 0.006) * np.cos(angle), (FOOT_RADIUS_M - 0.006) * np.sin(angle)
        geoms += (
            f'<geom type="sphere" size="0.004" pos="{x} {y} 0.004" mass="0.003" group="0" friction="0.8 0.005 0.0001" '
            f"{FIRM}/>"
        )
    return f'<body name="rack"><freejoint/>{geoms}</body>'


def _mug() -> str:
    """MJCF of the mug: eight walls, a bottom on a ring of small feet, and the handle as a chain of capsules."""
    solid = f'group="0" density="2000" condim="6" {FIRM}'
    grip, slide, handle = (f'{solid} friction="{f}"' for f in ("1 0.02 0.001", "0.3 0.005 0.0001", "0.4 0.02 0.001"))
    half = (THICK_M / 2, WALL_M * np.tan(np.pi / 8), (HEIGHT_M - 0.003) / 2)
    geoms = []
    for angle in np.arange(8) * np.pi / 4:
        x, y = np.cos(angle), np.sin(angle)
        middle = (x * (WALL_M - half[0]), y * (WALL_M - half[0]), HEIGHT_M - half[2])
        geoms.append(
            f'<geom type="box" size="{text(half)}" pos="{text(middle)}" euler="0 0 {angle}" {grip}/>'
            f'<geom type="sphere" size="0.003" pos="{0.019 * x} {0.019 * y} 0.003" {slide}/>'
        )
    bottom = (BOTTOM_M - 0.002) / 2
    geoms.append(f'<geom type="cylinder" size="0.021 {bottom}" pos="0 0 {0.002 + bottom}" {grip}/>')
    line = _handle_line(9)
    for a, b in pairwise(line):
        geoms.append(f'<geom type="capsule" size="{HANDLE_RADIUS_M}" fromto="{text(a)} {text(b)}" {handle}/>')
    drawn = "".join(f'<geom type="mesh" {SEEN} material="glaze" mesh="mug_{part}"/>' for part in ("cup", "handle"))
    return f'<body name="mug"><freejoint/>{"".join(geoms)}{drawn}</body>'


def _handle_line(number: int) -> Array:
    """(number, 3) points of the handle's middle line from its upper to its lower end, in the mug's frame."""
    angle = np.linspace(np.pi / 2, -np.pi / 2, number)
    z = HANDLE_Z + HANDLE_HALF_M * np.sin(angle)
    return np.stack([WALL_M - 0.001 + _handle_out(z), np.zeros(number), z], axis=1)


def _cup_rings() -> Array:
    """(32, profile, 3) the cup's profile turned about its axis: outside up, rim, inside down."""
    r = WALL_M + 0.0008  # between the flat walls and the edges where they meet
    profile = [(0.002, 0), (0.019, 0), (r, 0.004), (r, 0.05), (r, 0.098), (r - 0.002, HEIGHT_M), (r - 0.004, 0.098),
               (r - 0.004, 0.05), (r - 0.005, BOTTOM_M + 0.003), (r - 0.008, BOTTOM_M), (0.002, BOTTOM_M)]  # fmt: skip
    return np.array([[(p * np.cos(a), p * np.sin(a), z) for p, z in profile] for a in np.arange(32) * np.pi / 16])


def _handle_rings() -> Array:
    """(rings, 12, 3) circles about the handle's middle line, in the planes across it."""
    line = _handle_line(25)
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    aside, angle = np.array([0.0, 1.0, 0.0]), np.arange(12)[:, None] * np.pi / 6
    circles = np.cos(angle) * aside + np.sin(angle) * np.cross(along, aside)[:, None]
    rings: Array = line[:, None] + HANDLE_RADIUS_M * circles
    return rings
