"""A task's packed scene and its hands, kept between commands because simplifying meshes takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geo4d_bench.errors import DatasetError
from geo4d_bench.fingerprint import fingerprint
from geo4d_bench.io import read_file, read_zip, write_atomic
from geo4d_bench.tasks.robosuite_task import RobosuiteTask

if TYPE_CHECKING:
    from geo4d_bench.geometry.hand import HandModel


def packed_assets(task: RobosuiteTask, arms: Sequence[str]) -> tuple[bytes, dict[str, HandModel]]:
    """The packed scene of a task's present model, and the hands of these arms.

    They are kept in ``$XDG_CACHE_HOME/geo4d-bench`` or ``~/.cache/geo4d-bench`` under a hash of the MJCF and of our own
    source, so that they are never out of date; a cache that cannot be written or read costs time only.
    """
    from geo4d_bench.dataset.hands import load_hand, save_hand
    from geo4d_bench.rendering.hand import hand_model
    from geo4d_bench.rendering.scene import load_scene, pack_scene

    xml = task.scene_xml()
    key = hashlib.sha256(f"{fingerprint()}\0{task.spec.arms}\0{xml}".encode()).hexdigest()[:32]
    cache = _cache()
    path = cache / "scenes" / f"{key}.zip"
    try:
        packed = read_file(path)
        read_zip(packed)
    except (OSError, ValueError):
        packed = pack_scene(xml, arms=task.spec.arms)
        with contextlib.suppress(OSError):
            write_atomic(path, packed)
    hands: dict[str, HandModel] = {}
    for arm in arms:
        path = cache / "hands" / f"{key}-{arm}.npz"
        try:
            hands[arm] = load_hand(path)
        except DatasetError:
            hands[arm] = hand_model(load_scene(packed), arm)
            with contextlib.suppress(OSError):
                save_hand(path, hands[arm])
    return packed, hands


def _cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geo4d-bench"
    except RuntimeError:  # a user without a home; here nothing can be kept
        return Path(os.devnull) / "geo4d-bench"
