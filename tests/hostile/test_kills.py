"""SIGKILLs at random moments to commands that write: typed again, they make what they would have made.

15 in all, 100 with ``-m exhaustive``. ``GEO4D_HOSTILE=10`` kills ten times as often. ``GEO4D_HOSTILE_SEED`` chooses the
moments; they are printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = int(os.environ.get("GEO4D_HOSTILE", "1"))
SEED = os.environ.get("GEO4D_HOSTILE_SEED", "0")
COMMANDS = ("datagen", "train", "rollout", "export")
KILLS = [(2, 2, 3, 8), pytest.param((8, 6, 22, 64), marks=pytest.mark.exhaustive)]
"""How often each command is killed."""


@pytest.fixture(scope="module", params=KILLS, ids=sum)
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """How often each command was to be killed, and what became of it, by its name."""
    kills = {command: number * TIMES for command, number in zip(COMMANDS, request.param, strict=True)}
    numbers = [word for pair in kills.items() for word in map(str, pair)]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), tmp_path_factory.mktemp("kills"), SEED, *numbers],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"},
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = done.stdout.split("outcome of ")[1:]
    became = {part.partition(":")[0]: part.partition(": ")[2].strip() for part in parts}
    return {command: (number, became[command]) for command, number in kills.items()}


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_was_killed_again_and_again_loses_nothing(
    outcomes: dict[str, tuple[int, str]], command: str
) -> None:
    kills, became = outcomes[command]
    assert became.startswith(f"killed {kills} times, finished "), became
