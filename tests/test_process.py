"""What a command sets for its process: memory that is kept, threads that share the processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from geo4d_bench.process import GPU

TESTS = Path(__file__).parent
COUNT_FAULTS = """
import resource, sys, torch
from geo4d_bench.process import keep_freed_memory

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
LIBRARY_CALL = (
    COUNT_FAULTS.split("if sys.argv")[0]
    + f"""
import os
from pathlib import Path
sys.path[:0] = [{str(TESTS / "model")!r}, {str(TESTS / "training")!r}]
def state():
    return {{k: v for k, v in os.environ.items() if "OMP_" in k}}, os.sched_getaffinity(0)
before = state()
from test_train import Made, config, run
run(config(Path(sys.argv[1]) / "run", steps=2, n_validations=1), Made())
assert state() == before
for _ in range(8):
    step()
start = faults()
for _ in range(5):
    step()
print((faults() - start) * resource.getpagesize() / 2**20 / 5)
"""
)
STEP_MIB = 64
OPENMP = """
import os, threading
ALL = len(os.sched_getaffinity(0))
from geo4d_bench import cli, process
from geo4d_bench.training import train

def processors_of_a_thread(prepare):
    found = []
    thread = threading.Thread(target=lambda: (prepare(), found.append(len(os.sched_getaffinity(0)))))
    thread.start()
    thread.join()
    return found[0]

def run(config):
    free = processors_of_a_thread(lambda: process.use_all_processors(process.allowed_processors()))
    variables = [os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_PROC_BIND")]
    return [*variables, len(os.sched_getaffinity(0)) < ALL, free == ALL]

train.run = run
cli.console()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_freed_memory_is_not_asked_of_the_system_again() -> None:
    given_back, kept = (
        float(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("default", "keep")
    )
    assert given_back > 0.9 * STEP_MIB
    assert kept < 0.1 * STEP_MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_a_library_call_that_trains_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY_CALL, str(tmp_path)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.9 * STEP_MIB


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or psutil.cpu_count(logical=False) == 1
    or len(os.sched_getaffinity(0)) == 1
    or GPU.exists(),
    reason="of Linux, with several cores and no GPU",
)
@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, "['10000', None, True, True]"),
        (["--threads", "1"], {}, "['10000', None, False, True]"),
        ([], {"OMP_WAIT_POLICY": "PASSIVE"}, "[None, None, False, True]"),
        ([], {"LOCAL_RANK": "0"}, "['10000', None, False, True]"),
    ],
)
def test_a_training_that_is_alone_keeps_its_threads_on_cores_of_their_own(
    options: list[str], variables: dict[str, str], expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENMP, "train", *options], capture_output=True, text=True, env=environment() | variables
    )
    assert done.stdout.strip() == expected, done.stderr


def environment() -> dict[str, str]:
    """This one without what the suite says of OpenMP."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
