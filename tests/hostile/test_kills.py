"""100 SIGKILLs in all, at random moments, to commands that write: typed again, they make what they would have made.

``GEO4D_HOSTILE=10`` kills ten times as often. ``GEO4D_HOSTILE_SEED`` chooses the moments; they are printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = int(os.environ.get("GEO4D_HOSTILE", "1"))
SEED = os.environ.get("GEO4D_HOSTILE_SEED", "0")
KILLS = {"datagen": 8, "train": 6, "rollout": 22, "export": 64}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each command, by its name."""
    numbers = [word for command, kills in KILLS.items() for word in (command, str(kills * TIMES))]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), tmp_path_factory.mktemp("kills"), SEED, *numbers],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"},
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = done.stdout.split("outcome of ")[1:]
    return {part.partition(":")[0]: part.partition(": ")[2].strip() for part in parts}


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.parametrize("command", KILLS)
def test_a_command_that_was_killed_again_and_again_loses_nothing(outcomes: dict[str, str], command: str) -> None:
    assert outcomes[command].startswith(f"killed {KILLS[command] * TIMES} times, finished "), outcomes[command]
