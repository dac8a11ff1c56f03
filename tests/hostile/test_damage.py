"""1,000 damaged or odd files over all readers: each is refused in a sentence, or reads as the whole one does.

Every sixth of them is tried always, all with ``-m exhaustive``. ``GEO4D_HOSTILE=10`` damages ten times as many.
``GEO4D_HOSTILE_SEED`` chooses how; what fails is printed with its number, and ``python tests/hostile/damage.py FOLDER 1
SEED NUMBER`` reads that one alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = int(os.environ.get("GEO4D_HOSTILE", "1"))
SEED = os.environ.get("GEO4D_HOSTILE_SEED", "0")
FILES = 1000 * TIMES


@pytest.mark.timeout(900 * TIMES)
@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_no_damaged_file_is_read_as_if_nothing_were(tmp_path: Path, step: int) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("damage.py"), tmp_path, str(FILES), SEED, "0", str(step)],
        capture_output=True, text=True, errors="replace", check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"},
    )  # fmt: skip
    assert done.returncode == 0, f"seed {SEED}\n{done.stdout[-20000:]}\n{done.stderr[-3000:]}"
    print(done.stdout)
    counts = {what: int(count) for what, count in re.findall(r"(refused|equal|other) (\d+)", done.stdout)}
    assert sum(counts.values()) == len(range(0, FILES, step))
    assert counts["refused"] > 0.6 * sum(counts.values())
