"""One simulation for all tests of the task: building it costs seconds, resetting it milliseconds."""

from __future__ import annotations

import pytest

from geo4d_bench import tasks
from geo4d_bench.tasks.store_cereal import StoreCereal


@pytest.fixture(scope="session")
def task() -> StoreCereal:
    made = tasks.make("store_cereal")
    assert isinstance(made, StoreCereal)
    return made
