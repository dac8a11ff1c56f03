"""The scene of ``can_in_drawer``: a table, a cabinet with one drawer, and a can. All in metres."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.mjcf import FIRM, SEEN, textured
from geo4d_bench.tasks.motion import within

TABLE_TOP_M = 0.88
CABINET_M = np.array([0.10, 0.12, TABLE_TOP_M])
"""Middle of the lower edge of the cabinet's front; the drawer's parts are given from here, for a shut drawer."""
CABINET_SIZE_M = (0.24, 0.26, 0.125)  # depth, width and height of the cabinet
INSIDE_LOW_M, INSIDE_HIGH_M = np.array([-0.002, -0.106, 0.022]), np.array([0.200, 0.106, 0.085])
"""Corners of the drawer's inside; the upper one is at the height of its walls, its front is higher."""
FRONT_TOP_M = 0.121
BAR_M, BAR_HALF_M = np.array([-0.054, 0.0, 0.077]), np.array([0.012, 0.008, 0.036])
"""Middle and half sizes of the handle's upright bar."""
TRAVEL_M = 0.19
CAN_RADIUS_M, CAN_HALF_M = 0.0212, 0.0425
"""The can is eight-sided to whatever touches it, 3.9 cm across its sides, 4.2 cm across its edges. Half height."""
TOP_GRASP_M = 0.022  # below the top of a standing can: where it is taken

_BOARD_M, _WALL_M = 0.012, 0.008  # thickness of the cabinet's boards and the drawer's front; of its other walls
_STIFF = f'{FIRM} friction="1 0.005 0.0001"'

Corner = npt.ArrayLike


class Can:
    """The can's pose T (4, 4), middle p (3,), half extents along the world's axes (3,), and the height of its lowest
    point, metres; it stands when it is upright or upside down."""

    def __init__(self, T: Array) -> None:
        along = np.abs(T[:3, 2])
        self.T, self.p = T, T[:3, 3]
        self.half: Array = along * CAN_HALF_M + np.sqrt(np.maximum(1.0 - along**2, 0.0)) * CAN_RADIUS_M
        self.bottom = float(self.p[2] - self.half[2])
        self.stands = bool(abs(T[2, 2]) > 0.95)

    @property
    def grasp_yaw(self) -> float:
        """Of a hand from above that takes it by two of its eight sides, or across where it leans or lies; radians."""
        (x, y), period = (self.T[:2, 0], np.pi / 4) if self.stands else (self.T[:2, 2], np.pi)
        return within(np.arctan2(y, x), period)

    @property
    def grasp_point(self) -> Array:
        """(3,) where a hand from above takes it: the nearer to its upper end, the more upright it is."""
        point: Array = self.p + self.T[:3, 2] * self.T[2, 2] * (CAN_HALF_M - TOP_GRASP_M)
        return point

    def inside(self, travel: float) -> bool:
        """Whether all of it is between the walls of a drawer that is open by ``travel``, and some of it below their
        upper edge."""
        out = np.array([travel, 0.0, 0.0])
        low, high = CABINET_M + INSIDE_LOW_M - out - 0.002, CABINET_M + INSIDE_HIGH_M - out + 0.002
        between = np.all(self.p[:2] - self.half[:2] > low[:2]) and np.all(self.p[:2] + self.half[:2] < high[:2])
        return bool(between and low[2] < self.bottom < high[2])


def world_mjcf() -> str:
    """See ``RobosuiteTask.world``."""
    where = " ".join(map(str, CABINET_M))
    table = _box("table_top", (-0.40, -0.45, -0.03), (0.40, 0.45, 0.0), f'material="table" group="1" {_STIFF}')
    materials = "".join(
        textured(name, file, repeat, f'specular="{specular}" shininess="0.1"')
        for name, file, repeat, specular in (
            ("table", "light-wood.png", 2, 0.1),
            ("cabinet", "wood-tiles.png", 4, 0.1),
            ("drawer", "blue-wood.png", 4, 0.1),
            ("steel", "steel-brushed.png", 4, 0.4),
        )
    )
    # The light comes from the robot's side: the room's own leave the drawer's front and its handle in the dark.
    return f"""
    <mujoco>
      <asset>{materials}</asset>
      <worldbody>
        <light pos="-1 0 2.5" dir="0.7 0.1 -0.7" directional="true" castshadow="false" diffuse="0.3 0.3 0.3"
               specular="0 0 0"/>
        <body name="table" pos="0.02 0 {TABLE_TOP_M}">{table}</body>
        <body name="cabinet" pos="{where}">{_cabinet()}</body>
        <body name="drawer" pos="{where}">
          <joint name="drawer" type="slide" axis="-1 0 0" limited="true" range="0 {TRAVEL_M}" frictionloss="1.5"
                 damping="8"/>
          {_drawer()}<body name="handle">{_handle()}</body>
        </body>
        <body name="can"><freejoint/>{_can()}</body>
      </worldbody>
    </mujoco>"""


def _cabinet() -> str:
    depth, width, height = CABINET_SIZE_M
    y, t = width / 2, _BOARD_M
    boards = {
        "bottom": ((0.0, -y, 0.0), (depth, y, t)),
        "top": ((0.0, -y, height - t), (depth, y, height)),
        "right": ((0.0, -y, t), (depth, t - y, height - t)),
        "left": ((0.0, y - t, t), (depth, y, height - t)),
        "back": ((depth - t, t - y, t), (depth, y - t, height - t)),
    }
    look = f'material="cabinet" group="1" {_STIFF}'
    return "".join(_box(f"cabinet_{name}", *corners, look) for name, corners in boards.items())


def _drawer() -> str:
    (x0, y0, z0), (x1, y1, z1), t = INSIDE_LOW_M, INSIDE_HIGH_M, _WALL_M
    boards = {
        "front": ((x0 - _BOARD_M, y0 - 0.02, 0.004), (x0, y1 + 0.02, FRONT_TOP_M)),
        "floor": ((x0, y0 - t, z0 - t), (x1 + t, y1 + t, z0)),
        "right": ((x0, y0 - t, z0), (x1 + t, y0, z1)),
        "left": ((x0, y1, z0), (x1 + t, y1 + t, z1)),
        "back": ((x1, y0, z0), (x1 + t, y1, z1)),
    }
    return "".join(_movable(f"drawer_{name}", *corners, "drawer", 600) for name, corners in boards.items())


def _handle() -> str:
    low, high = BAR_M - BAR_HALF_M, BAR_M + BAR_HALF_M
    x0, x1 = high[0], INSIDE_LOW_M[0] - _BOARD_M
    parts = {
        "bar": (low, high),
        "foot_low": ((x0, -0.005, low[2]), (x1, 0.005, low[2] + 0.01)),
        "foot_high": ((x0, -0.005, high[2] - 0.01), (x1, 0.005, high[2])),
    }
    return "".join(_movable(f"handle_{name}", *corners, "steel", 2000) for name, corners in parts.items())


def _can() -> str:
    thin, wide = CAN_RADIUS_M * np.sin(np.pi / 8), CAN_RADIUS_M * np.cos(np.pi / 8)
    # Four bars whose outline is an octagon: flat on finger pads and boards, where MuJoCo finds one point of a cylinder.
    solid = "".join(
        f'<geom name="can_solid{k}" type="box" size="{wide} {thin} {CAN_HALF_M}" euler="0 0 {k * np.pi / 4}" '
        f'group="0" mass="0.04" condim="4" {_STIFF}/>'
        for k in range(4)
    )
    bands = "".join(
        f'<geom name="can_{name}" type="cylinder" size="{radius} {(top - bottom) / 2}" '
        f'pos="0 0 {(top + bottom) / 2}" {SEEN} {look}/>'
        for name, bottom, top, radius, look in (
            ("base", -CAN_HALF_M, -0.037, 0.0195, 'material="steel"'),
            ("red", -0.037, 0.037, 0.0206, 'rgba="0.78 0.10 0.10 1"'),
            ("label", -0.012, 0.016, 0.0208, 'rgba="0.93 0.90 0.80 1"'),
            ("lid", 0.037, CAN_HALF_M, 0.0195, 'material="steel"'),
        )
    )
    return solid + bands


def _movable(name: str, low: Corner, high: Corner, material: str, density: float) -> str:
    """A box that collides and weighs (kg/m^3), and the same box that is seen."""
    solid = _box(name, low, high, f'group="0" density="{density}" {_STIFF}')
    return solid + _box(f"{name}_seen", low, high, f'{SEEN} material="{material}"')


def _box(name: str, low: Corner, high: Corner, rest: str) -> str:
    a, b = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    size, middle = (" ".join(map(str, v)) for v in ((b - a) / 2, (a + b) / 2))
    return f'<geom name="{name}" type="box" size="{size}" pos="{middle}" {rest}/>'
