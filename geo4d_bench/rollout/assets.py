"""The assets of a task: its scene and its hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from geo4d_bench.tasks.assets import packed_assets

if TYPE_CHECKING:
    from geo4d_bench.geometry.hand import HandModel
    from geo4d_bench.geometry.room import RoomsName
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import Scene
    from geo4d_bench.tasks import Task


@dataclass(frozen=True)
class RenderAssets:
    """What the simulations of a process share: the scene to render, and the hand that policies are told of.

    Attributes:
        scene: the task's packed scene.  hand: its hand's surface.
        renderer: at the images' size; None where nothing is rendered.
    """

    scene: Scene
    hand: HandModel
    renderer: Renderer | None


def make_assets(task: Task, rooms: RoomsName = "fixed") -> RenderAssets:
    """The assets of a task's present model, for rooms of that set, without a renderer: nothing here needs OpenGL."""
    from geo4d_bench.rendering.rooms import load_scene_for

    arm = task.spec.arms[0]  # whose hand is that of every arm
    packed, hands = packed_assets(task, (arm,))
    return RenderAssets(load_scene_for(packed, rooms), hands[arm], renderer=None)
