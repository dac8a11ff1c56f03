"""Names of tasks: versions, suggestions, and no heavy import before a task is made."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geo4d_bench import tasks
from geo4d_bench.errors import UnknownNameError


def test_a_task_is_found_with_and_without_its_version() -> None:
    assert "store_cereal" in tasks.names()
    assert tasks.spec("store_cereal") is tasks.spec("store_cereal-v1")
    assert tasks.spec("store_cereal").key == "store_cereal-v1"
    assert tasks.spec("store_cereal-v2").key == "store_cereal-v2"
    assert tasks.spec("store_cereal-v2").id == "store_cereal"


@pytest.mark.parametrize("name", ["store_cerael", "store_cereal-v9", "cereal"])
def test_a_misspelt_task_gets_a_suggestion(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no task '{name}'.*store_cereal"):
        tasks.make(name)


def test_listing_tasks_imports_neither_robosuite_nor_mujoco() -> None:
    code = (
        "import sys, gymnasium, geo4d_bench.tasks as t; [t.spec(n) for n in t.names()];"
        "gymnasium.spec('geo4d/StoreCereal-v1');"
        "sys.exit(any(m in sys.modules for m in ('robosuite', 'mujoco', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_making_a_task_prints_nothing() -> None:
    code = "import geo4d_bench.tasks as t; t.make('store_cereal')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
