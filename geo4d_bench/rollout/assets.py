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
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import Scene
    from geo4d_bench.tasks.base import Task


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


def make_assets(task: Task) -> RenderAssets:
    """The assets of a task's present model, without a renderer: nothing here needs OpenGL.

    Scene and hand are kept in the user's cache under a hash of the MJCF and of our own source, so that they are never
    out of date; a cache that cannot be written or read costs time and nothing else.
    """
    arms, xml = task.spec.arms, task.scene_xml()
    key = hashlib.sha256(f"{fingerprint()}\0{arms}\0{xml}".encode()).hexdigest()[:32]
    scene = _cached_scene(cache_folder() / "scenes" / f"{key}.zip", xml, arms)
    return RenderAssets(scene, _cached_hand(cache_folder() / "hands" / f"{key}.npz", scene), None)


def _cached_scene(path: Path, xml: str, arms: tuple[str, ...]) -> Scene:
    from geo4d_bench.rendering.scene import load_scene, pack_scene

    with contextlib.suppress(SceneError):
        return load_scene(path)
    bundle = pack_scene(xml, arms=arms)
    with contextlib.suppress(OSError):
        write_atomic(path, bundle.data)
    return load_scene(bundle)


def _cached_hand(path: Path, scene: Scene) -> HandModel:
    """The first arm's hand, which is that of every arm."""
    from geo4d_bench.dataset.hands import load_hand, save_hand
    from geo4d_bench.rendering.hand import hand_model

    with contextlib.suppress(DatasetError):
        return load_hand(path)
    hand = hand_model(scene, scene.arms[0])
    with contextlib.suppress(OSError):
        save_hand(path, hand)
    return hand


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/geo4d-bench``, or ``~/.cache/geo4d-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geo4d-bench"
