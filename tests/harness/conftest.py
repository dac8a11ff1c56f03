"""One real simulation for the harness's tests, made once; episodes are cut short where their end does not matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from geo4d_bench.harness.simulator import Simulator, Stage
from geo4d_bench.harness.stage import make_stage
from geo4d_bench.harness.views import Views, resolve
from geo4d_bench.tasks import make
from geo4d_bench.tasks.base import Task
from geo4d_bench.tasks.rigs import make_rig


@pytest.fixture(scope="session")
def task() -> Task:
    return make("store_cereal")


@pytest.fixture(scope="session")
def views(task: Task) -> Callable[[str], Views]:
    rig = make_rig("hemisphere16", task.spec.workspace)
    return lambda name: resolve(name, rig)


@pytest.fixture(scope="session")
def blind_stage(task: Task) -> Stage:
    return make_stage(task)


@pytest.fixture(scope="session")
def stage(blind_stage: Stage) -> Stage:
    from geo4d_bench.rendering.renderer import Renderer

    return dataclasses.replace(blind_stage, renderer=Renderer(blind_stage.scene, 48, 60))


@pytest.fixture
def simulator(task: Task, views: Callable[[str], Views], stage: Stage) -> Simulator:
    return Simulator(task, "eval", views("novel"), stage)


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of one second, in this process."""
    from geo4d_bench.tasks.store_cereal import StoreCereal

    monkeypatch.setattr(StoreCereal, "spec", dataclasses.replace(StoreCereal.spec, max_seconds=1.0))
