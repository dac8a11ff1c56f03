"""A small real dataset that the tests of several packages share."""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests and the processes that they start share the processors
os.environ.setdefault("MUJOCO_GL", "egl")  # before a test imports mujoco: test machines have no screen

from geo4d_bench.geometry.rig import Rig

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
    return _datagen("store_cereal", tiny_rig, tmp_path_factory)


@pytest.fixture
def two_arms() -> Iterator[str]:
    """The id of the two-armed task of ``two_arms.py``, which is registered for one test only."""
    with _two_arms_registered() as task:
        yield task


@pytest.fixture(scope="session")
def two_arms_dataset(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """Made once a run by the real datagen (about 12 s of one core)."""
    with _two_arms_registered() as task:
        return _datagen(task, _tiny_rig(task), tmp_path_factory)


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


def _datagen(task: str, rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    from geo4d_bench.datagen.job import DatagenConfig, make_dataset, settings_of

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # the processes of a run share it
    made = TinyDataset(root / task, root / f"{task}_eval")
    with (root / f"{task}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read():  # another process made it, and its tests may hold the folders
            return made
        for folder, split, episodes in ((made.train, "train", 2), (made.eval, "eval", 1)):
            config = DatagenConfig(task=task, split=split, disturbed_share=0.5)  # type: ignore[arg-type]
            make_dataset(folder, dataclasses.replace(settings_of(config), rig=rig), episodes)
        lock.write("made")
    return made


MOST_RESIDENT_GIB, MOST_VIRTUAL_GIB = 3.0, 8.0
"""Of each process that runs tests, so that they pass on a machine with 8 GB."""
_PEAKS = pytest.StashKey[list[tuple[float, float]]]()
_HELD = pytest.StashKey[list[float]]()
"""GiB that were resident when memory was last given back."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of pytest-xdist: one of the processes has ended."""
    if (peaks := getattr(node, "workeroutput", {}).get("peaks_gib")) is not None:  # else it crashed
        node.config.stash.setdefault(_PEAKS, []).append(tuple(peaks))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Give back what a test's simulations held, which refer to themselves and take 100 MB each, and its threads:
    two of them that wait for each other on busy processors take many times as long as one."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    held = item.config.stash.setdefault(_HELD, [0.0])
    if psutil.Process().memory_info().rss / 2**30 > held[0] + 0.15:
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        held[0] = psutil.Process().memory_info().rss / 2**30


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a process took more memory than a small machine can give."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peaks_gib"] = _peaks_gib()
        return
    for resident, virtual in session.config.stash.get(_PEAKS, [_peaks_gib()]):
        print(f"\ntests held at most {resident:.1f} GiB and mapped {virtual:.1f} GiB in a process")
        if resident > MOST_RESIDENT_GIB or virtual > MOST_VIRTUAL_GIB:
            print(f"that is more than {MOST_RESIDENT_GIB:.0f} and {MOST_VIRTUAL_GIB:.0f} GiB")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _peaks_gib() -> tuple[float, float]:
    """Resident and virtual memory of this process; 0 where the system does not tell. A CUDA build of torch maps
    gigabytes of libraries by itself, so that its virtual memory counts as 0."""
    torch = sys.modules.get("torch")
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0, 0.0
    peaks = {line.split()[0]: int(line.split()[1]) / 2**20 for line in status.splitlines() if line.startswith("Vm")}
    cuda = torch is not None and torch.version.cuda is not None
    return peaks.get("VmHWM:", 0.0), 0.0 if cuda else peaks.get("VmPeak:", 0.0)
