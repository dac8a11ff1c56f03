"""The assets of a task: its packed scene and its hand, kept between calls because simplifying meshes takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geo4d_bench.errors import DatasetError, SceneError
from geo4d_bench.fingerprint import fingerprint
from geo4d_bench.io import write_atomic

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
    """The assets of a task's present model, for rooms of that set, without a renderer: nothing here needs OpenGL.

    Scene and hand are kept in ``$XDG_CACHE_HOME/geo4d-bench`` or ``~/.cache/geo4d-bench`` under a hash of the MJCF and
    of our own source, so that they are never out of date; a cache that cannot be written or read costs time only.
    """
    from geo4d_bench.dataset.hands import load_hand, save_hand
    from geo4d_bench.rendering.hand import hand_model
    from geo4d_bench.rendering.rooms import load_scene_for
    from geo4d_bench.rendering.scene import load_scene, pack_scene

    arms, xml = task.spec.arms, task.scene_xml()
    key = hashlib.sha256(f"{fingerprint()}\0{arms}\0{xml}".encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geo4d-bench"
    scene_path, hand_path = cache / "scenes" / f"{key}.zip", cache / "hands" / f"{key}.npz"
    source: Path | bytes = scene_path
    try:
        scene = load_scene_for(source, rooms)
    except SceneError:
        source = pack_scene(xml, arms=arms)
        scene = load_scene_for(source, rooms)
        with contextlib.suppress(OSError):
            write_atomic(scene_path, source)
    try:
        hand = load_hand(hand_path)
    except DatasetError:
        hand = hand_model(load_scene(source), arms[0])  # which is that of every arm
        with contextlib.suppress(OSError):
            save_hand(hand_path, hand)
    return RenderAssets(scene, hand, None)
