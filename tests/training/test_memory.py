"""Freed memory is kept for the next step."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys, torch
from geo4d_bench.training.memory import keep_freed_memory

def step():
    torch.ones(16 << 20)  # 64 MiB

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(30):  # until the heap has a place for it
    step()
before = faults()
for _ in range(5):
    step()
print((faults() - before) * resource.getpagesize() / 2**20 / 5)
"""
STEP_MIB = 64


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_freed_memory_is_not_asked_of_the_system_again() -> None:
    given_back, kept = (
        float(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("default", "keep")
    )
    assert given_back > 0.9 * STEP_MIB
    assert kept < 0.1 * STEP_MIB
