"""A small real dataset that the tests of several packages share."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from geo4d_bench.geometry import Rig

os.environ.setdefault("MUJOCO_GL", "egl")  # before a test imports mujoco: test machines have no screen
sys.path.insert(0, str(Path(__file__).parent))  # two_arms.py is there for the tests of several packages


@dataclass(frozen=True)
class TinyDataset:
    """Folders of a real dataset: 2 ``train`` and 1 ``eval`` episodes, 2 seen and 2 novel cameras, 64x80.

    Training episode 1 is a disturbed one. Shared by all tests of a run: read it, never write to it.
    """

    train: Path
    eval: Path


@pytest.fixture(scope="session")
def tiny_rig() -> Rig:
    """Two seen and two novel cameras of ``hemisphere16``, the seen ones on one side of the shelf."""
    return _tiny_rig("store_cereal")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_rig: Rig) -> TinyDataset:
    """Made once a run by the real datagen (about 20 s of one core)."""
    return _datagen("store_cereal", tiny_rig, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def two_arms() -> Iterator[str]:
    """The id of the two-armed task of ``two_arms.py``, which is registered for one test only."""
    with _two_arms_registered() as task:
        yield task


@pytest.fixture(scope="session")
def two_arms_dataset(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """Made once a run by the real datagen (about 12 s of one core)."""
    with _two_arms_registered() as task:
        return _datagen(task, _tiny_rig(task), tmp_path_factory.mktemp("two_arms"))


@contextmanager
def _two_arms_registered() -> Iterator[str]:
    from two_arms import TwoArms

    from geo4d_bench.tasks import TASKS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS._entries, TwoArms.spec.id, TwoArms)
        yield TwoArms.spec.id


def _tiny_rig(task: str) -> Rig:
    from geo4d_bench.tasks import spec
    from geo4d_bench.tasks.rigs import make_rig

    whole = make_rig("hemisphere16", spec(task).workspace)
    return Rig("tiny4", whole.views("seen")[:2] + whole.views("novel")[:2], whole.target)


def _datagen(task: str, rig: Rig, root: Path) -> TinyDataset:
    from geo4d_bench.datagen.job import DatagenConfig, make_dataset, settings_of

    made = TinyDataset(root / task, root / f"{task}_eval")
    for folder, split, episodes in ((made.train, "train", 2), (made.eval, "eval", 1)):
        config = DatagenConfig(task=task, split=split, disturbed_share=0.5)  # type: ignore[arg-type]
        make_dataset(folder, dataclasses.replace(settings_of(config), rig=rig), episodes)
    return made
