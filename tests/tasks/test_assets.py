"""Scene and hands of a task are packed and measured once, and anew where what was kept is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.rendering import hand, scene
from geo4d_bench.tasks.assets import packed_assets
from geo4d_bench.tasks.store_cereal import StoreCereal


def test_they_are_kept_and_made_anew_where_they_are_damaged(
    task: StoreCereal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, made = scene.pack_scene("<mujoco/>"), []
    square = HandModel(np.eye(3), np.eye(3), np.zeros(3, np.uint8), np.eye(3)[1], 0.08)
    monkeypatch.setattr(scene, "pack_scene", lambda *_, **__: made.append("scene") or small)
    monkeypatch.setattr(hand, "hand_model", lambda *_: made.append("hand") or square)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def assets() -> list[str]:
        """What of them was made now."""
        made.clear()
        packed, hands = packed_assets(task, task.spec.arms)
        assert packed == small
        np.testing.assert_array_equal(hands["right"].points, square.points)
        return list(made)

    assert assets() == ["scene", "hand"]
    assert assets() == []
    for suffix, again in (("zip", "scene"), ("npz", "hand")):
        (path,) = tmp_path.rglob(f"*.{suffix}")
        path.write_bytes(path.read_bytes()[:-30])
        assert assets() == [again]
        assert assets() == []
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")  # where nothing can be written
    assert assets() == assets() == ["scene", "hand"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert assets() == assets() == ["scene", "hand"]


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
