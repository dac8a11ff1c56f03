"""StackBlocks: build a tower of three out of four wooden blocks that only their colours tell apart.

The world's x axis points from the robot over the table, y to the robot's left, z up.
"""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import numpy as np

from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.tasks.base import ArmSetup, Expert, Spawn, TaskSpec
from geo4d_bench.tasks.disturbance import Push
from geo4d_bench.tasks.mjcf import FIRM, SEEN, legs, text, textured
from geo4d_bench.tasks.reactive import ReactiveExpert
from geo4d_bench.tasks.robosuite_task import RobosuiteTask
from geo4d_bench.tasks.stack_blocks_expert import (
    BLOCKS,
    BLUE,
    GREEN,
    HALF_M,
    PHASES,
    RED,
    ROOM_M,
    SPAWN_X_M,
    SPAWN_Y_M,
    TABLE_TOP_M,
    TOWER,
    YELLOW,
    Block,
    BlocksView,
    clearance,
    gap,
    others,
    outside,
)  # fmt: skip

ARM = "right"
PAINT = {RED: "0.95 0.20 0.20 1", BLUE: "0.18 0.38 0.98 1", GREEN: "0.16 0.72 0.28 1", YELLOW: "1 0.86 0.16 1"}

CHAMFER_M = 0.0025  # how far a block's edges are cut off where it is seen
TABLE_HALF_M = (0.28, 0.36)

SPEC = TaskSpec(
    id="stack_blocks",
    version="v1",
    language="put the red block on the blue block and the green block on top of the red block",
    arms=(ARM,),
    control_hz=20.0,
    max_seconds=50.0,
    phases=(
        "reached",
        "grasped",  # some block: an episode that ends here took the wrong one
        "red_grasped",
        "red_lifted",
        "red_over_blue",
        "red_stacked",
        "next_grasped",  # some other block than red and blue
        "green_grasped",
        "green_lifted",
        "green_over_red",
        "task",
    ),
    closed_below_m=0.062,  # open is 0.08, a block is 0.042 thick
    workspace=(0.0, 0.0, TABLE_TOP_M + 0.08),
    objects=BLOCKS,
    # A tenth of a millimetre above the table: they settle without a first deep contact.
    spawn=tuple(Spawn(block, SPAWN_X_M, SPAWN_Y_M, TABLE_TOP_M + HALF_M + 1e-4, (-np.pi, np.pi)) for block in BLOCKS),
)

# What counts.
REACH_M = 0.02  # the hand counts as there when the grip site is this near to a block
GRASP_M = 0.01  # a block is between the fingers when their opening is this near to its thickness
LIFT_M = 0.03  # a block counts as lifted when it is this far above the table
OVER_M = 0.025  # a held block is over another this near to the place on top of it: dropped from higher does not count
WITHDRAWN_M = 0.04  # the hand is withdrawn when the grip site is this far above the tower


class StackBlocks(RobosuiteTask):
    """One Panda at a table; geometry does not tell the blocks apart, so colour has to stay bound to it."""

    spec = SPEC
    # The hand starts above the near half of the table and points straight down.
    arms: ClassVar = {ARM: ArmSetup((-0.61, 0.0, 0.0), (0.0, 0.14, 0.0, -2.29, 0.0, 2.43, 0.785))}

    def world(self) -> str:
        from geo4d_bench.tasks.simulation import texture_file

        x, y = TABLE_HALF_M
        leg_x, leg_y = x - 0.03, y - 0.03
        stand = legs((-leg_x, leg_x), (-leg_y, leg_y), (TABLE_TOP_M - 0.03) / 2, 'material="leg"')
        blocks = "".join(
            f'<body name="{block}"><freejoint/>'
            f'<geom type="box" size="{HALF_M} {HALF_M} {HALF_M}" group="0" density="700" '
            f'friction="0.8 0.005 0.0001" {FIRM}/><geom type="mesh" mesh="block" material="{block}" {SEEN}/></body>'
            for block in BLOCKS
        )
        paints = "".join(
            f'<material name="{block}" texture="tex-block" rgba="{rgba}" specular="0.2" shininess="0.3"/>'
            for block, rgba in PAINT.items()
        )
        return f"""
        <mujoco>
          <asset>
            {textured("table", "gray-woodgrain.png", 3, 'specular="0.1"')}
            <texture type="cube" name="tex-block" file="{texture_file("gray-woodgrain.png")}"/>
            <material name="leg" rgba="0.75 0.74 0.72 1" specular="0.1"/>
            <mesh name="block" vertex="{_chamfered_cube()}"/>
            {paints}
          </asset>
          <worldbody>
            <body name="table">
              <geom name="table_top" type="box" size="{x} {y} 0.015" pos="0 0 {TABLE_TOP_M - 0.015}" group="1"
                    material="table" friction="0.8 0.005 0.0001" {FIRM}/>
              {stand}
            </body>
            {blocks}
          </worldbody>
        </mujoco>"""

    def unmet(self) -> str | None:
        blocks = {name: Block(T) for name, T in self.object_poses().items()}
        # Blue as high as it will be when green is taken.
        tower = blocks | {RED: Block(pose(blocks[BLUE].T[:3, :3], blocks[BLUE].top_centre))}
        for name, standing in ((RED, blocks), (GREEN, tower)):
            if max(clearance(blocks[name], yaw, others(standing, name)) for yaw in blocks[name].hand_yaws) < ROOM_M:
                return f"the open hand does not fit around the {name.replace('_', ' ')}"
        if min(gap(blocks[YELLOW], blocks[other]) for other in BLOCKS[:3]) < HALF_M:
            return "the yellow block is too near to another"
        return None

    def failure(self) -> str | None:
        for name, T in self.object_poses().items():
            if name == YELLOW:
                continue
            x, y, z = T[:3, 3]
            if z < TABLE_TOP_M - 0.05:
                return f"the {name.replace('_', ' ')} has fallen off the table"
            if not (-0.24 < x < 0.22 and abs(y) < 0.30):
                return f"the {name.replace('_', ' ')} is out of reach"
        return None

    def update_phases(self, done: dict[str, bool]) -> None:
        view = BlocksView(self.scene(), ARM)
        blocks = view.blocks
        between = abs(view.hand.opening_m - 2 * HALF_M) < GRASP_M
        held = {name for name in BLOCKS if between and view.fingers[name] == 2}
        high = {name for name in held if blocks[name].bottom > TABLE_TOP_M + LIFT_M}
        off = {top: np.linalg.norm(blocks[top].p - blocks[base].top_centre) for top, base in TOWER}
        over = {name for name in high if name in off and off[name] < OVER_M}
        red_rests = blocks[RED].rests_on(blocks[BLUE]) and view.fingers[RED] == 0
        green_rests = blocks[GREEN].rests_on(blocks[RED]) and view.fingers[GREEN] == 0
        self.advance(
            done,
            reached=min(outside(view.p, block) for block in blocks.values()) < REACH_M,
            grasped=held,
            red_grasped=RED in held,
            red_lifted=RED in high,
            red_over_blue=RED in over,
            red_stacked=red_rests and self.at_rest(RED),
            next_grasped=held & {GREEN, YELLOW},
            green_grasped=GREEN in held,
            green_lifted=GREEN in high,
            green_over_red=GREEN in over,
            task=red_rests
            and green_rests
            and all(self.at_rest(name) for name in (RED, BLUE, GREEN))
            and view.p[2] > blocks[GREEN].top + WITHDRAWN_M,
        )

    def expert(self) -> Expert:
        return ReactiveExpert(self.scene, BlocksView, {ARM: PHASES}, SPEC.control_hz)

    def choose_pushes(self, rng: np.random.Generator) -> tuple[Push, ...]:
        view = BlocksView(self.scene(), ARM)
        job, held = view.job, view.held
        if held is not None and job is not None and view.hand.is_closed:
            block = view.blocks[held]
            low = TABLE_TOP_M + 0.005 < block.bottom < TABLE_TOP_M + 0.09
            alone = all(np.hypot(*(block.p - other.p)[:2]) > 0.075 for other in others(view.blocks, held))
            if low and alone and rng.random() < 0.7:
                return self.force_open(ARM, "block_slipped")
        elif job is not None and not any(view.fingers.values()):
            chosen = [name for name in (job.block, BLUE) if outside(view.p, view.blocks[name]) > 0.06]
            chosen = [name for name in chosen if abs(view.blocks[name].p[2] - TABLE_TOP_M - HALF_M) < 0.003]
            chosen = [name for name in chosen if not any(b.is_above(view.blocks[name]) for b in view.blocks.values())]
            slides = [(name, way) for name in chosen for way in _free_ways(view, name)]
            if slides and rng.random() < 0.6:
                name, way = slides[int(rng.integers(len(slides)))]
                # Pushed low, so that it slides and does not tumble.
                return (self.push_object(name, "block_nudged", way, 2.0, -0.8 * HALF_M),)
            if view.blocks[RED].rests_on(view.blocks[BLUE]) and outside(view.p, view.blocks[RED]) > 0.08:
                ways = _free_ways(view, BLUE, 0.10)
                if ways and rng.random() < 0.5:
                    way = ways[int(rng.integers(len(ways)))]
                    return (self.push_object(RED, "tower_knocked", way, 2.0, 0.0),)
        elif job is None or any(view.blocks[n].rests_on(view.blocks[b]) and view.fingers[n] for n, b in TOWER):
            return ()  # letting go: a push would throw the tower over
        # Sideways and up, as whoever passes bumps into an arm; never into the table.
        way = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.2, 1)])
        return (self.push_hand(ARM, way, rng.uniform(0.05, 0.10)),)


def _free_ways(view: BlocksView, name: str, distance_m: float = 0.05) -> list[Array]:
    """Offsets (2,) by which a block can be pushed and then still be grasped, of eight directions."""
    block, around = view.blocks[name], others(view.blocks, name)
    found = []
    for angle in np.arange(8) * np.pi / 4:
        way = distance_m * np.array([np.cos(angle), np.sin(angle)])
        T = block.T.copy()
        T[:2, 3] += way
        room = all(np.hypot(*(T[:2, 3] - other.p[:2])) > 0.09 for other in around)
        if room and SPAWN_X_M[0] < T[0, 3] < SPAWN_X_M[1] and SPAWN_Y_M[0] < T[1, 3] < SPAWN_Y_M[1]:
            found.append(way)
    return found


def _chamfered_cube() -> str:
    """Vertices of a block with its edges cut off; MuJoCo takes their convex hull."""
    flat = HALF_M - CHAMFER_M
    corners = {
        tuple(np.roll((side * HALF_M, u * flat, v * flat), axis))
        for axis in range(3)
        for side, u, v in product((-1, 1), repeat=3)
    }
    return text(np.round(sorted(corners), 5).ravel())
