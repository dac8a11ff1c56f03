"""The stage of a task: its packed scene and its hand, kept between calls because simplifying meshes takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from geo4d_bench.errors import SceneError
from geo4d_bench.fingerprint import fingerprint
from geo4d_bench.harness.simulator import Stage

if TYPE_CHECKING:
    from geo4d_bench.rendering.scene import Scene
    from geo4d_bench.tasks.base import Task


def make_stage(task: Task) -> Stage:
    """The stage of a task's present model, without a renderer: nothing here needs OpenGL."""
    from geo4d_bench.rendering.hand import hand_model

    scene = _cached_scene(task.scene_xml(), task.spec.arms)
    return Stage(scene, hand_model(scene, task.spec.arms[0]), None)


def _cached_scene(xml: str, arms: tuple[str, ...]) -> Scene:
    """Pack and load a scene. The zip is kept in the user's cache under a hash of the MJCF and of our own source, so
    that it is never out of date; a cache that cannot be written or read costs time and nothing else."""
    from geo4d_bench.rendering.scene import load_scene, pack_scene

    key = hashlib.sha256(f"{fingerprint()}\0{arms}\0{xml}".encode()).hexdigest()[:32]
    path = cache_folder() / "scenes" / f"{key}.zip"
    with contextlib.suppress(SceneError):
        return load_scene(path)
    bundle = pack_scene(xml, arms=arms)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{key}.{os.getpid()}")
        fresh.write_bytes(bundle.data)
        fresh.replace(path)
    return load_scene(bundle)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/geo4d-bench``, or ``~/.cache/geo4d-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geo4d-bench"
