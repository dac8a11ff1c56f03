"""A small real dataset that the tests of several packages share."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from geo4d_bench.geometry import Rig

os.environ.setdefault("MUJOCO_GL", "egl")  # before a test imports mujoco: test machines have no screen


@dataclass(frozen=True)
class TinyDataset:
    """Folders of a real store_cereal dataset: 2 ``train`` and 1 ``eval`` episodes, 2 seen and 2 novel cameras, 64x80.

    Training episode 1 is a disturbed one. Shared by all tests of a run: read it, never write to it.
    """

    train: Path
    eval: Path


@pytest.fixture(scope="session")
def tiny_rig() -> Rig:
    """Two seen and two novel cameras of ``hemisphere16``, the seen ones on one side of the shelf."""
    from geo4d_bench.tasks import spec
    from geo4d_bench.tasks.rigs import make_rig

    whole = make_rig("hemisphere16", spec("store_cereal").workspace)
    return Rig("tiny4", whole.views("seen")[:2] + whole.views("novel")[:2], whole.target)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_rig: Rig) -> TinyDataset:
    """Made once a run by the real datagen (about 20 s of one core)."""
    from geo4d_bench.datagen.job import DatagenConfig, make_dataset, settings_of

    root = tmp_path_factory.mktemp("tiny")
    made = TinyDataset(root / "store_cereal", root / "store_cereal_eval")
    for folder, split, episodes in ((made.train, "train", 2), (made.eval, "eval", 1)):
        config = DatagenConfig(split=split, disturbed_share=0.5)  # type: ignore[arg-type]
        make_dataset(folder, dataclasses.replace(settings_of(config), rig=tiny_rig), episodes)
    return made
