"""One real simulation for the harness's tests, made once; episodes are cut short where their end does not matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from geo4d_bench.rollout.assets import RenderAssets, make_assets
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.rollout.views import Views, resolve
from geo4d_bench.tasks import Task, make
from geo4d_bench.tasks.rigs import make_rig


@pytest.fixture(scope="session")
def task() -> Task:
    return make("store_cereal")


@pytest.fixture(scope="session")
def views(task: Task) -> Callable[[str], Views]:
    rig = make_rig("hemisphere16", task.spec.workspace)
    return lambda name: resolve(name, rig)


@pytest.fixture(scope="session")
def blind_assets(task: Task) -> RenderAssets:
    return make_assets(task)


@pytest.fixture(scope="session")
def assets(blind_assets: RenderAssets) -> RenderAssets:
    from geo4d_bench.rendering.renderer import Renderer

    return dataclasses.replace(blind_assets, renderer=Renderer(blind_assets.scene, 48, 60))


@pytest.fixture
def simulator(task: Task, views: Callable[[str], Views], assets: RenderAssets) -> Simulator:
    return Simulator(task, "eval", views("novel"), assets)


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of one second, in this process."""
    from geo4d_bench.tasks.store_cereal import StoreCereal

    monkeypatch.setattr(StoreCereal, "spec", dataclasses.replace(StoreCereal.spec, max_seconds=1.0))
