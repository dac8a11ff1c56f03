"""The expert of ``stack_blocks``, and the blocks as the task and its expert see them.

The next move follows from what stands on what, so that a tower that was knocked down, or a block that fell on another,
is put right from wherever it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.motion import DOWN, hand_rotation, turn_z, within
from geo4d_bench.tasks.reactive import CLOSED_M, OPEN_M, ArmView, Phase, Reach, SceneState, Waypoint, still

RED, BLUE, GREEN, YELLOW = BLOCKS = ("red_block", "blue_block", "green_block", "yellow_block")
TOWER = ((RED, BLUE), (GREEN, RED))  # what goes on what, in this order
HALF_M = 0.021  # half a block's edge
TABLE_TOP_M = 0.90
SPAWN_X_M, SPAWN_Y_M = (-0.12, 0.12), (-0.17, 0.17)  # where blocks start, and where a block in the way is put down
CENTRED_M, LEVEL_M = 0.017, 0.005
"""A block rests on another when its centre is this near to the other's vertical, and this near to its height there."""

GRASP_UP_M = 0.004  # of the grip site above a block's centre: palm clear of it, fingertips clear of what is below
PREGRASP_M = 0.07  # how far above the grasp the straight approach begins
CARRY_M = 0.03  # blocks are carried this far above all others
ROOM_M = 0.008  # the open hand fits around a block when this much is free between it and the other blocks
CROOKED_RAD = 0.2  # a held block that leans more than this is put down and taken again
SPOT_M = 0.10  # a block in the way is put down this far from all others
# The Panda's hand, from the grip site: what a finger sweeps along its axis, half its width, half the palm, its bottom.
FINGER_SWEEP_M, FINGER_HALF_M, PALM_HALF_M, PALM_UP_M = (HALF_M, 0.0665), 0.0105, (0.104, 0.032), 0.031
FINGERTIP_M = 0.0095


class Block:
    """A block's pose T (4, 4) and centre p (3,); whichever face is up, its yaw (rad) within an eighth of a turn and how
    far it is from level; the heights of its lowest and highest points."""

    def __init__(self, T: Array) -> None:
        up = int(np.argmax(np.abs(T[2, :3])))
        side = T[:2, (up + 1) % 3]
        self.T, self.p = T, T[:3, 3]
        self.yaw = within(np.arctan2(side[1], side[0]), np.pi / 2)
        self.tilt = float(np.arccos(min(1.0, abs(T[2, up]))))
        self.bottom = float(self.p[2] - HALF_M * np.abs(T[2, :3]).sum())
        self.top = 2 * float(self.p[2]) - self.bottom
        self.top_centre: Array = self.p + np.array([0.0, 0.0, 2 * HALF_M])  # (3,) where the centre of one on it goes

    @property
    def hand_yaws(self) -> tuple[float, float]:
        """The hand's two ways to take it, by one pair of faces or the other; the comfortable one first."""
        return self.yaw, self.yaw - float(np.copysign(np.pi / 2, self.yaw))

    def rests_on(self, base: Block) -> bool:
        off = self.p - base.top_centre
        return bool(abs(off[2]) < LEVEL_M and np.hypot(off[0], off[1]) < CENTRED_M and self.tilt < 0.1)

    def is_above(self, base: Block) -> bool:
        """Its weight is on the other block, well placed or not."""
        off = self.p - base.p
        return bool(0.6 * HALF_M < off[2] < 3 * HALF_M and np.hypot(off[0], off[1]) < 2 * HALF_M)


@dataclass(frozen=True)
class Job:
    """What to do next: a block, and the place of its centre (3,) and the yaw that it goes to."""

    block: str
    goal: Array
    yaw: float


class BlocksView(ArmView):
    """What the phases' conditions are about."""

    def __init__(self, scene: SceneState, arm: str) -> None:
        super().__init__(scene, arm)
        self.blocks = {name: Block(scene.T_world_obj[name]) for name in BLOCKS}
        self.fingers = {name: scene.fingers_on(name, arm) for name in BLOCKS}

    @cached_property
    def held(self) -> str | None:
        """The block between the fingers."""
        squeezed = self.hand.squeezes(0.03, 0.065)
        return next((name for name in BLOCKS if squeezed and self.fingers[name] == 2), None)

    @property
    def is_crooked(self) -> bool:
        """The held block has turned about the fingers' axis: it must lie flat on the table before it can be stacked."""
        return self.held is not None and self.blocks[self.held].tilt > CROOKED_RAD

    @cached_property
    def job(self) -> Job | None:
        """The next move towards the tower, or None where it stands; a block held by mistake is put aside first."""
        move = self._next_move()
        if self.held is not None and (self.is_crooked or move is None or move[0] != self.held):
            move = (self.held, None)
        if move is None:
            return None
        name, base = move
        if base is None:
            return Job(name, self._free_spot(name), self.blocks[name].yaw)
        return Job(name, self.blocks[base].top_centre, self.blocks[base].yaw)

    @property
    def move(self) -> Job:
        """The job, where there is one."""
        assert self.job is not None
        return self.job

    @property
    def block(self) -> Block:
        """The job's block."""
        return self.blocks[self.move.block]

    @property
    def around(self) -> list[Block]:
        """The other blocks."""
        return others(self.blocks, self.move.block)

    def _next_move(self) -> tuple[str, str | None] | None:
        for top, base in TOWER:
            if self.held != top and self.blocks[top].rests_on(self.blocks[base]):
                continue
            for covered in (base, top):
                cover = self._on(covered, top)
                if cover is not None:
                    return self._on(cover, top) or cover, None
            return top, base
        return None

    def _on(self, base: str, but: str) -> str | None:
        above = (n for n in BLOCKS if n not in (base, but, self.held) and self.blocks[n].is_above(self.blocks[base]))
        return next(above, None)

    def _free_spot(self, name: str) -> Array:
        """Of a grid over the table, the place nearest to the block that is far from all others."""
        taken = np.array([block.p[:2] for block in others(self.blocks, name)])
        spots = np.array(list(product(np.linspace(*SPAWN_X_M, 7), np.linspace(*SPAWN_Y_M, 9))))
        room = np.linalg.norm(spots[:, None] - taken, axis=2).min(1)
        away = np.linalg.norm(spots - self.blocks[name].p[:2], axis=1)
        x, y = spots[np.argmin(np.where(room > SPOT_M, away, 1.0 - room))]
        return np.array([x, y, TABLE_TOP_M + HALF_M])

    @cached_property
    def reach(self) -> Reach:
        """To the job's block, by the faces that the fingers fit at best."""
        block, around = self.block, self.around
        p = block.p + np.array([0.0, 0.0, GRASP_UP_M])
        if np.linalg.norm(self.p - p) < 0.02:  # there already: the way it came
            yaw = min(block.hand_yaws, key=lambda yaw: abs(within(yaw - self.yaw, np.pi)))
        else:
            yaw = max(block.hand_yaws, key=lambda yaw: min(clearance(block, yaw, around), ROOM_M))
        grasp = pose(hand_rotation(np.pi / 2, yaw), p)
        return Reach(self.hand, grasp, DOWN, 0.03, (0.008, 0.1), (0.02, 0.3), aside=(0.012, 0.14), before_m=np.inf)

    @property
    def pregrasp(self) -> Array:
        """(4, 4) above the grasp, and above the blocks around it."""
        T = self.reach.grasp.copy()
        around = [block.top for block in self.blocks.values() if np.hypot(*(block.p - T[:3, 3])[:2]) < 0.15]
        T[2, 3] = max(T[2, 3] + PREGRASP_M, max(around) + FINGERTIP_M + 0.03)
        return T

    @property
    def beside_block(self) -> bool:
        """So near to a block that moving sideways could touch it."""
        return any(
            np.hypot(*(self.p - block.p)[:2]) < 0.12 and self.p[2] - FINGERTIP_M < block.top + 0.015
            for block in self.blocks.values()
        )

    @property
    def carry_bottom(self) -> float:
        """Height (m) of a carried block's bottom."""
        return max(block.top for block in self.around) + CARRY_M

    @property
    def lifted_to(self) -> float:
        """Metres from the carrying height to the held block, negative below it."""
        return self.block.bottom - self.carry_bottom

    @property
    def beside_goal(self) -> float:
        """Metres from the held block to the vertical through its goal."""
        return float(np.hypot(*(self.block.p - self.move.goal)[:2]))

    @cached_property
    def turn_left(self) -> float:
        """Radians that the held block has to turn to stand square at its goal, without twisting the wrist far."""
        turn = within(self.move.yaw - self.block.yaw, np.pi / 2)
        turns = (turn, turn - float(np.copysign(np.pi / 2, turn)))
        return min(turns, key=lambda t: abs(t) + 0.7 * abs(self.yaw + t))

    @property
    def over_goal(self) -> bool:
        """High enough and right above it, or on the way down and not yet too far off."""
        near, turned = (0.015, 0.25) if self.lifted_to < -0.02 else (0.006, 0.08)
        return self.beside_goal < near and abs(self.turn_left) < turned

    @property
    def set_down(self) -> bool:
        """The fingers are at a block that is where it belongs, or that is not wanted and stands on the table."""
        placed = any(
            self.blocks[top].rests_on(self.blocks[base])
            and (self.fingers[top] > 0 or np.linalg.norm(self.p - self.blocks[top].p) < 0.02)
            for top, base in TOWER
        )
        aside = False
        if self.held is not None and self.blocks[self.held].bottom < TABLE_TOP_M + 0.003:
            move = self._next_move()
            unwanted = move is None or move[0] != self.held
            aside = self.beside_goal < 0.02 if self.is_crooked else unwanted
        return placed or aside


def _rise(v: BlocksView) -> Waypoint:
    height = max(block.top for block in v.blocks.values()) + FINGERTIP_M + 0.04
    return Waypoint(pose(hand_rotation(np.pi / 2, v.yaw), (v.p[0], v.p[1], height)), OPEN_M, speed=0.18)


def _move(v: BlocksView, xy: Array, bottom: float, turn: float, speed: float) -> Waypoint:
    """The held block's centre to ``xy`` (2,), its lowest corner to ``bottom``, turned by ``turn``."""
    p_block = np.array([xy[0], xy[1], v.block.p[2] + bottom - v.block.bottom])
    T = pose(hand_rotation(np.pi / 2, v.yaw + turn), p_block + turn_z(turn) @ (v.p - v.block.p))
    return Waypoint(T, CLOSED_M, speed, angular_speed=1.2)


def _lower(v: BlocksView) -> Waypoint:
    bottom = v.move.goal[2] - HALF_M
    high = v.block.bottom > bottom + 0.02
    return _move(v, v.move.goal[:2], bottom + (0.012 if high else -0.004), v.turn_left, 0.14 if high else 0.05)


def _carry(v: BlocksView, p: Array, turn: float, speed: float) -> Waypoint:
    """The held block over p (3,), above all others."""
    return _move(v, p[:2], v.carry_bottom, turn, speed)


PHASES: tuple[Phase[BlocksView], ...] = (
    # A block stands where it should: let go of it.
    Phase("release", lambda v: v.set_down and v.hand.gripper_ramp > -0.999, still(OPEN_M)),
    # A block is between the fingers: up, over its goal, and down.
    Phase("close", lambda v: v.held is not None and not v.hand.is_closed, still(CLOSED_M)),
    Phase("lower", lambda v: v.held is not None and v.over_goal, _lower),
    Phase("lift", lambda v: v.held is not None and v.lifted_to < -0.012, lambda v: _carry(v, v.block.p, 0.0, 0.18)),
    Phase("carry", lambda v: v.held is not None, lambda v: _carry(v, v.move.goal, v.turn_left, 0.22)),
    # The hand is empty: above the next block, straight down, and close.
    Phase("withdraw", lambda v: v.job is None, _rise),
    Phase("close", lambda v: v.reach.there, lambda v: Waypoint(v.reach.grasp, CLOSED_M, speed=0.03)),
    Phase("approach", lambda v: v.reach.lined_up, lambda v: Waypoint(v.reach.grasp, OPEN_M, speed=0.14)),
    Phase("rise", lambda v: v.beside_block, _rise),
    Phase("reach", lambda v: True, lambda v: Waypoint(v.pregrasp, OPEN_M, speed=0.22, angular_speed=1.2)),
)


def others(blocks: Mapping[str, Block], name: str) -> list[Block]:
    """All blocks but one."""
    return [block for other, block in blocks.items() if other != name]


def clearance(block: Block, hand_yaw: float, neighbours: Iterable[Block]) -> float:
    """Metres between the open hand around a block and its neighbours, seen from above; negative where they meet."""
    ux, uy = -np.sin(hand_yaw), np.cos(hand_yaw)
    x, y, z = (float(v) for v in block.p)
    near, far = FINGER_SWEEP_M
    middle, finger = (near + far) / 2, ((far - near) / 2, FINGER_HALF_M)
    found = [1.0]
    for other in neighbours:
        if other.bottom > z + HALF_M:
            continue
        parts = [(x + middle * ux, y + middle * uy, finger), (x - middle * ux, y - middle * uy, finger)]
        if other.top > z + GRASP_UP_M + PALM_UP_M - 0.005:
            parts.append((x, y, PALM_HALF_M))
        # The fingers' axis is the hand's y at yaw 0.
        found += [
            _separation((px, py), hand_yaw + np.pi / 2, half, other.p, other.yaw, (HALF_M, HALF_M))
            for px, py, half in parts
        ]
    return min(found)


def outside(p_world: Array, block: Block) -> float:
    """Metres from a point (3,) to a block, 0 inside it."""
    p_block = block.T[:3, :3].T @ (p_world - block.p)
    return float(np.linalg.norm(np.maximum(np.abs(p_block) - HALF_M, 0.0)))


def gap(a: Block, b: Block) -> float:
    """Metres between two blocks, seen from above; at most the true distance."""
    return _separation(a.p, a.yaw, (HALF_M, HALF_M), b.p, b.yaw, (HALF_M, HALF_M))


Pair = tuple[float, float]


def _separation(p: Pair | Array, yaw_p: float, half_p: Pair, q: Pair | Array, yaw_q: float, half_q: Pair) -> float:
    """The widest gap between two rectangles along their sides' directions (separating axes)."""
    dx, dy = float(q[0] - p[0]), float(q[1] - p[1])
    cp, sp, cq, sq = np.cos(yaw_p), np.sin(yaw_p), np.cos(yaw_q), np.sin(yaw_q)
    axes_p, axes_q = ((cp, sp), (-sp, cp)), ((cq, sq), (-sq, cq))
    widest = -1.0
    for nx, ny in axes_p + axes_q:
        reach = sum(
            half * abs(ax * nx + ay * ny)
            for axes, halves in ((axes_p, half_p), (axes_q, half_q))
            for (ax, ay), half in zip(axes, halves, strict=True)
        )
        widest = max(widest, abs(dx * nx + dy * ny) - reach)
    return float(widest)
